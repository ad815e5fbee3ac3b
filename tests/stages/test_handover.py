"""What a stage hands on is what it trained, for every strategy and both hand-overs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import CPT, DPO, SFT, Full, LoRA, ModelRef, Pipeline, QLoRA, RewardModel
from posttrain.errors import (
    CorruptArtifactError,
    ModelError,
    NothingTrainedError,
    PipelineError,
    ReferenceMismatchError,
    RunInterrupted,
    StrategyError,
    TrainingDivergedError,
    WrongBaseError,
)

Rows = dict[str, list[dict[str, Any]]]
QUICK: dict[str, Any] = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3, "max_length": 128}

LORA = LoRA(r=4, dropout=0.1)
CASES = [
    ("lora merge", LORA, LORA, "merge"),
    ("lora continue", LORA, LORA, "continue"),
    ("lora then another rank", LORA, LoRA(r=2, target_modules=("q_proj", "v_proj")), "merge"),
    ("qlora merge", QLoRA(r=4), QLoRA(r=4), "merge"),
    ("qlora continue", QLoRA(r=4), QLoRA(r=4), "continue"),
    ("qlora then lora", QLoRA(r=4), LORA, "merge"),
    ("full", Full(), Full(), "merge"),
    ("lora then full", LORA, Full(), "merge"),
    ("full then lora", Full(), LORA, "merge"),
]


@pytest.mark.parametrize(
    ("first", "second", "handover"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_dpo_after_sft_starts_at_ln_2_and_every_artifact_reads_back(
    tiny: Callable[..., Pipeline], rows: Rows, first: Any, second: Any, handover: Any
) -> None:
    run = tiny(
        [
            SFT(first, data=rows["chat"], **QUICK),
            DPO(second, data=rows["pairs"], handover=handover, **QUICK),
        ]
    ).run()
    assert abs(run["dpo"].proofs["first_loss"] - math.log(2)) < 1e-4
    assert run["dpo"].proofs["reference_difference_nats"] < 1e-4
    assert abs(run["dpo"].history[0]["loss"] - math.log(2)) < 1e-4
    assert run["dpo"].history[-1]["loss"] < math.log(2) - 1e-3  # it trains, against the right reference
    for stage in run:
        assert stage.proofs["read_back_difference"] < 1e-3
        assert stage.proofs["parameters_moved"] > 0
    adapters = sum(not strategy.capabilities.makes_base for strategy in (first, second))
    expected = 1 if handover == "continue" else adapters if second != Full() else 0
    assert len(run.model.adapters) == expected
    assert not (run["dpo"].folder / "adapter" / "ref").exists()


def test_the_model_that_is_loaded_is_the_model_that_was_trained(
    tiny: Callable[..., Pipeline], rows: Rows
) -> None:
    """Loaded in one go, and stage by stage with plain PEFT: the same logits."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = tiny([SFT(LORA, data=rows["chat"], **QUICK), DPO(LORA, data=rows["pairs"], **QUICK)]).run()
    model, tokenizer = run.model.load()
    by_hand = AutoModelForCausalLM.from_pretrained(run.start.find().folder)
    for name in ("sft", "dpo"):
        by_hand = PeftModel.from_pretrained(by_hand, run[name].folder / "adapter").merge_and_unload()
    ids = tokenizer("the quick brown fox", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, by_hand(ids).logits)
    untrained, _ = run.start.load()
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, untrained(ids).logits, atol=1e-4)


