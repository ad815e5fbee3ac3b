"""Tasks of lm-evaluation-harness, on the model in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from posttrain.errors import SettingError

from ..pipeline import Interval
from ..pipeline.settings import refuse

Task = str | Mapping[str, Any]  # the name of a task, or its config
_NORMAL = 1.96  # standard errors on either side of 95 %


def check_tasks(tasks: Sequence[Task]) -> None:
    """Raises SettingError for what is no list of tasks, and for tasks where lm-eval is not installed."""
    if isinstance(tasks, (str, Mapping)) or not all(isinstance(task, (str, Mapping)) for task in tasks):
        refuse("Evaluate", "tasks", tasks, 'a list such as ["arc_easy"]')
    if tasks and find_spec("lm_eval") is None:
        raise SettingError(
            "Evaluate(tasks=...) needs lm-evaluation-harness; run: pip install 'posttrain[eval]'"
        )


def run_tasks(
    model: Any, tokenizer: Any, tasks: Sequence[Task], limit: int | None, seed: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    """(numbers as "arc_easy.acc", intervals from the harness's own standard errors)."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    given = [task if isinstance(task, str) else dict(task) for task in tasks]
    found = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), tasks=given, limit=limit, log_samples=False,
        random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
    )  # fmt: skip
    numbers: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for task, values in found["results"].items():
        rows = int(found["n-samples"][task]["effective"]) if task in found.get("n-samples", {}) else 0
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or not isinstance(value, (int, float)) or metric.endswith("_stderr"):
                continue
            name = f"{task}.{metric}" + ("" if filtered == "none" else f".{filtered}")
            numbers[name] = float(value)
            error = values.get(f"{metric}_stderr,{filtered}")
            if isinstance(error, (int, float)):
                intervals[name] = Interval(value - _NORMAL * error, value + _NORMAL * error, rows)
    return numbers, intervals
