"""Two processes (gloo) that FSDP divides the model over make what one makes; with a whole model before and after."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain import (
    DPO,
    GRPO,
    PPO,
    RLOO,
    SFT,
    AdaLoRA,
    GradualUnfreeze,
    LoRA,
    Pipeline,
    PromptTuning,
    QLoRA,
    RewardModel,
)
from posttrain.errors import LaunchError
from tests.stages.test_ranks import ACCELERATE, BROKEN, run_broken, start
from tests.stages.words import rivers

FSDP = (
    *(word for word in ACCELERATE if word != "--multi_gpu"),
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_cpu_ram_efficient_loading", "false",
)  # fmt: skip

# Every rank looks at the parameters after each optimizer step; the main one prints what it saw and what was made.
SCRIPT = """
import json, sys
from posttrain import (
    CPT, DPO, KTO, ORPO, SFT, Classifier, Full, LoRA, Pipeline, QLoRA, RewardModel, Seq2Seq, TokenClassifier,
)
from posttrain.pipeline import Ranks
from posttrain.stages.callbacks import Moved
from tests.stages.test_token_classifier import ROWS
from tests.stages.words import WORDS

model, run_dir, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
part = 8 // size  # rows of a step and process: eight of all
ranks = Ranks.of_environment()
sharded = ranks.sharding is not None
shares, real = [], Moved.on_optimizer_step


def look(self, args, state, control, **rest):
    from torch.distributed.tensor import DTensor

    parameters = list(self._model.parameters())
    assert all(isinstance(p, DTensor) == sharded for p in parameters)
    states = list(rest["optimizer"].state.values())
    assert all(isinstance(v, DTensor) == sharded for s in states for v in s.values() if v.ndim)
    if sharded:
        here = sum(p.to_local().numel() for p in parameters)
        shares.append(here / sum(p.numel() for p in parameters))
    return real(self, args, state, control, **rest)


