"""Whether a list of stages fits together: names, roles, hand-overs. Needs no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from posttrain.errors import ModelError, PipelineError

from .model_folder import KINDS, Head
from .stage import Stage, check_title, made_by

_STAGES_OF: Mapping[Head, str] = {
    "causal_lm": "SFT",
    "seq2seq_lm": "Seq2Seq",
    "masked_lm": "Classifier or TokenClassifier",
    "classifier": "Classifier or TokenClassifier",
    "token_classifier": "Classifier or TokenClassifier",
}
_ADVICE = {"reward": "Put RewardModel(...) before it, or give it reward=your_function."}


def check_chain(stages: Sequence[Stage]) -> None:
    """Raises PipelineError, or what a stage's own `check` raises, naming the stage by its place."""
    if isinstance(stages, Stage):
        raise PipelineError(
            f"A pipeline takes a list of stages; write Pipeline([{type(stages).__name__}(...)])."
        )
    if not stages:
        raise PipelineError(
            "The list of stages is empty; a pipeline needs at least one, such as SFT(LoRA())."
        )
    roles = {"policy"}
    titles: dict[str, int] = {}
    for number, stage in enumerate(stages, 1):
        if not isinstance(stage, Stage):
            made = (
                f" Write {stage.__name__}()." if isinstance(stage, type) and issubclass(stage, Stage) else ""
            )
            raise PipelineError(f"Item {number} of the list of stages is {stage!r}, which is no stage.{made}")
        check_title(stage.title)
        if stage.title in titles:
            raise PipelineError(
                f"Stages {titles[stage.title]} and {number} are both called {stage.title!r}; give one of them "
                f"another name, as in {type(stage).__name__}(..., name={stage.title + '_2'!r})."
            )
        titles[stage.title] = number
        for role in stage.needs:
            if role not in roles:
                raise PipelineError(
                    f"Stage {number} ({stage.title}) needs a {role} model, and no stage before it makes one. "
                    + _ADVICE.get(role, "")
                )
        stage.check(stages[: number - 1])
        if stage.makes:
            roles |= {stage.makes, made_by(stage.makes, stage.title)}


def check_heads(stages: Sequence[Stage], model: str | Path, head: Head | None) -> None:
    """Raises ModelError for a stage that cannot work on such a model. head: None where it is not known yet."""
    for number, stage in enumerate(stages, 1):
        if head is not None and stage.heads and head not in stage.heads:
            raise ModelError(
                f"Stage {number} ({stage.title}) starts from {' or '.join(KINDS[one] for one in stage.heads)}, and "
                f"{model} is {KINDS[head]}; train that with {_STAGES_OF[head]}, or give another model."
            )
