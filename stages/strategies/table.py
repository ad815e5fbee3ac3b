"""The capability table and the strategies' own descriptions, for the command line and the docs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import fields

from .strategy import Capabilities, Strategy

# What a person asks of a strategy: heading, the capability that answers, what yes means.
COLUMNS = (
    ("merge", "mergeable", "the result joins the weights, so a stage with any strategy may follow"),
    ("goes on", "continuable", 'the next stage may train the same adapter on, with handover="continue"'),
    ("starts equal", "identity_at_start", "before step 1 the model says what it said without it"),
    (
        "new base",
        "makes_base",
        "the base itself is trained, and a whole model is saved instead of an adapter",
    ),
    ("4-bit base", "four_bit_base", "the frozen weights are quantised while it trains"),
    (
        "DPO, KTO",
        "has_reference",
        "the policy as it started can be had again, so stages with a reference take it",
    ),
    ("PPO, GRPO", "online", "can answer prompts while it trains: PPO, GRPO, RLOO"),
    ("vLLM", "plain_lora", "vLLM can answer for the policy in PPO, GRPO and RLOO"),
    ("one base", "several_at_once", "the roles of PPO share one copy of the weights"),
    ("less memory", "checkpointable", "gradient checkpointing can save memory"),
    ("FSDP", "shardable", "trains where FSDP divides the model over several GPUs"),
)

_INTRO = """# Strategies

<!-- Made by `posttrain strategies --markdown > docs/strategies.md`; a test compares. -->

A stage is given a strategy: `SFT(LoRA(r=8, alpha=16))`, `DPO(QLoRA(r=16))`, `SFT(Full(llrd=0.9))`. It says what is
trained and how, knows nothing of stages or data, and is the same object in all of them.

Which one: much data and much memory, `Full`; quick trials and most other things, `LoRA`; a large model on a small card,
`QLoRA`; many tasks on one base, any adapter; very few rows, `IA3`, `LNTuning` or `PromptTuning`; a small data set that
must not make the model forget, `GradualUnfreeze`, `Freeze` or `Full(llrd=0.9)`. To see what each reaches on one task
with one budget, run [recipes/compare_strategies.py](../recipes/compare_strategies.py).

## What each can do

"""


def as_markdown(kinds: Sequence[type[Strategy]]) -> str:
    """The page docs/strategies.md."""
    lines = [
        "| strategy | " + " | ".join(heading for heading, _, _ in COLUMNS) + " |",
        "|" + " --- |" * (len(COLUMNS) + 1),
    ]
    for kind in kinds:
        cells = answers(kind.capabilities)
        lines.append(f"| `{kind.__name__}` | " + " | ".join(cells) + " |")
    legend = [f"- **{heading}**: {meaning}." for heading, _, meaning in COLUMNS]
    parts = [_INTRO + "\n".join(lines), "\n".join(legend)]
    parts.append(
        "What the table rules out is refused when the Pipeline is built, in one sentence that says what to do instead. "
        "Settings can take something away: `LoRA(init=\"pissa\")` cannot be continued, `LoRA(bias=\"all\")` has no "
        "reference."
    )  # fmt: skip
    parts += [_described(kind) for kind in kinds]
    return "\n\n".join(parts) + "\n"


def answers(can: Capabilities) -> list[str]:
    """ "yes" or "no" for each column."""
    return ["yes" if getattr(can, name) else "no" for _, name, _ in COLUMNS]


def _described(kind: type[Strategy]) -> str:
    """Signature and docstring; lines of it that begin with a setting's name become a list."""
    settings = sorted(fields(kind), key=lambda field: field.kw_only is True)
    names = {field.name for field in settings}
    lines: list[str] = []
    for line in (inspect.getdoc(kind) or "").splitlines():
        begins = re.match(r"(\w+(?:, \w+)*): ", line)
        if begins and names.issuperset(begins[1].split(", ")):
            if lines and lines[-1] and not lines[-1].startswith("- "):
                lines.append("")
            lines.append(f"- `{begins[1]}`: {line[begins.end() :]}")
        elif line and lines and lines[-1]:
            lines[-1] += f" {line}"
        elif line or (lines and lines[-1]):
            lines.append(line)
    called = ", ".join(f"{field.name}={field.default!r}" for field in settings)
    return f"## {kind.__name__}\n\n`{kind.__name__}({called})`\n\n" + "\n".join(lines)
