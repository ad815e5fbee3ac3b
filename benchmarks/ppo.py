"""PPO against TRL 1.12's, the last release that had it: memory, speed, and the formulas on the same rollouts.

    python -m venv /tmp/trl112 && /tmp/trl112/bin/pip install torch==2.13.0 && \\
        /tmp/trl112/bin/pip install trl==1.12.0 peft sentencepiece
    python benchmarks/ppo.py --trl112 /tmp/trl112/bin/python            # about 40 minutes on 2 cores
    python benchmarks/ppo.py --trl112 /tmp/trl112/bin/python --only formulas

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


def compare(trl112: Path, length: int, pairs: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl 1.12": [], "our sft": []}
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            job = job_of(length, folder)
            found["ours"].append(run(Path(sys.executable), HERE / "ppo.py", job | {"side": "ppo"}))
            found["trl 1.12"].append(run(trl112, HERE / "ppo_trl112.py", job))
            found["our sft"].append(run(Path(sys.executable), HERE / "ppo.py", job | {"side": "sft"}))
    answers = BATCH * ACCUMULATION
    out: dict[str, Any] = {}
    for side, runs in found.items():
        seconds = [s for each in runs for s in each["seconds"][1:]]  # the first step warms up
        out[side] = {
            "peak_GB": [round(each["peak_bytes"] / 1e9, 3) for each in runs],
            "answers_per_second": round(answers / statistics.median(seconds), 3),
            "seconds_per_step": [round(s, 2) for s in seconds],
        } | {key: value for key, value in runs[-1].items() if key not in ("seconds", "peak_bytes")}
    peak = {side: statistics.median(each["peak_GB"]) for side, each in out.items()}
    out["memory against trl 1.12"] = round(peak["ours"] / peak["trl 1.12"], 3)
    out["memory against our sft"] = round(peak["ours"] / peak["our sft"], 3)
    out["speed against trl 1.12"] = round(
        out["ours"]["answers_per_second"] / out["trl 1.12"]["answers_per_second"], 2
    )
    return out


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


def peak_bytes() -> int:
    """The largest resident memory of this process so far; that of a parent is not in it."""
    (line,) = [
        each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """One PPO stage, or one SFT stage of the same batch and lengths, through the Pipeline."""
    import transformers
    import trl  # noqa: F401
    from peft import LoraConfig  # noqa: F401
    from transformers import AutoModelForCausalLM, Trainer  # noqa: F401

    from posttrain import PPO, SFT, LoRA, Pipeline
    from posttrain.stages.online import rollouts

    transformers.logging.set_verbosity_error()
    imported = peak_bytes()
    prompts = [{"prompt": text} for text in job["texts"]]
    width = len(job["prompts"][0])
    common: dict[str, Any] = {
        "batch_size": job["batch_size"], "gradient_accumulation": job["gradient_accumulation"],
        "max_steps": job["steps"], "max_length": width + job["new_tokens"], "learning_rate": 1e-5,
    }  # fmt: skip
    if job["side"] == "sft":
        answer = " ".join(["river"] * (width + job["new_tokens"]))
        rows = [row | {"completion": answer} for row in prompts]
        stage: Any = SFT(LoRA(r=16), data=rows, eval_data=rows[:1], overlong="truncate", **common)
    else:
        rollouts.stop_ids = lambda *_: ()  # type: ignore[attr-defined]  # answers of exactly new_tokens
        stage = PPO(
            LoRA(r=16), data=prompts, eval_data=prompts[:1], max_new_tokens=job["new_tokens"], gate=None,
            reward=reward_adapter(job), trainer_args={"num_ppo_epochs": job["ppo_epochs"], "stop_kl": 1e9}, **common,
        )  # fmt: skip
    pipeline = Pipeline([stage], run_dir=Path(job["folder"]) / job["side"])
    (plan,) = pipeline.plan()
    assert plan is not None
    record = next(iter(pipeline.run()))
    peak = peak_bytes() - imported
    seconds = [
        line["seconds_rollout"] + line["seconds_scoring"] + line["seconds_update"]
        if "seconds_rollout" in line
        else line.get("step_seconds", 1.0)
        for line in record.history
    ]
    parts = {
        part: round(statistics.median(line[f"seconds_{part}"] for line in record.history[1:]), 2)
        for part in ("rollout", "scoring", "update")
        if f"seconds_{part}" in record.history[0]
    }
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "planned_GB": round(plan.memory_bytes / 1e9, 3),
        "parts": parts,
    }


def reward_adapter(job: dict[str, Any]) -> Any:
    """A reward model on the same base, made in a process of its own so that its peak is not counted here."""
    from posttrain import RewardModelRef

    folder = Path(job["folder"]) / "reward"
    code = (
        "import sys; from posttrain import Pipeline, RewardModel, LoRA; "
        "Pipeline([RewardModel(LoRA(r=16), data=[{'prompt': f'{i}', 'chosen': 'yes', 'rejected': 'no'} "
        "for i in range(4)], max_steps=1, batch_size=2)], run_dir=sys.argv[1]).run()"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True)
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
