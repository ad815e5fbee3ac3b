"""`posttrain plan` and `posttrain explain`: what a recipe will cost and what its settings are, without training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from posttrain.commands.output import AsJson, Changes, print_json
from posttrain.errors import SettingError

File = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A recipe in YAML or Python; a Python one is followed by its flags."
    ),
]


def plan(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe in YAML or Python, instead of --memory and --model.")] = None,
    changes: Changes = None,
    json: AsJson = False,
    memory: Annotated[str | None, typer.Option(help="Of the GPU, such as 8GB or 24GiB, both in units of 2^30 bytes.")] = None,
    model: Annotated[str | None, typer.Option(help="A size (1B 3B 7B 8B 13B 14B 30B 32B 70B), a folder with a config.json, a Hub id in the local cache, or 'embedded'.")] = None,
    stage: Annotated[str | None, typer.Option(help="What is trained: SFT (if not given), CPT, RewardModel, DPO, KTO, ORPO, PPO, GRPO, RLOO.")] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens of the longest row; 1024 if not given.")] = None,
) -> None:  # fmt: skip
    """Print what a recipe will cost, stage by stage; or, of --memory and --model, the ways to train a model. No weights.

    Exit code 0: there is an answer. 1: nothing fits into --memory. 2: the question cannot be answered.
    """
    if recipe is not None:
        if memory is not None:
            raise SettingError(
                "plan takes a recipe file or --memory, not both; auto('24GB') is a recipe's strategy."
            )
        # a script may have flags of the same names
        given = {"--model": model, "--stage": stage, "--max-length": max_length}
        own = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
        _plan_recipe(recipe, changes, [*own, *context.args], json)
        return
    if memory is None or model is None:
        raise SettingError("plan takes a recipe file, or --memory and --model.")
    from posttrain.planning import print_choices

    if json or changes or context.args:
        raise SettingError(
            "plan --memory takes --model, --stage and --max-length; --json and --set are for a recipe file."
        )
    raise typer.Exit(0 if print_choices(memory, model, stage or "SFT", max_length or 1024) else 1)


def _plan_recipe(recipe: Path, changes: list[str] | None, flags: list[str], json: bool) -> None:
    from posttrain.commands.run import pipeline_of

    pipeline = pipeline_of(recipe, changes, flags)
    if not json:
        pipeline.plan()
        return
    plans = pipeline.plan(shown=False)
    print_json(
        [
            {"stage": stage.title, **(asdict(plan) if plan else {})}
            for stage, plan in zip(pipeline.stages, plans, strict=True)
        ]
    )


def explain(context: typer.Context, recipe: File, changes: Changes = None) -> None:
    """Print each setting of each stage of a recipe, and where it comes from."""
    from posttrain.commands.run import pipeline_of

    pipeline_of(recipe, changes, context.args).explain()
