"""TRL's trainers, taught to take token tables as they are, and which trainer is whose."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from .rates import by_parameter, split_by_rate
from .table_trainers import table_trainer

TrainerKind = Literal[
    "sft", "reward", "dpo", "kto", "orpo", "grpo", "rloo", "classifier", "token_classifier", "seq2seq"
]

# Where each trainer's config stands: (package, file in it, class).
CONFIGS: Mapping[TrainerKind, tuple[str, str, str]] = {
    "sft": ("trl", "trainer/sft_config.py", "SFTConfig"),
    "reward": ("trl", "trainer/reward_config.py", "RewardConfig"),
    "dpo": ("trl", "trainer/dpo_config.py", "DPOConfig"),
    "kto": ("trl", "trainer/kto_config.py", "KTOConfig"),
    "orpo": ("trl", "experimental/orpo/orpo_config.py", "ORPOConfig"),
    "grpo": ("trl", "trainer/grpo_config.py", "GRPOConfig"),
    "rloo": ("trl", "trainer/rloo_config.py", "RLOOConfig"),
    "classifier": ("transformers", "training_args.py", "TrainingArguments"),
    "token_classifier": ("transformers", "training_args.py", "TrainingArguments"),
    "seq2seq": ("transformers", "training_args_seq2seq.py", "Seq2SeqTrainingArguments"),
}


def config_class(kind: TrainerKind) -> type:
    """The config of a kind of trainer."""
    from importlib import import_module

    package, file, name = CONFIGS[kind]
    module = f"{package}.{file.removesuffix('.py').replace('/', '.')}"
    found: type = getattr(import_module(module), name)
    return found


def trainer_class(kind: TrainerKind, *, on_shards: bool = False) -> type:
    """The trainer of a kind, with what it would tokenise again taken out.

    on_shards: it divides its model over the ranks, and is given its `sharding`.
    """
    import trl

    _mend_head()
    made = {"orpo": _orpo, "grpo": _grpo, "rloo": _rloo}
    if CONFIGS[kind][0] == "transformers":
        found = table_trainer(kind)
    elif kind in made:
        found = made[kind]()
    else:
        names = {"sft": "SFTTrainer", "reward": "RewardTrainer", "dpo": "DPOTrainer", "kto": "KTOTrainer"}
        found = getattr(trl, names[kind])
    bases = (_TakesTables, found) if kind in ("dpo", "kto") else (found,)
    if on_shards:
        from .sharding import OnShards

        bases = (OnShards, *bases)
    return type(f"Table{found.__name__}", (EndsAtItsLastStep, WritesNoCard, RatesByParameter, *bases), {})


def _mend_head() -> None:
    """TRL's fused head takes the tokens that have a label on a GPU, and on a CPU all of them: prompts and padding too. And
    where a frozen head needs no more, its log-probabilities come from `frozen_head`.
    """
    import trl.trainer.utils

    trl.trainer.utils._use_triton = lambda device: True
    trl.trainer.utils._ChunkedLogProbFunction = _Head


class _Head:
    """In the place of TRL's autograd function, with its arguments."""

    @staticmethod
    def apply(
        hidden_NH: Any, weight_VH: Any, bias_V: Any, targets_N: Any, temperature: float, chunk_size: int,
        softcap: float | None, logit_scale: float, outputs: tuple[str, ...],
    ) -> Any:  # fmt: skip
        from trl.kernels import ChunkedLogProbFunction

        from .frozen_head import can_score, head_scores

        if can_score(hidden_NH, weight_VH, bias_V, softcap) and "log_sum_sq_probs" not in outputs:
            return head_scores(hidden_NH, weight_VH, bias_V, targets_N, logit_scale / temperature, outputs)
        return ChunkedLogProbFunction.apply(
            hidden_NH, weight_VH, bias_V, targets_N, temperature, chunk_size, softcap, logit_scale, outputs
        )


class EndsAtItsLastStep:
    """A Trainer that makes no step more when it goes on from a checkpoint of its last one: transformers' own looks at
    max_steps behind a step alone, and makes one more where the last one lies inside an epoch.
    """

    def _run_epoch(self, *args: Any, **settings: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # type: ignore[attr-defined]
            self.control.should_training_stop = True  # type: ignore[attr-defined]
            return
        super()._run_epoch(*args, **settings)  # type: ignore[misc]


class WritesNoCard:
    """A Trainer without TRL's model card in each checkpoint, where nobody reads it; it takes as long as the adapter."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        return None


class RatesByParameter:
    """A Trainer whose parameters have learning rates of their own."""

    rate_factors: Mapping[str, float]  # by name, as the parameters are others when the model is divided

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer = super().create_optimizer(model)  # type: ignore[misc]
        factors = by_parameter(self.model, self.rate_factors)  # type: ignore[attr-defined]
        optimizer.param_groups[:] = split_by_rate(optimizer.param_groups, factors)
        return optimizer


class _TakesTables:
    """SFT's and Reward's trainers accept token tables; these would tokenise texts again."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class _AnswersRows:
    """A trainer whose prompts are row numbers; somebody else samples the answers."""

    rollouts: RowRollouts

    def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[Sequence[int]], None, dict[str, Any]]:
        self._rows = [int(prompt) for prompt in prompts]
        return [self.rollouts.prompt_ids(row) for row in self._rows], None, {}

    def _generate_single_turn(self, prompts: Any, *_: Any, **__: Any) -> Any:
        step = self.state.global_step  # type: ignore[attr-defined]
        return [list(ids) for ids in self.rollouts.sample(self._rows, step)]


