"""PPO against TRL 1.12's, the last release that had it: memory, speed, and the formulas on the same rollouts.

    python -m venv ~/trl112 && ~/trl112/bin/pip install torch==2.13.0 && \\
        ~/trl112/bin/pip install trl==1.12.0 peft sentencepiece
    python benchmarks/ppo.py --trl112 ~/trl112/bin/python            # about 40 minutes on 2 cores
    python benchmarks/ppo.py --trl112 ~/trl112/bin/python --only formulas

Both sides: the embedded 135M model, LoRA r=16 on all linear layers, 16 answers a step in micro-batches of 4, four PPO
epochs, a reward model, prompts of one length and answers of exactly 24 or 128 tokens (no side stops earlier, so that
both do the same work; in use ours stops at the end of a turn). Each measurement is a process of its own; the peak is
what the process needed above what its imports took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "ppo.json"
ASKED_TOKENS, BATCH, ACCUMULATION, EPOCHS, STEPS = 32, 4, 4, 4, 3
LENGTHS = (24, 128)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl112", type=Path, required=True, help="the Python with TRL 1.12")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--only", choices=("formulas", "speed"))
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        return given.out.write_text(json.dumps(ours(json.loads(given.job.read_text())))) and None
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }
    if given.only != "speed":
        result["formulas"] = formulas(given.trl112)
        print(json.dumps(result["formulas"], indent=2), flush=True)
    if given.only != "formulas":
        for length in LENGTHS:
            result[f"{length} tokens"] = compare(given.trl112, length, given.pairs)
            print(json.dumps(result[f"{length} tokens"], indent=2), flush=True)
            RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def job_of(length: int, folder: str) -> dict[str, Any]:
    from posttrain.data_formats import sample
    from posttrain.pipeline.base_models import find_base, shared_tokenizer

    base = find_base("embedded").folder
    tokenizer = shared_tokenizer(base)
    rows = [json.loads(line) for line in sample("text").read_text().splitlines()]
    text = " ".join(row["text"] for row in rows)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = [
        tokenizer.decode(ids[at : at + ASKED_TOKENS])
        for at in range(0, len(ids) - ASKED_TOKENS, ASKED_TOKENS)
    ]
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)[
            "input_ids"
        ]
        for text in texts
    ]
    width = statistics.mode(map(len, rendered))
    both = [(text, ids) for text, ids in zip(texts, rendered, strict=True) if len(ids) == width][:48]
    assert len(both) == 48
    return {
        "base": str(base), "folder": folder, "texts": [text for text, _ in both],
        "prompts": [ids for _, ids in both], "new_tokens": length, "batch_size": BATCH,
        "gradient_accumulation": ACCUMULATION, "ppo_epochs": EPOCHS, "steps": STEPS, "learning_rate": 1e-5,
        "rollout_batch": BATCH * ACCUMULATION, "pad_id": int(tokenizer.pad_token_id), "stops": False,
    }  # fmt: skip


SIDES = ("ours", "ours, shared critic", "trl 1.12", "our sft")


def compare(trl112: Path, length: int, pairs: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(pairs):
        for side in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                job = job_of(length, folder) | {"side": side}
                script = HERE / ("ppo_trl112.py" if side == "trl 1.12" else "ppo.py")
                python = trl112 if side == "trl 1.12" else Path(sys.executable)
                found[side].append(run(python, script, job))
                print(side, found[side][-1], flush=True)
    out: dict[str, Any] = {side: summary(runs) for side, runs in found.items()}
    trl, sft = out["trl 1.12"], out["our sft"]
    for side in SIDES[:2]:
        out[side] |= {
            "memory against trl 1.12": round(out[side]["peak_GB"] / trl["peak_GB"], 3),
            "memory against our sft": round(out[side]["peak_GB"] / sft["peak_GB"], 3),
            "memory against the plan": round(out[side]["peak_GB"] / out[side]["planned_GB"], 3),
            "speed against trl 1.12": round(trl["seconds"] / out[side]["seconds"], 2),
            "the same, of work in GFLOP": round(trl["work_GFLOP"] / out[side]["work_GFLOP"], 2),
        }
    return out


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the steps of all runs, without each run's first one, which warms up."""
    seconds = [s for each in runs for s in each.get("seconds", [])[1:]]
    rates = [(a + b) / 2 for each in runs for a, b in pairwise(each.get("rates", [])[1:])]
    out: dict[str, Any] = {"peak_GB": round(statistics.median(each["peak_bytes"] for each in runs) / 1e9, 3)}
    if seconds:
        out |= {
            "seconds": round(statistics.median(seconds), 2),
            "seconds of each step": [round(s, 1) for s in seconds],
            "machine in GFLOP/s": [round(r) for r in rates],
            # What the machine could have computed meanwhile: seconds that do not depend on how fast it was just then.
            "work_GFLOP": round(statistics.median(s * r for s, r in zip(seconds, rates, strict=True))),
            "answers_per_second": round(BATCH * ACCUMULATION / statistics.median(seconds), 3),
        }
    return out | {name: value for name, value in runs[-1].items() if name in ("planned_GB", "parts")}