Moved.on_optimizer_step = look
lora = LoRA(r=4)
pairs = [{"prompt": f"{a} {b}", "chosen": "river river", "rejected": f"{b} {a}"} for a in WORDS[:4] for b in WORDS[4:12]]
chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
verdicts = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in pairs for side in ("chosen", "rejected")]
labelled = [{"text": row["prompt"], "label": i % 3} for i, row in enumerate(pairs)]
# AdamW divides by a gradient's size: of one near zero, the order in which it was added up would be seen.
smooth = {"adam_epsilon": 1e-4}
common = dict(max_steps=3, batch_size=part, learning_rate=1e-3, max_length=48, trainer_args=smooth)
stages = {
    "chain": [
        SFT(lora, data=chats, **common), SFT(Full(), name="full", data=chats, **common),
        RewardModel(lora, data=pairs, **common), DPO(lora, data=pairs, **common),
    ],
    "others": [
        CPT(lora, data=[{"text": row["prompt"]} for row in pairs], **common),
        ORPO(Full(), data=pairs, **common),
        DPO(Full(), data=pairs, **common),
        DPO(lora, name="first", data=pairs, **common),
        DPO(lora, name="again", handover="continue", data=pairs, **common),
        SFT(lora, name="recomputed", data=chats, **common | {"trainer_args": smooth | {"gradient_checkpointing": True}}),
        SFT(Full(llrd=0.8), name="rates", data=chats, **common),
        SFT(lora, name="accumulated", data=chats, **{**common, "batch_size": part // 2, "gradient_accumulation": 2}),
        Classifier(lora, data=labelled, **common),
    ],
    "own": [
        KTO(lora, data=verdicts, **common), KTO(Full(), name="full", data=verdicts, **common),
        TokenClassifier(lora, data=ROWS[:64], **common),
    ],
    "exchanges": [Seq2Seq(lora, data=chats, **common), Seq2Seq(Full(), name="full", data=chats, **common)],
    "bf16": [SFT(Full(), data=chats, **common | {"trainer_args": {"bf16": True}}),
             SFT(lora, name="adapted", data=chats, **common | {"trainer_args": {"bf16": True}})],
    # Each by itself: of a merged model's last bits, those near the border between two 4-bit values would be seen.
    "quantised chats": [SFT(QLoRA(r=4), data=chats, **common)],
    "quantised pairs": [DPO(QLoRA(r=4), data=pairs, **common)],
    # On a model whose head is the embeddings.
    "tied": [SFT(Full(), data=chats, **common), DPO(Full(), data=pairs, **common)],
}[sys.argv[4]]
run = Pipeline(stages, model=model, run_dir=run_dir, seed=3).run()
if size > 1:
    import torch.distributed as dist

    assert (dist.get_backend(), dist.get_world_size()) == ("gloo", 2)
if sharded:
    assert len(shares) == 3 * len(stages) and all(0.4 < share < 0.6 for share in shares), shares
if ranks.main:
    print("FOUND " + json.dumps({
        record.name: {
            "losses": [line["loss"] for line in record.history] + [record.metrics["loss_before"], record.metrics["loss_after"]],
            "norms": [line["grad_norm"] for line in record.history],
            "moved": record.proofs["parameters_moved"],
        } for record in run
    }))
"""


def launch(folder: Path, model: Path | str, chain: str, *launcher: str) -> tuple[Path, dict[str, Any]]:
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    words = [str(model), str(folder), "2" if launcher else "1", chain]
    return folder, found_in(start(str(script), *words, launcher=launcher))


def found_in(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return found


def weights(folder: Path) -> dict[str, Any]:
    """Of all adapters and models that the stages left, by stage and name."""
    from safetensors.torch import load_file

    return {
        f"{path.parent.parent.name.rsplit('-', 1)[0]} {name}": value
        for path in folder.glob("stages/*/*/*.safetensors")
        for name, value in load_file(path).items()
    }


def difference(one: Path, other: Path) -> float:
    left, right = weights(one), weights(other)
    assert left and left.keys() == right.keys()
    return max(float((value - right[name]).abs().max()) for name, value in left.items())


def compare(
    tmp_path: Path, model: Path | str, chain: str, plain: Sequence[str] = (), reshard: str = "true"
) -> None:
    """Losses, gradient norms, held-out losses and all weights: of FSDP, and of one process or what is launched otherwise."""
    one, numbers = launch(tmp_path / "plain", model, chain, *plain)
    two, same = launch(tmp_path / "parts", model, chain, *FSDP, "--fsdp_reshard_after_forward", reshard)
    assert numbers.keys() == same.keys()
    for stage, found in numbers.items():
        assert same[stage]["losses"] == pytest.approx(found["losses"], abs=1e-5, rel=1e-5), stage
        assert same[stage]["norms"] == pytest.approx(found["norms"], rel=1e-4), stage
        assert same[stage]["moved"] == found["moved"], stage
    assert difference(one, two) < 1e-5
    assert not list(two.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("chain", "reshard"), [("chain", "true"), ("others", "false")])
def test_two_processes_in_parts_give_the_result_of_one(
    tmp_path: Path, words_model: Path, chain: str, reshard: str
) -> None:
    compare(tmp_path, words_model, chain, reshard=reshard)


@pytest.mark.slow
@pytest.mark.parametrize(("chain", "reshard"), [("quantised chats", "true"), ("quantised pairs", "false")])
def test_four_bit_weights_are_divided_and_find_their_scales(
    tmp_path: Path, words_model: Path, chain: str, reshard: str
) -> None:
    compare(tmp_path, words_model, chain, reshard=reshard)


@pytest.mark.slow
def test_a_head_that_is_the_embeddings_is_divided_once(tmp_path: Path) -> None:
    compare(tmp_path, "tiny-random", "tied")


@pytest.mark.slow
def test_encoder_and_decoder_are_divided(tmp_path: Path, t5_model: Path) -> None:
    compare(tmp_path, t5_model, "exchanges")


@pytest.mark.slow
def test_what_each_process_has_of_its_own_is_that_of_ddp(tmp_path: Path, words_model: Path) -> None:
    """KTO's KL is estimated on the other answers of a process's rows, and a tagger's head drops what each draws."""
    compare(tmp_path, words_model, "own", ACCELERATE)


@pytest.mark.slow
def test_in_16_bits_the_losses_are_near_those_of_one(tmp_path: Path, words_model: Path) -> None:
    """Not equal: one process casts each layer's weights by autocast, several gather them in 16 bits, norms with them."""
    _, numbers = launch(tmp_path / "plain", words_model, "bf16")
    _, same = launch(tmp_path / "parts", words_model, "bf16", *FSDP)
    for stage, found in numbers.items():
        for name in ("losses", "norms"):
            assert same[stage][name] == pytest.approx(found[name], rel=2e-2), stage


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["LoRA(r=4)", "Full()"])
def test_a_rank_is_killed_and_the_same_command_goes_on(
    tmp_path: Path, words_model: Path, strategy: str
) -> None:
    code = BROKEN.replace("LoRA(r=4)", strategy).replace("LoRA, Pipeline", "Full, LoRA, Pipeline")
    assert strategy in code
    whole = run_broken(tmp_path / "whole", words_model, "no 9", *FSDP, code=code)
    assert whole.returncode == 0, whole.stderr[-6000:]
    assert run_broken(tmp_path / "killed", words_model, "kill 1", *FSDP, code=code).returncode == 1
    (stage,) = (tmp_path / "killed" / "stages").iterdir()
    checkpoint = stage / "checkpoints" / "step-2"
    assert checkpoint.is_dir() and not (stage / "stage.json").exists()
    assert not list(checkpoint.glob("*fsdp*")) and list(checkpoint.glob("*model.safetensors"))
    again = run_broken(tmp_path / "killed", words_model, "no 9", *FSDP, code=code)
    assert again.returncode == 0, again.stderr[-6000:]
    assert difference(tmp_path / "whole", tmp_path / "killed") == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"), [(ACCELERATE, FSDP), (FSDP, ACCELERATE)], ids=["to fsdp", "to ddp"]
)
def test_a_checkpoint_is_gone_on_from_with_the_other_engine(
    tmp_path: Path, words_model: Path, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    assert run_broken(tmp_path / "whole", words_model, "no 9", *then).returncode == 0
    assert run_broken(tmp_path / "killed", words_model, "kill 1", *first).returncode == 1
    again = run_broken(tmp_path / "killed", words_model, "no 9", *then)
    assert again.returncode == 0, again.stderr[-6000:]
    assert difference(tmp_path / "whole", tmp_path / "killed") < 1e-5


EACH_STRATEGY = """
import json, sys
from posttrain import SFT, Pipeline
from posttrain.pipeline import Ranks
from tests.stages.strategies.test_every_strategy import STRATEGIES
from tests.stages.words import WORDS

model, run_dir, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
chats = [{"prompt": f"{a} {b}", "completion": "river river"} for a in WORDS[:4] for b in WORDS[4:12]]
found = {}
for name, (strategy, rate, _) in STRATEGIES.items():
    if strategy.capabilities.shardable and strategy.base_format != "int8":
        stage = SFT(strategy, data=chats, max_steps=3, batch_size=8 // size, learning_rate=rate, max_length=48)
        run = Pipeline([stage], model=model, run_dir=f"{run_dir}/{name}", seed=3).run()
        found[name] = [line["loss"] for line in run["sft"].history] + [run["sft"].metrics["loss_after"]]
if Ranks.of_environment().main:
    print("FOUND " + json.dumps(found))
"""


@pytest.mark.slow
def test_every_strategy_that_may_trains_in_parts_as_whole(tmp_path: Path, words_model: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(EACH_STRATEGY)
    one, two = (
        found_in(
            start(str(script), str(words_model), str(tmp_path / str(size)), str(size), launcher=launcher)
        )
        for size, launcher in ((1, ()), (2, FSDP))
    )
    assert one.keys() == two.keys() and len(one) >= 15
    for name, losses in one.items():
        # LoRA-GA's start is estimated in batches of batch_size, which is another one here
        assert two[name] == pytest.approx(losses, abs=5e-2 if name == "lora-ga" else 1e-4), name


PAIRS = [{"prompt": f"a {i}", "chosen": "river", "rejected": "boat"} for i in range(20)]
PROMPTS = [{"prompt": row["prompt"]} for row in PAIRS]
REFUSED: list[tuple[Any, str]] = [
    (GRPO(LoRA(r=4), reward=rivers, data=PROMPTS), r"Stage grpo: GRPO with LoRA\(r=4\) needs the whole model"),
    (RLOO(LoRA(r=4), reward=rivers, data=PROMPTS), r"Stage rloo: RLOO with LoRA\(r=4\) needs the whole model"),
    (PPO(LoRA(r=4), reward=rivers, data=PROMPTS), r"Stage ppo: PPO with LoRA\(r=4\) needs the whole model"),
    (
        DPO(QLoRA(r=4, bits=8), data=PAIRS),
        r"Stage dpo: DPO cannot train QLoRA\(r=4, bits=8\) in parts.* lose their scales; take bits=4",
    ),
    (SFT(QLoRA(paged_optimizer=True)), "Stage sft: SFT with the optimizer paged_adamw_32bit was not tried .*; take one"),
    (SFT(AdaLoRA()), r"Stage sft: SFT cannot train AdaLoRA\(r=12\) in parts.* take LoRA\(\) or Full\(\)"),
    (SFT(GradualUnfreeze()), r"Stage sft: SFT cannot train GradualUnfreeze\(\) in parts"),
    (SFT(PromptTuning()), r"Stage sft: SFT cannot train PromptTuning\(\) in parts"),
    (SFT(trainer_args={"optim": "adafactor"}), "with the optimizer adafactor was not tried .*; take one of adamw_torch"),
    (SFT(trainer_args={"fp16": True}), "'fp16': True}.* was not tried .*; leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "text"), REFUSED, ids=[text[:30] for _, text in REFUSED])
def test_what_takes_a_whole_model_is_refused_before_anything_is_read(
    tiny: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch, stage: Any, text: str
) -> None:
    pipeline = tiny([RewardModel(LoRA(r=4)), stage])
    for name, value in (("ACCELERATE_USE_FSDP", "true"), ("FSDP_VERSION", "2"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=text) as caught:
        pipeline.run()
    assert "recipes/launch/ddp.yaml" in str(caught.value) and "\n" not in str(caught.value)
    assert not pipeline.run_dir.exists()


def test_modules_and_parameters_are_the_same_objects_again() -> None:
    """In a process of its own, whose only rank holds all parts; hooks that were there stay, hooks of FSDP go."""
    code = """
import os, torch, torch.distributed as dist
from posttrain.pipeline.engine import Sharding
from posttrain.pipeline.model_ref import ModelRef
from posttrain.stages.sharding import Sharded
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = ModelRef.of_base("tiny-random").load_model()
ids = torch.arange(30, 48).view(2, 9)
seen = []
handle = model.model.register_forward_hook(lambda *_: seen.append(1))
before, logits = dict(model.named_parameters()), model(ids).logits
values = {name: value.detach().clone() for name, value in before.items()}
kinds = [type(module) for module in model.modules()]
sharded = Sharded(model, Sharding())
assert all(not value.numel() for value in before.values())
assert type(model) is not kinds[0]
torch.testing.assert_close(model(ids).logits, logits)
model.extra_attribute = "of training"
sharded.gather()
assert [type(module) for module in model.modules()] == kinds and not hasattr(model, "extra_attribute")
assert all(value is before[name] and torch.equal(value, values[name]) for name, value in model.named_parameters())
assert torch.equal(model(ids).logits, logits) and len(seen) == 3
handle.remove()
model(ids)
assert len(seen) == 3
"""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def test_the_base_of_an_adapter_is_not_put_together_for_a_checkpoint() -> None:
    from peft import LoraConfig, get_peft_model

    from posttrain.pipeline.model_ref import ModelRef
    from posttrain.stages.sharding import _saved

    base = ModelRef.of_base("tiny-random").load_model()
    assert _saved(base).keys() == base.state_dict().keys()
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    model.add_adapter("ref", LoraConfig(r=2, target_modules=["q_proj"]))
    layers = base.config.num_hidden_layers
    names = sorted(name.rsplit(".", 3)[-3] if "lora" in name else name for name in _saved(model))
    adapters = ["lora_A"] * 2 * layers + ["lora_B"] * 2 * layers
    assert names == ["base_model.model.lm_head.modules_to_save.default.weight", *adapters]


def test_paged_optimizer_states_are_for_those_who_hold_them_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.stages import arguments
    from posttrain.stages.machine import Machine

    monkeypatch.setattr(arguments, "this_machine", lambda: Machine(True, True, 2**36))

    def optimizer() -> object:
        told = arguments.trainer_arguments(
            SFT(QLoRA()), output_dir=Path("run"), seed=0, rows=8, checkpointing=False
        )
        return told.get("optim")

    assert optimizer() == "paged_adamw_32bit"
    for name, value in (("ACCELERATE_USE_FSDP", "true"), ("FSDP_VERSION", "2"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert optimizer() is None  # the trainer's own AdamW
