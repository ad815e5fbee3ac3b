"""Every strategy in every stage that takes it: what its row of the capability table promises, holds."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import (
    BOFT,
    DPO,
    GRPO,
    IA3,
    OFT,
    PPO,
    SFT,
    AdaLoRA,
    Adapter,
    Freeze,
    Full,
    GradualUnfreeze,
    LNTuning,
    LoHa,
    LoKr,
    LoRA,
    LoRAGA,
    Pipeline,
    PrefixTuning,
    PromptTuning,
    PTuning,
    QLoRA,
    RewardModel,
    VeRA,
)
from posttrain.errors import SettingError, StrategyError
from posttrain.pipeline import ModelRef
from posttrain.stages.evaluation import logits
from posttrain.stages.strategies import SHIPPED
from tests.stages.words import WORDS, rivers

Rows = list[dict[str, Any]]
# name: (strategy, learning rate of tiny models, bases that PPO holds against a reward model of the same strategy,
# where it can be used there)
STRATEGIES: dict[str, tuple[Any, float, int]] = {
    "full": (Full(), 1e-3, 3),  # the reward model is a whole model of its own
    "freeze": (Freeze(layers=1), 3e-3, 3),
    "gradual": (GradualUnfreeze(every_steps=1, layers=2), 1e-3, 3),
    "lora": (LoRA(r=8), 3e-3, 1),
    "rslora": (LoRA(r=8, variant="rslora"), 3e-3, 1),
    "dora": (LoRA(r=8, variant="dora"), 3e-3, 1),
    "pissa": (LoRA(r=8, init="pissa"), 3e-3, 1),
    "lora-ga": (LoRAGA(r=8), 3e-3, 0),
    "qlora": (QLoRA(r=8), 3e-3, 1),
    "loftq": (QLoRA(r=8, init="loftq"), 3e-3, 0),
    "int8": (QLoRA(r=8, bits=8), 3e-3, 1),
    "adalora": (AdaLoRA(r=6, target_r=3), 1e-2, 3),
    "ia3": (IA3(), 1e-1, 1),
    "vera": (VeRA(r=32), 3e-2, 1),
    "oft": (OFT(block_size=8), 3e-3, 1),
    "boft": (BOFT(block_size=4), 3e-3, 1),
    "loha": (LoHa(r=4), 1e-2, 1),
    "lokr": (LoKr(r=4), 1e-2, 1),
    "lntuning": (LNTuning(), 3e-2, 3),
    "adapter": (Adapter(bottleneck=8), 3e-3, 1),
    "prompt": (PromptTuning(tokens=8), 1e-1, 0),
    "prefix": (PrefixTuning(tokens=8), 3e-2, 0),
    "p-tuning": (PTuning(tokens=8), 3e-3, 0),
}
# One of each mechanism; the others run with the slow tests.
QUICK = ("lora", "pissa", "qlora", "ia3", "adapter", "p-tuning")


def each(names: Iterable[str]) -> Any:
    return pytest.mark.parametrize(
        "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]
    )


every = each(STRATEGIES)
online = each(name for name, (strategy, _, _) in STRATEGIES.items() if strategy.capabilities.online)


def test_every_shipped_strategy_is_here() -> None:
    assert {type(strategy) for strategy, _, _ in STRATEGIES.values()} == set(SHIPPED)


@every
def test_a_chain_of_it(tiny: Callable[..., Pipeline], rows: dict[str, Rows], name: str) -> None:
    """Identity at the start, parameters move, the artifact reads back and merges: the run's own proofs, all taken."""
    strategy, rate, _ = STRATEGIES[name]
    steps = 10 if name == "adalora" else 4
    common: dict[str, Any] = {"max_steps": steps, "learning_rate": rate, "batch_size": 8, "max_length": 128}
    chain = [SFT(strategy, data=rows["chat"], **common), DPO(strategy, data=rows["pairs"], **common)]
    reward_model = RewardModel(strategy, data=rows["pairs"], **common)
    if strategy.capabilities.mergeable:
        chain.insert(1, reward_model)
    else:
        chain[1] = replace(chain[1], handover="continue")
        alone = tiny([reward_model], name="reward").run()
        assert alone["reward_model"].proofs["read_back_difference"] < 1e-3
        assert alone["reward_model"].metrics["loss_after"] < alone["reward_model"].metrics["loss_before"]
    pipeline = tiny(chain)
    plans = pipeline.plan()
    run = pipeline.run()
    for record, plan in zip(run, plans, strict=True):
        assert plan is not None
        assert record.proofs["parameters_moved"] > 0
        assert record.proofs["read_back_difference"] < 1e-3
        assert plan.trainable_parameters > 0
    assert run["dpo"].proofs["first_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert run["dpo"].proofs["reference_difference_nats"] < 1e-4
    assert run["sft"].metrics["loss_after"] < run["sft"].metrics["loss_before"]
    run.model.load()
    reward = (run if strategy.capabilities.mergeable else alone).reward_model
    assert reward is not None
    reward.load()


@every
def test_only_what_it_trains_moves_and_the_plan_counts_it(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from posttrain.stages import training

    strategy, rate, _ = STRATEGIES[name]
    steps = 10 if name == "adalora" else 2
    stage = SFT(
        strategy, data=rows["chat"], max_steps=steps, learning_rate=rate, batch_size=4, max_length=128
    )
    before = dict(ModelRef.of_base("tiny-random").load_model().named_parameters())
    seen: dict[str, Any] = {}
    real = training.save_artifact

    def look(model: Any, *args: Any) -> Any:
        inner = model if strategy.capabilities.makes_base else model.get_base_model()
        seen["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        for path, parameter in inner.named_parameters():
            path = path.replace(".base_layer", "")
            if path in before and not parameter.requires_grad and not strategy.capabilities.four_bit_base:
                # PiSSA and LoRA-GA take what they start with out of the weights; test_lora.py adds it up again.
                rewritten = name in ("pissa", "lora-ga") and "_proj" in path
                assert rewritten or bool((parameter == before[path]).all()), path
                seen[path] = True
        return real(model, *args)

    monkeypatch.setattr(training, "save_artifact", look)
    plan = tiny([stage]).plan()[0]
    tiny([stage]).run()
    assert plan is not None and seen.pop("trained") == plan.trainable_parameters > 0
    if not strategy.capabilities.four_bit_base and not strategy.capabilities.makes_base:
        assert len(seen) == len(before)  # every parameter of the base was there to be looked at


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, (s, _, _) in STRATEGIES.items() if s.capabilities.checkpointable])
def test_computing_activations_again_changes_no_loss(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], name: str
) -> None:
    strategy, rate, _ = STRATEGIES[name]
    losses, steps = [], 10 if name == "adalora" else 3
    for on in (False, True):
        stage = SFT(strategy, data=rows["chat"], max_steps=steps, learning_rate=rate, batch_size=4, max_length=128,
                    trainer_args={"gradient_checkpointing": on})  # fmt: skip
        losses.append([line["loss"] for line in tiny([stage], name=str(on)).run()["sft"].history])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def quick(strategy: Any, rows: Rows, rate: float) -> SFT:
    steps = 10 if isinstance(strategy, AdaLoRA) else 4
    return SFT(strategy, data=rows, max_steps=steps, learning_rate=rate, batch_size=4, max_length=128)