def run(python: Path, script: Path, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        written, result = Path(folder) / "job.json", Path(folder) / "result.json"
        written.write_text(json.dumps(job))
        command = [str(python), str(script), str(written), str(result)]
        if script.name == "ppo.py":
            command = [str(python), str(script), "--trl112", "-", "--job", str(written), "--out", str(result)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """One PPO stage, or one SFT stage of the same batch and lengths, through the Pipeline."""
    import transformers
    import trl  # noqa: F401
    from peft import LoraConfig  # noqa: F401
    from transformers import AutoModelForCausalLM, Trainer  # noqa: F401

    from posttrain import PPO, SFT, LoRA, Pipeline
    from posttrain.stages.online import rollouts
    from posttrain.stages.ppo.session import PPOSession

    sys.path.insert(0, str(HERE))
    from ppo_clock import gemm_rate, peak_bytes

    transformers.logging.set_verbosity_error()
    imported = peak_bytes()
    prompts = [{"prompt": text} for text in job["texts"]]
    width = len(job["prompts"][0])
    common: dict[str, Any] = {
        "batch_size": job["batch_size"], "gradient_accumulation": job["gradient_accumulation"],
        "max_steps": job["steps"], "max_length": width + job["new_tokens"], "learning_rate": job["learning_rate"],
    }  # fmt: skip
    rates: list[float] = []
    if job["side"] == "our sft":
        answer = " ".join(["river"] * (width + job["new_tokens"]))
        rows = [row | {"completion": answer} for row in prompts]
        stage: Any = SFT(LoRA(r=16), data=rows, eval_data=rows[:1], overlong="truncate", **common)
    else:
        rollouts.stop_ids = lambda *_: ()  # type: ignore[attr-defined]  # answers of exactly new_tokens
        one_step = PPOSession._one_step

        def timed(self: Any) -> None:
            rates.append(gemm_rate())
            one_step(self)

        PPOSession._one_step = timed  # type: ignore[method-assign]
        stage = PPO(
            LoRA(r=16), data=prompts, eval_data=prompts[:1], max_new_tokens=job["new_tokens"], gate=None,
            critic="shared" if "shared" in job["side"] else "adapter", reward=reward_adapter(job),
            trainer_args={"num_ppo_epochs": job["ppo_epochs"], "stop_kl": 1e9}, **common,
        )  # fmt: skip
    pipeline = Pipeline([stage], model=job["base"], run_dir=Path(job["folder"]) / "run")
    (plan,) = pipeline.plan()
    assert plan is not None
    record = next(iter(pipeline.run()))
    found = {"peak_bytes": peak_bytes() - imported, "planned_GB": round(plan.memory_bytes / 1e9, 3)}
    if job["side"] == "our sft":
        return found
    parts = ("rollout", "scoring", "update")
    seconds = [[line[f"seconds_{part}"] for part in parts] for line in record.history]
    medians = {part: round(statistics.median(s[i] for s in seconds[1:]), 2) for i, part in enumerate(parts)}
    return found | {"seconds": [sum(s) for s in seconds], "rates": [*rates, gemm_rate()], "parts": medians}


def reward_adapter(job: dict[str, Any]) -> Any:
    """A reward model on the same base, made in a process of its own so that its peak is not counted here."""
    from posttrain import RewardModelRef

    folder = Path(job["folder"]) / "reward"
    code = (
        "import sys; from posttrain import Pipeline, RewardModel, LoRA; "
        "Pipeline([RewardModel(LoRA(r=16), data=[{'prompt': f'{i}', 'chosen': 'yes', 'rejected': 'no'} "
        "for i in range(4)], max_steps=1, batch_size=2)], model=sys.argv[2], run_dir=sys.argv[1]).run()"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), job["base"]], check=True, capture_output=True)
    return RewardModelRef(folder)


def formulas(trl112: Path) -> dict[str, Any]:
    """Largest differences between TRL's numbers and ours, from the same tokens, log-probabilities, values and scores."""
    import torch

    from posttrain.pipeline.base_models import find_base
    from posttrain.stages.ppo.formulas import (
        generalized_advantages,
        policy_losses,
        token_kl,
        token_rewards,
        value_losses,
        whiten,
    )

    with tempfile.TemporaryDirectory() as folder:
        tokens = 12
        job = job_of(tokens, folder) | {
            "base": str(find_base("tiny-random").folder), "steps": 1, "batch_size": 8, "gradient_accumulation": 1,
            "rollout_batch": 8, "learning_rate": 3e-3, "record": f"{folder}/record.pt", "pad_id": 0,
            "prompts": [[3 + (7 * i + j) % 200 for j in range(6)] for i in range(8)],
        }  # fmt: skip
        run(trl112, HERE / "ppo_trl112.py", job)
        kept = torch.load(job["record"], weights_only=True)
    old, reference, *new = kept["log_probs"]
    start = kept["prompts"][0].shape[1]
    values = kept["values"][0][:, start - 1 : -1, 0]
    mask = torch.ones_like(old)
    rewards = token_rewards(kept["scores"][1], token_kl(old, reference, "k1"), mask, 0.05)
    advantages, returns = generalized_advantages(rewards, values, mask, 1.0, 0.95)
    whitened = whiten(advantages, mask)
    found = {
        "advantages": float((advantages - kept["advantages"][0]).abs().max()),
        "whitened advantages": float((whitened - kept["whitened"][0]).abs().max()),
    }
    # The last calls of masked_mean: value loss, its clipped share, policy loss, its clipped share, for each epoch.
    means = kept["means"][-4 * len(new) :]
    their_value, their_policy = means[0::4], means[2::4]
    worst = {"policy loss": 0.0, "value loss": 0.0}
    for epoch, log_probs in enumerate(new):
        order = kept["order"][epoch]  # TRL shuffles the rows in each epoch
        policy, _ = policy_losses(log_probs, old[order], whitened[order], 0.2)
        value = kept["new_values"][epoch][:, start - 1 : -1, 0]
        of_value, _ = value_losses(value, values[order], returns[order], 0.2)
        worst["policy loss"] = max(worst["policy loss"], abs(float(policy.mean() - their_policy[epoch])))
        worst["value loss"] = max(worst["value loss"], abs(float(of_value.mean() - 0.5 * their_value[epoch])))
    return {"answers": len(old), "epochs": len(new), "largest differences": found | worst}


if __name__ == "__main__":
    main()
