"""Every strategy on one task with the same budget: what it reaches, what it trains, what it costs.

python recipes/compare_strategies.py                              # all of them on the embedded model, about an hour
python recipes/compare_strategies.py --only lora --only full      # some of them
python recipes/compare_strategies.py --model Qwen/Qwen3-1.7B --run-dir runs/mine

Each strategy trains in a process of its own, so that peak memory is its own, and one that is finished is not trained
again. Writes table.md, table.json and, where matplotlib is installed, plot.png into the run folder.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain import (
    BOFT,
    IA3,
    OFT,
    SFT,
    AdaLoRA,
    Adapter,
    Data,
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
    Strategy,
    VeRA,
)

STRATEGIES: Mapping[str, Strategy] = {
    "full": Full(),
    "full, llrd 0.9": Full(llrd=0.9),
    "freeze, 8 layers": Freeze(layers=8),
    "gradual unfreezing": GradualUnfreeze(first=8),
    "lora": LoRA(r=16),
    "lora, rslora": LoRA(r=16, variant="rslora"),
    "lora, dora": LoRA(r=16, variant="dora"),
    "lora, lr_ratio 8": LoRA(r=16, lr_ratio=8),
    "lora, pissa": LoRA(r=16, init="pissa"),
    "lora, olora": LoRA(r=16, init="olora"),
    "lora, eva": LoRA(r=16, init="eva"),
    "loraga": LoRAGA(r=16),
    "qlora": QLoRA(r=16),
    "qlora, loftq": QLoRA(r=16, init="loftq"),
    "adalora": AdaLoRA(r=24, target_r=16),
    "adapter": Adapter(),
    "vera": VeRA(),
    "oft": OFT(),
    "boft": BOFT(),
    "loha": LoHa(),
    "lokr": LoKr(),
    "ia3": IA3(),
    "lntuning": LNTuning(),
    "prompt tuning": PromptTuning(),
    "prefix tuning": PrefixTuning(),
    "p-tuning": PTuning(),
}
# Of a stage's default, which is meant for hundreds of steps: the budget here is ten, where LoRA is nearly done.
_RATE = 5.0
_COLUMNS = ("strategy", "learning rate", "trained", "loss before", "loss after", "exact match", "peak memory GB",
            "tokens/s", "adapter MB")  # fmt: skip


def orders(count: int, seed: int) -> list[dict[str, str]]:
    """Customers' sentences and the JSON that a shop's till wants for them; two seeds share no sentence."""
    draw = random.Random(f"orders of {seed}")
    names = ["Ada", "Bela", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena"]
    things = ["city bike", "tandem", "cargo bike", "child seat", "helmet", "trailer", "e-bike", "unicycle"]
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    forms = ["{name} wants {n} {thing}s on {day}.", "For {day}, please: {n} {thing}s, the name is {name}.",
             "Could {name} have {n} {thing}s? It is for {day}.", "{n} {thing}s for {name}, {day} would be best."]  # fmt: skip
    parity, rows = seed % 2, dict[str, dict[str, str]]()
    while len(rows) < count:
        name, thing, day, n = draw.choice(names), draw.choice(things), draw.choice(days), draw.randint(2, 9)
        if (names.index(name) + things.index(thing) + days.index(day) + n) % 2 != parity:
            continue
        sentence = draw.choice(forms).format(name=name, thing=thing, day=day, n=n)
        answer = json.dumps({"name": name, "item": thing, "count": n, "day": day.lower()[:3]})
        rows[sentence] = {"question": f"As an order: {sentence}", "answer": answer}
    return list(rows.values())


def measure(name: str, model: str, run_dir: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train one strategy in this process; returns its row of the table."""
    import torch

    stage = SFT(STRATEGIES[name], data=Data(orders(400, seed=0), format="qa"),
                eval_data=Data(orders(32, seed=1), format="qa"), max_steps=steps, batch_size=8, max_length=192)  # fmt: skip
    rate = float(f"{_RATE * stage.resolved_learning_rate:.3g}")
    pipeline = Pipeline([replace(stage, learning_rate=rate)], model=model, run_dir=run_dir, seed=seed)
    (plan,) = pipeline.plan()
    assert plan is not None
    planned = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the libraries are loaded, the model is not
    record = pipeline.run()["sft"]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - planned) * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    speeds = sorted(line["tokens_per_second"] for line in record.history if "tokens_per_second" in line)
    saved = sum(file.stat().st_size for file in record.folder.glob("*/*.safetensors"))
    return {
        "strategy": name, "learning rate": rate, "trained": plan.trainable_parameters,
        "loss before": record.metrics["loss_before"], "loss after": record.metrics["loss_after"],
        "exact match": record.metrics["exact_match_after"], "peak memory GB": peak / 1e9,
        "tokens/s": speeds[len(speeds) // 2], "adapter MB": saved / 1e6,
    }  # fmt: skip


def folder_of(name: str, run_dir: Path) -> Path:
    """Where one strategy's run is."""
    return run_dir / name.replace(", ", "-").replace(" ", "_")


def row_file(name: str, run_dir: Path, model: str, steps: int, seed: int) -> Path:
    """Where a finished strategy's row is kept: beside its run, under a name that says what it was measured with."""
    asked = f"{Path(model).name}-{steps}-{seed}"
    return run_dir / "rows" / f"{folder_of(name, run_dir).name}-{asked}.json"


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table, best held-out loss first."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for row in sorted(rows, key=lambda row: row["loss after"]):
        cells = [
            row["strategy"], f"{row['learning rate']:g}", f"{row['trained']:,}", f"{row['loss before']:.3f}",
            f"{row['loss after']:.3f}", f"{row['exact match']:.0%}", f"{row['peak memory GB']:.2f}",
            f"{row['tokens/s']:.0f}", f"{row['adapter MB']:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> bool:
    """Held-out loss and exact match of each strategy, the best at the top; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    order = sorted(rows, key=lambda row: -row["loss after"])
    labels = [f"{row['strategy']}  ({row['trained']:,})" for row in order]
    figure, axes = pyplot.subplots(
        1, 2, figsize=(11, 1 + 0.28 * len(rows)), sharey=True, constrained_layout=True
    )
    for axis, column in zip(axes, ("loss after", "exact match"), strict=True):
        axis.scatter([row[column] for row in order], labels, s=28)
        axis.grid(alpha=0.3)
    axes[0].set_xscale("log")  # the best ones lie close together
    axes[0].set_xlabel("held-out loss, nats per token")
    axes[1].set_xlabel("held-out exact match")
    axes[0].set_ylabel("strategy (trained parameters)")
    figure.savefig(path, dpi=120)
    return True


def compare(
    only: Annotated[list[str] | None, typer.Option(help="A strategy by its name in the table; may be repeated.")] = None,
    model: str = "embedded",
    run_dir: str = "runs/compare_strategies",
    steps: int = 10,
    seed: int = 0,
    one: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:  # fmt: skip
    """Train each strategy in a process of its own and write the table and the plot."""
    names, folder = only or list(STRATEGIES), Path(run_dir)
    if unknown := [name for name in names if name not in STRATEGIES]:
        raise typer.BadParameter(f"there is no strategy {unknown[0]!r}; there is {', '.join(STRATEGIES)}")
    if one:
        row = measure(names[0], model, folder_of(names[0], folder), steps, seed)
        kept = row_file(names[0], folder, model, steps, seed)
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(row))
        return
    rows = []
    for name in names:
        print(f"--- {name}", flush=True)
        kept = row_file(name, folder, model, steps, seed)
        if not kept.exists():
            command = [sys.executable, __file__, "--one", "--only", name, "--model", model, "--run-dir", run_dir,
                       "--steps", str(steps), "--seed", str(seed)]  # fmt: skip
            subprocess.run(command, check=True)
        rows.append(json.loads(kept.read_text()))
        (folder / "table.json").write_text(json.dumps(rows, indent=1))
        (folder / "table.md").write_text(as_markdown(rows))
    print(as_markdown(rows))
    if not plot(rows, folder / "plot.png"):
        print("No plot: matplotlib is not installed (pip install matplotlib).")


if __name__ == "__main__":
    typer.run(compare)