@pytest.mark.slow
@every
def test_stopped_and_resumed_it_is_the_same(
    whole_and_resumed: Callable[..., Any], rows: dict[str, Rows], name: str
) -> None:
    strategy, rate, _ = STRATEGIES[name]
    stage = quick(strategy, rows["chat"], rate)
    whole, resumed = whole_and_resumed(stage, stage.max_steps - 1)
    assert resumed.keys() == whole.keys()
    assert all(bool((resumed[name] == value).all()) for name, value in whole.items())


@pytest.mark.slow
def test_padding_changes_nothing_and_another_process_reads_the_same(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], tmp_path: Path
) -> None:
    """All of them in one other process, which would take seconds for each alone."""
    ids = [[11, 12, 13, 14, 15, 16, 17], [21, 22, 23], [31, 32, 33, 34]]
    here = {}
    for name, (strategy, rate, _) in STRATEGIES.items():
        model = tiny([quick(strategy, rows["chat"], rate)], name=name).run().model.load_unmerged().eval()
        here[name] = logits(model, ids, 0)
        width = max(map(len, ids))
        left = torch.tensor([[0] * (width - len(row)) + row for row in ids])
        said = model.generate(input_ids=left, attention_mask=(left > 0).long(), max_new_tokens=5, do_sample=False,
                              pad_token_id=0, eos_token_id=None)  # fmt: skip
        for i, row in enumerate(ids):
            alone = logits(model, [row], 0)[0]
            assert torch.allclose(here[name][i, : len(row)], alone, atol=1e-4), name
            one = model.generate(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=int),
                                 max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)  # fmt: skip
            assert said[i, width:].tolist() == one[0, len(row) :].tolist(), name
    code = (
        "import json, sys; from posttrain import Pipeline\n"
        "from posttrain.stages.evaluation import logits\n"
        "for folder in sys.argv[1:]:\n"
        "    model = Pipeline.load(folder).model.load_unmerged()\n"
        f"    print(json.dumps(logits(model, {ids!r}, 0).tolist()))"
    )
    command = [sys.executable, "-c", code, *[str(tmp_path / name) for name in here]]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    read = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    for (name, values), found in zip(here.items(), read, strict=True):
        assert torch.equal(torch.tensor(found), values), name


