"""What a stage must reach before the chain goes on: asked of its record, at every run, without training again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from posttrain.errors import ForgettingError, RequirementError, SettingError

from ..pipeline import Stage
from ..pipeline.interval import less_is_better
from ..pipeline.settings import check_choice, check_number, refuse

OnRegression = Literal["stop", "rollback"]
FORGOTTEN = "neutral_kl_input"


@dataclass(frozen=True)
class GatedStage(Stage):
    """A stage that measures something, and may be required to reach it.

    require: what must be reached, as in {"accuracy": 0.7}: losses, perplexities and KLs at most, others at least; else
    the chain stops behind the stage.
    """

    require: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    unkeyed: ClassVar[tuple[str, ...]] = ("require",)

    def __post_init__(self) -> None:
        _check_require(type(self).__name__, self.require)

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        check_reached(self.title, self.require, metrics)
        return None


def _check_require(owner: str, require: Mapping[str, float]) -> None:
    if not isinstance(require, Mapping) or not all(isinstance(name, str) for name in require):
        refuse(owner, "require", require, 'a dict such as {"accuracy": 0.7}')
    for name, bound in require.items():
        if bound is None:
            refuse(owner, f"require[{name!r}]", None, "a number")
        check_number(owner, f"require[{name!r}]", bound)


def check_names(title: str, require: Mapping[str, float], measured: Collection[str]) -> None:
    """Raises SettingError for a name that the stage does not measure."""
    for name in require:
        if name not in measured:
            there = ", ".join(sorted(measured)) or "nothing, because no rows are held out; give eval_data"
            raise SettingError(f"Stage {title} is required to reach {name!r}, and it measures {there}.")


def reached(metrics: Mapping[str, float]) -> dict[str, float]:
    """The numbers after the stage by the names that `require` takes."""
    return {
        name.removesuffix("_after"): value for name, value in metrics.items() if not name.endswith("_before")
    }


def check_reached(title: str, require: Mapping[str, float], metrics: Mapping[str, float]) -> None:
    """Raises RequirementError with all numbers that are not what they must be, SettingError for an unknown name."""
    numbers = reached(metrics)
    check_names(title, require, numbers)
    unmet = [
        f"{name} is {numbers[name]:.4g} and must be at {'most' if less_is_better(name) else 'least'} {bound:g}"
        for name, bound in require.items()
        if not (numbers[name] <= bound if less_is_better(name) else numbers[name] >= bound)
    ]
    if unmet:
        raise RequirementError(
            f"Stage {title}: {'; '.join(unmet)}. The stage is finished and kept; change it or its require, and run "
            "again to go on."
        )


def check_forgetting_settings(
    owner: str, most: float | None, on_regression: OnRegression, checked: bool
) -> None:
    """Raises SettingError. checked: whether the stage makes a model that is compared with the one it was given."""
    check_number(owner, "max_forgetting", most, least=0.0)
    check_choice(owner, "on_regression", on_regression, get_args(OnRegression))
    if most is None and on_regression != "stop":
        raise SettingError(
            f"{owner}: on_regression says what to do when more is forgotten than max_forgetting; give that, too."
        )
    if most is not None and not checked:
        raise SettingError(
            f"{owner}: max_forgetting is a bound for stages that make a causal policy, and {owner} makes none; leave it out."
        )


def regression(
    title: str, most: float | None, on_regression: OnRegression, metrics: Mapping[str, float]
) -> str | None:
    """What was forgotten too much, where the previous model is handed on; None where the stage's own is.

    Raises ForgettingError where the chain must stop.
    """
    if most is None or metrics[FORGOTTEN] <= most:
        return None
    found = (
        f"it moved {metrics[FORGOTTEN]:.4g} nats per token away from its input on neutral text, and max_forgetting allows "
        f"{most:g} (perplexity {metrics['neutral_perplexity_before']:.4g} to {metrics['neutral_perplexity_after']:.4g}, "
        f"probes {metrics['probe_accuracy_before']:.0%} to {metrics['probe_accuracy_after']:.0%})"
    )
    if on_regression == "rollback":
        return found
    raise ForgettingError(
        f"Stage {title}: {found}. The stage is finished and kept; train it less or mix earlier data in, raise "
        "max_forgetting, or set on_regression='rollback' to go on from the previous model, and run again."
    )