def test_a_reward_model_scores_the_same_after_loading(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    import torch

    run = tiny([SFT(LORA, data=rows["chat"], **QUICK), RewardModel(LORA, data=rows["pairs"], **QUICK)]).run()
    assert run.reward_model is not None
    assert run.model.fingerprint == run["sft"].models["policy"].fingerprint  # the policy is not touched
    assert run.reward_model.adapters[0] == run.model.adapters[0]  # it stands on the same weights
    first, tokenizer = run.reward_model.load()
    second, _ = Pipeline.load(run.folder).reward_model.load()  # type: ignore[union-attr]
    batch = tokenizer(["a b c", "the lazy dog jumps over"], return_tensors="pt", padding=True)
    with torch.no_grad():
        scores = first(**batch).logits
        assert torch.equal(scores, second(**batch).logits)
        alone = first(**tokenizer(["a b c"], return_tensors="pt")).logits
    assert float((scores[0] - alone[0]).abs()) < 1e-5  # padding changes no score
    assert float(scores.abs().max()) > 1e-6


@pytest.mark.parametrize("strategy", [QLoRA(r=4), Full()], ids=["qlora", "full"])
def test_reward_models_of_other_strategies(tiny: Callable[..., Pipeline], rows: Rows, strategy: Any) -> None:
    run = tiny(
        [SFT(LORA, data=rows["chat"], **QUICK), RewardModel(strategy, data=rows["pairs"], **QUICK)]
    ).run()
    assert run.reward_model is not None
    assert run["reward_model"].proofs["read_back_difference"] < 1e-2
    model, _ = run.reward_model.load()
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.score.weight.shape == (1, 128)
    with pytest.raises(PipelineError, match="is a reward model"):
        Pipeline([SFT(LORA, data=rows["chat"])], model=run.reward_model)
    if strategy == Full():
        with pytest.raises(ModelError, match="a reward model or classifier"):
            Pipeline([SFT(LORA, data=rows["chat"])], model=run["reward_model"].folder / "model")


def test_proofs_survive_a_stop(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 comes once: what it proved is kept for the record of a run that was stopped and went on."""
    from posttrain.stages import callbacks

    stages = [DPO(LORA, data=rows["pairs"], **QUICK, trainer_args={"save_steps": 1})]
    real = callbacks.Stop.on_step_end

    def stop_after_two(self: Any, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.global_step == 2:
            self._stop.requested = "SIGTERM"
        return real(self, args, state, control, **more)

    monkeypatch.setattr(callbacks.Stop, "on_step_end", stop_after_two)
    with pytest.raises(RunInterrupted, match="in stage dpo after step 2"):
        tiny(stages).run()
    monkeypatch.undo()
    run = tiny(stages).run()
    assert run["dpo"].proofs["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert run["dpo"].proofs["parameters_moved"] == 14
    assert [line["step"] for line in run["dpo"].history] == [1, 2, 3]


def test_a_wrong_reference_is_noticed_before_step_1(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What peers train on silently: the reference is the bare base, the policy is the SFT model."""
    from posttrain.stages import trl_session

    real = trl_session.make_trainer

    def with_the_base_as_reference(*args: Any, **settings: Any) -> Any:
        trainer = real(*args, **settings)
        if args[0] == "dpo":
            base = ModelRef.of_base("tiny-random").load_model()
            trainer.ref_model.load_state_dict(base.state_dict())
        return trainer

    monkeypatch.setattr(trl_session, "make_trainer", with_the_base_as_reference)
    first = SFT(Full(), data=rows["chat"], **QUICK)
    with pytest.raises(ReferenceMismatchError, match="Before step 1 the policy gives an answer"):
        tiny([first, DPO(Full(), data=rows["pairs"], **QUICK)]).run()


def test_an_adapter_that_trains_nothing_is_noticed(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages import trl_session

    real = trl_session.make_trainer

    def with_a_dead_optimizer(*args: Any, **settings: Any) -> Any:
        trainer = real(*args, **settings)
        trainer.create_optimizer()
        trainer.optimizer.step = lambda *_, **__: None
        return trainer

    monkeypatch.setattr(trl_session, "make_trainer", with_a_dead_optimizer)
    with pytest.raises(NothingTrainedError, match="none of the 28 trainable parameters has changed"):
        tiny([SFT(LORA, data=rows["chat"], **QUICK)]).run()


def test_a_loss_that_is_no_number_saves_nothing(
    tiny: Callable[..., Pipeline], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.stages import trl_session

    real = trl_session.make_trainer

    def with_a_broken_weight(*args: Any, **settings: Any) -> Any:
        trainer = real(*args, **settings)
        next(p for p in trainer.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return trainer

    monkeypatch.setattr(trl_session, "make_trainer", with_a_broken_weight)
    with pytest.raises(TrainingDivergedError, match="The loss at step 1 is nan"):
        tiny([SFT(LORA, data=rows["chat"], **QUICK)]).run()
    assert not list((tiny([SFT(LORA, data=rows["chat"], **QUICK)]).run_dir).rglob("adapter"))


def test_an_adapter_never_goes_on_another_base(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    run = tiny([SFT(LORA, data=rows["chat"], **QUICK), DPO(LORA, data=rows["pairs"], **QUICK)]).run()
    dpo_adapter = run.model.adapters[1]
    with pytest.raises(WrongBaseError, match="load it on its own base"):
        run.start.with_adapter(dpo_adapter)
    swapped = ModelRef(run.start.base, run.start.base_fingerprint, adapters=run.model.adapters[::-1])
    with pytest.raises(WrongBaseError):
        swapped.load()
    other = ModelRef(run.start.base, "0" * 64, adapters=run.model.adapters)
    with pytest.raises(WrongBaseError, match="weights or config changed"):
        other.load()


def test_a_changed_adapter_is_refused_everywhere(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    stages = [SFT(LORA, data=rows["chat"], **QUICK), CPT(LORA, data=rows["text"], **QUICK)]
    run = tiny(stages).run()
    path = run["sft"].folder / "adapter" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptArtifactError, match="adapter_model"):
        run.model.load()
    with pytest.raises(CorruptArtifactError, match="Stage sft is finished, but"):
        tiny(stages).run()


def test_targets_that_match_nothing_name_the_real_ones(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    wrong = LoRA(r=2, target_modules=("q_proj", "query"))
    with pytest.raises(StrategyError, match="'query'; it has down_proj, gate_proj, k_proj"):
        tiny([SFT(wrong, data=rows["chat"], **QUICK)]).run()


def test_qlora_keeps_the_nearer_merge(tiny: Callable[..., Pipeline], rows: Rows) -> None:
    run = tiny([SFT(QLoRA(r=4), data=rows["chat"], **QUICK)]).run()
    drift = {onto: run["sft"].proofs[f"merge_drift_{onto}"] for onto in ("nf4", "weights")}
    assert run.model.adapters[-1].merge_onto == min(drift, key=drift.__getitem__)
    assert (
        drift["nf4"] < 1e-6 < drift["weights"]
    )  # nats per token: on tiny weights the 4-bit error is visible


def test_a_moved_run_folder_loads(tiny: Callable[..., Pipeline], rows: Rows, tmp_path: Path) -> None:
    run = tiny([SFT(Full(), data=rows["chat"], **QUICK), DPO(LORA, data=rows["pairs"], **QUICK)]).run()
    moved = tmp_path / "moved 文件夹"
    run.folder.rename(moved)
    again = Pipeline.load(moved)
    assert again.model.fingerprint == run.model.fingerprint
    assert str(moved) in again.model.base
    again.model.load()


@pytest.mark.slow
def test_mixed_precision_that_the_user_asks_for_passes_the_proofs(
    tiny: Callable[..., Pipeline], rows: Rows
) -> None:
    """Training runs under autocast; what is measured and read back does not."""
    few: dict[str, Any] = {"max_steps": 1, "batch_size": 1, "max_length": 64, "learning_rate": 1e-3}
    chats, pairs = rows["chat"][:16], rows["pairs"][:16]
    stages = [SFT(LoRA(r=2), data=chats, trainer_args={"bf16": True}, **few),
              DPO(Full(), data=pairs, trainer_args={"bf16": True}, **few)]  # fmt: skip
    run = tiny(stages).run()
    assert run["sft"].proofs["read_back_difference"] < 1e-5
    assert run["dpo"].proofs["read_back_difference"] < 1e-5
    plain = tiny([SFT(LoRA(r=2), data=chats, **few)], name="plain").run()
    # the same weights measured the same way before training, other arithmetic in between
    assert run["sft"].metrics["loss_before"] == plain["sft"].metrics["loss_before"]
    assert run["sft"].metrics["loss_after"] != plain["sft"].metrics["loss_after"]