# Of the rate, for a reward model that after thirty steps does not say nearly the same of every answer but the best.
REWARD_RATES = {"full": 0.1, "freeze": 0.1, "gradual": 0.1, "pissa": 0.3}


@online
def test_ppo_of_it(words: Callable[..., Pipeline], prompts: Rows, name: str) -> None:
    """Its roles share as many bases as the table says, the policy starts as its reference, and the reward rises."""
    strategy, rate, bases = STRATEGIES[name]
    pairs = [{"prompt": f"{one} {other}", "chosen": "river river", "rejected": f"{other} {one}"}
             for one in WORDS[:6] for other in WORDS[6:14]]  # fmt: skip
    chain = [
        RewardModel(strategy, data=pairs, max_steps=30, batch_size=16, max_length=32,
                    learning_rate=rate * REWARD_RATES.get(name, 1)),
        PPO(strategy, data=prompts, max_length=32, max_new_tokens=8, batch_size=32, max_steps=6, learning_rate=rate,
            kl_coef=0.01, gate=None, trainer_args={"critic_learning_rate": rate, "stop_kl": 1.0}),
    ]  # fmt: skip
    record = words(chain).run()["ppo"]
    assert record.proofs["copies_of_the_base"] == bases
    assert record.proofs["reference_difference_nats"] < 1e-5
    assert record.history[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert record.metrics["kl_after"] != 0.0
    assert record.metrics["reward_after"] > record.metrics["reward_before"]


@each(["ia3", "vera", "oft", "dora", "boft", "adapter", "lntuning"])
def test_another_kind_of_reward_adapter_gets_a_base_of_its_own(
    words: Callable[..., Pipeline], prompts: Rows, name: str
) -> None:
    strategy, rate, _ = STRATEGIES[name]
    pairs = [{"prompt": one, "chosen": "river", "rejected": "a"} for one in WORDS[:16]]
    chain = [
        RewardModel(LoRA(r=4), data=pairs, max_steps=4, batch_size=8, max_length=32),
        GRPO(strategy, data=prompts, max_length=32, max_new_tokens=4, batch_size=8, num_generations=4, max_steps=2,
             learning_rate=rate, gate=None),
    ]  # fmt: skip
    record = words(chain).run()["grpo"]
    assert record.proofs["copies_of_the_base"] == (1 if name == "dora" else 2)
    assert record.proofs["reference_difference_nats"] < 1e-5


def test_a_reward_adapter_of_another_kind_is_carried_too(
    words: Callable[..., Pipeline], prompts: Rows
) -> None:
    """Policy LoRA, reward model IA3: the carrier is of the reward model's kind, and the critic with it."""
    pairs = [{"prompt": one, "chosen": "river", "rejected": "a"} for one in WORDS[:16]]
    chain = [
        RewardModel(IA3(), data=pairs, max_steps=4, batch_size=8, learning_rate=1e-2, max_length=32),
        PPO(LoRA(r=4), data=prompts, max_length=32, max_new_tokens=4, batch_size=8, max_steps=2, gate=None),
    ]
    record = words(chain).run()["ppo"]
    assert record.proofs["copies_of_the_base"] == 2
    assert record.proofs["reference_difference_nats"] < 1e-5


@each(["ia3", "vera", "oft", "dora", "boft", "loha", "lokr", "lntuning"])
def test_it_is_trained_on_with_continue(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows], name: str
) -> None:
    strategy, rate, _ = STRATEGIES[name]
    common: dict[str, Any] = {"max_steps": 3, "learning_rate": rate, "batch_size": 8, "max_length": 128}
    run = tiny([
        SFT(strategy, data=rows["chat"], **common),
        DPO(strategy, data=rows["pairs"], handover="continue", **common),
    ]).run()  # fmt: skip
    assert len(run.model.adapters) == 1
    assert run["dpo"].proofs["first_loss"] == pytest.approx(0.693147, abs=1e-4)