class RowRollouts(Protocol):
    """Who answers and scores for TRL's online trainers, which know a prompt by its row."""

    def prompt_ids(self, row: int) -> Sequence[int]: ...

    def sample(self, rows: Sequence[int], step: int) -> Sequence[Sequence[int]]:
        """The token ids of one answer to each row's prompt; a row that comes again gets another answer."""

    def score(self, rows: Sequence[int], answers: Sequence[Sequence[int]]) -> Sequence[float]:
        """The rewards of the answers that were just sampled."""

    def teach(self) -> bool:
        """Whether some prompt's answers got different rewards; there is nothing to learn where none did."""


def _grpo() -> type:
    from trl import GRPOTrainer

    class RowsGRPOTrainer(_AnswersRows, GRPOTrainer):
        def _generate_single_turn(self, prompts: Any, *_: Any, **__: Any) -> Any:
            return super()._generate_single_turn(prompts), None  # no log-probabilities of another engine's

    return RowsGRPOTrainer


def _rloo() -> type:
    from peft import PeftModel
    from trl import RLOOTrainer

    class RowsRLOOTrainer(_AnswersRows, RLOOTrainer):
        def __init__(self, model: Any, **settings: Any) -> None:
            copied = isinstance(model, PeftModel) and "ref" in model.peft_config
            if copied:
                model.delete_adapter("ref")  # TRL insists on adding one of its own, whatever beta is
            with room_for_a_copy(model):
                super().__init__(model=model, **settings)
            if isinstance(model, PeftModel):
                set_reference_adapter(model, copied)

    return RowsRLOOTrainer


def _orpo() -> type:
    from peft import PeftModel
    from trl.experimental.orpo import ORPOTrainer

    class TableORPOTrainer(ORPOTrainer):
        """Takes prompt_ids, chosen_ids and rejected_ids, and never holds a batch's logits.

        The language loss is over the chosen answer alone, as in the paper; TRL's is over its prompt too.
        """

        def __init__(self, model: Any, **settings: Any) -> None:
            super().__init__(model=model, **settings)
            fuse_head(model.get_base_model() if isinstance(model, PeftModel) else model, mean_logits=True)

        def tokenize_row(self, feature: Mapping[str, Any], model: Any = None) -> dict[str, Any]:
            prompt = feature["prompt_ids"]
            row: dict[str, Any] = {"prompt_input_ids": prompt}
            for side in ("chosen", "rejected"):
                answer = feature[f"{side}_ids"]
                row[f"{side}_input_ids"] = prompt + answer
                row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
                row[f"{side}_labels"] = [-100] * len(prompt) + answer
            return row

        def concatenated_forward(self, model: Any, batch: Mapping[str, Any]) -> tuple[Any, ...]:
            """(mean log-probabilities of chosen, of rejected, their mean logits, loss per token of chosen)."""
            both = self.concatenated_inputs(
                batch, padding_value=self.padding_value, device=self.accelerator.device
            )
            labels = both["concatenated_labels"]
            out = model(
                input_ids=both["concatenated_input_ids"], attention_mask=both["concatenated_attention_mask"],
                labels=labels, fused_lm_head=True,
            )  # fmt: skip
            half, trained = len(batch["chosen_labels"]), labels[:, 1:] != -100
            width = trained.shape[1]  # prompt learning puts positions in front
            sums, counts = out.log_probs[:, -width:].sum(1), trained.sum(1)
            means, logits = sums / counts, out.mean_logits[:, -width:]
            found = (
                means[:half], means[half:], logits[:half][trained[:half]], logits[half:][trained[half:]],
                -sums[:half].sum() / counts[:half].sum(),
            )  # fmt: skip
            return (*found, out.aux_loss) if self.aux_loss_enabled else found

    return TableORPOTrainer


def fuse_head(model: Any, *, temperature: float = 1.0, mean_logits: bool = False) -> None:
    """TRL's head that gives log-probabilities without logits; `model` is one without adapters around it."""
    from trl.trainer.utils import add_fused_lm_head

    outputs = ("log_probs", "mean_logits") if mean_logits else ("log_probs",)
    add_fused_lm_head(model, temperature=temperature, outputs=outputs)


@contextlib.contextmanager
def room_for_a_copy(model: Any) -> Iterator[None]:
    """AdaLoRA takes one trained adapter at most, and TRL adds its copy as one more before it freezes it."""
    config: Any = getattr(model, "peft_config", {}).get("default")
    alone = config is not None and config.peft_type == "ADALORA" and not config.inference_mode
    if alone:
        config.inference_mode = True
    try:
        yield
    finally:
        if alone:
            config.inference_mode = False


def set_reference_adapter(model: Any, keep_copy: bool) -> None:
    """TRL adds a "ref" adapter by matching names, which misses several kinds; make it right, or take it away."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    if not keep_copy:
        model.delete_adapter("ref")  # the reference is then the base with its adapters off
        return
    if (
        model.active_peft_config.is_prompt_learning
    ):  # their state dict holds what an encoder gives, not the encoder
        model.prompt_encoder["ref"].load_state_dict(model.prompt_encoder["default"].state_dict())
    else:
        trained = get_peft_model_state_dict(model, adapter_name="default")
        set_peft_model_state_dict(model, trained, adapter_name="ref")
    for name, parameter in model.named_parameters():
        if ".ref." in name or name.endswith(".ref"):
            parameter.requires_grad_(False)