@each(["adapter", "lntuning", "boft"])
def test_ppo_goes_on_with_the_adapter_of_another_stage(
    words: Callable[..., Pipeline], prompts: Rows, name: str
) -> None:
    """The reference is the policy as it came in: a frozen copy, or a base into which it is merged."""
    strategy, rate, _ = STRATEGIES[name]
    chats = [{"messages": [{"role": "user", "content": row["prompt"]},
                           {"role": "assistant", "content": "river"}]} for row in prompts]  # fmt: skip
    chain = [
        SFT(strategy, data=chats, max_steps=3, batch_size=8, learning_rate=rate, max_length=32),
        PPO(strategy, data=prompts, reward=rivers, handover="continue", max_length=32, max_new_tokens=4, batch_size=16,
            max_steps=2, learning_rate=rate, gate=None),
    ]  # fmt: skip
    run = words(chain).run()
    assert run["ppo"].proofs["reference_difference_nats"] < 1e-5
    assert run["ppo"].history[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert run["ppo"].metrics["kl_after"] != 0.0
    assert len(run.model.adapters) == 1


def test_a_strategy_that_keeps_no_reference_is_refused_where_one_is_needed(
    tiny: Callable[..., Pipeline], rows: dict[str, Rows]
) -> None:
    class Rewriting(LoRA):
        capabilities = replace(LoRA.capabilities, has_reference=False)

    tiny([SFT(Rewriting(), data=rows["chat"])])
    for stage in (
        DPO(Rewriting(), data=rows["pairs"]),
        GRPO(Rewriting(), data=[{"prompt": "a"}] * 20, reward=rivers),
    ):
        with pytest.raises(
            StrategyError, match=r"and Rewriting\(r=16\) keeps nothing of that while it trains"
        ) as caught:
            tiny([stage])
        assert "\n" not in str(caught.value)


def test_only_the_top_layers_move(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    run = tiny(
        [SFT(Freeze(layers=1), data=rows["chat"], max_steps=2, learning_rate=1e-3, max_length=128)]
    ).run()
    before, after = (dict(ref.load()[0].named_parameters()) for ref in (run.start, run.model))
    moved = {name for name in before if not bool((before[name] == after[name]).all())}
    assert moved
    assert all(name.startswith(("model.layers.1.", "model.norm.", "lm_head.")) for name in moved), moved


CASES: list[tuple[str, Any, type[Exception], str]] = [
    ("no layer", lambda: Freeze(layers=0), SettingError, "layers must be a whole number at least 1"),
    ("half a table", lambda: IA3(target_modules=["k_proj"]), SettingError, "given together with target_modules"),
    ("inputs that are no targets", lambda: IA3(["k_proj"], ["down_proj"]), SettingError, "some of target_modules"),
    ("no rank", lambda: VeRA(r=0), SettingError, "r must be a whole number at least 1"),
    ("no block", lambda: OFT(block_size=1), SettingError, "block_size must be a whole number at least 2"),
    ("a head", lambda: OFT(target_modules=["lm_head"]), SettingError, "lm_head is the head"),
    ("odd blocks", lambda: BOFT(block_size=3), SettingError, "block_size must be an even number"),
    ("no factor", lambda: BOFT(factors=0), SettingError, "factors must be a whole number at least 1"),
    ("no rank of LoHa", lambda: LoHa(r=0), SettingError, r"LoHa\(r=0\): r must be a whole number at least 1"),
    ("no factor of LoKr", lambda: LoKr(factor=1), SettingError, "factor must be a whole number at least 2"),
    ("a head of LoKr", lambda: LoKr(target_modules=["score"]), SettingError, "score is the head"),
    ("a variant", lambda: LoRA(variant="dorra"), SettingError, "variant must be one of 'rslora', 'dora'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refused_when_it_is_written(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_blocks_that_do_not_fit_are_refused(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    """PEFT would take other blocks than it was told to."""
    with pytest.raises(
        StrategyError, match=r"OFT\(block_size=7\): the layer model.layers.0.self_attn.q_proj reads"
    ):
        tiny([SFT(OFT(block_size=7), data=rows["chat"])]).plan()


def test_more_layers_than_there_are(tiny: Callable[..., Pipeline], rows: dict[str, Rows]) -> None:
    with pytest.raises(StrategyError, match=r"Freeze\(layers=99\): the model has 2 layers"):
        tiny([SFT(Freeze(layers=99), data=rows["chat"])]).plan()
