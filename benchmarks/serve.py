"""Tokens a second, first-token latency and memory of `posttrain serve`, beside `transformers serve` on the same model.

    python benchmarks/serve.py                                # embedded model, about 40 minutes on 2 idle cores
    python benchmarks/serve.py --peer venv/bin/python         # a Python that has transformers[serving]; else this one
    python benchmarks/serve.py --model tiny-random --pairs 1  # whether it works, not what it gives

Paired: in each round both servers are started anew, one after the other, and asked the same prompts greedily, by 1, 8 and
32 clients. A client streams one answer after the other. A token is what the model's tokenizer finds in the answer's text.
"ours" asks the base, "ours, 8 adapters" eight stages and so eight adapters in every batch. Memory is the server's resident
set once it has answered, with a run of 1 stage and one of 8 (LoRA r=16 on all linear layers, random).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

CLIENTS, TOKENS, RANK, MOST_ADAPTERS = (1, 8, 32), 64, 16, 8
REQUESTS = {1: 4, 8: 3, 32: 2}  # of each client
RESULTS = Path(__file__).with_name("serve.json")


@dataclass(frozen=True)
class Asked:
    """A server and what it is asked for."""

    address: str
    headers: dict[str, str]
    models: Sequence[str]


def prompts() -> list[str]:
    from posttrain.data_formats import sample

    lines = sample("prompt").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = [row["prompt"] for row in rows]
    return [one if isinstance(one, str) else one[-1]["content"] for one in found]


async def one_client(
    number: int, count: int, asked: Asked, texts: Sequence[str], client: Any
) -> list[tuple[float, str]]:
    """[(seconds to the first token, the answer)]."""
    found = []
    for i in range(count):
        body = {
            "model": asked.models[(number + i) % len(asked.models)], "max_tokens": TOKENS, "temperature": 0, "stream": True,
            "messages": [{"role": "user", "content": texts[(number * count + i) % len(texts)]}],
        }  # fmt: skip
        begun, first, text = time.perf_counter(), 0.0, ""
        async with client.stream(
            "POST", f"{asked.address}/v1/chat/completions", json=body, headers=asked.headers
        ) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                choices = json.loads(line[6:]).get("choices") or [{}]
                if part := (choices[0].get("delta") or {}).get("content"):
                    first = first or time.perf_counter() - begun
                    text += part
        found.append((first, text))
    return found


async def measure(asked: Asked, clients: int, texts: Sequence[str], tokenizer: Any) -> dict[str, float]:
    import httpx

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=1800, limits=limits, verify=False, trust_env=False) as client:
        begun = time.perf_counter()
        work = (one_client(i, REQUESTS[clients], asked, texts, client) for i in range(clients))
        answers = [one for each in await asyncio.gather(*work) for one in each]
        seconds = time.perf_counter() - begun
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for _, text in answers)
    firsts = sorted(first for first, _ in answers)
    return {
        "tokens_per_second": tokens / seconds, "tokens": tokens, "first_token_median": statistics.median(firsts),
        "first_token_slowest": firsts[-1],
    }  # fmt: skip


@contextlib.contextmanager
def server(
    command: Sequence[str], address: str, headers: dict[str, str], path: str, env: dict[str, str]
) -> Iterator[int]:
    """Its process id, once it answers."""
    import httpx

    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **env})
        try:
            for _ in range(1200):
                with contextlib.suppress(httpx.HTTPError):
                    if (
                        httpx.get(address + path, headers=headers, verify=False, trust_env=False).status_code
                        == 200
                    ):
                        break
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{' '.join(command)} ended:\n{log.read()[-3000:]}")
                time.sleep(0.5)
            yield process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def resident(pid: int) -> int:
    """Bytes, of Linux."""
    line = next(
        one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")
    )
    return int(line.split()[1]) * 1024


def write_run(folder: Path, model: str, stages: int) -> int:
    """A run of so many stages with random adapters, each on the base. Returns the bytes of all weights of adapters."""
    import torch

    from posttrain.pipeline import AdapterRef, ModelRef
    from posttrain.pipeline.durable import commit_folder, write_sealed
    from posttrain.pipeline.model_ref import adapter_digest
    from posttrain.pipeline.plain_lora import Factors, PlainLora
    from posttrain.pipeline.run import RUN_FILE, StageRecord

    start = ModelRef.of_base(model)
    linear = {
        name: module.weight.shape
        for name, module in start.load_model().named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    entries = []
    for i in range(stages):
        place = folder / "stages" / f"stage{i}"
        place.mkdir(parents=True)
        torch.manual_seed(i)
        lora = PlainLora(
            {
                name: Factors(torch.randn(RANK, wide) * 0.01, torch.randn(high, RANK) * 0.01)
                for name, (high, wide) in linear.items()
            }
        )
        commit_folder(place / "adapter", lora.save, {"stands_on": start.fingerprint})
        adapter = AdapterRef(place / "adapter", adapter_digest(place / "adapter"), start.fingerprint)
        StageRecord(
            name=place.name, type="SFT", key="", folder=place, models={"policy": start.with_adapter(adapter)}, metrics={}, data={},
            proofs={}, samples=[], settings=[], seconds=0.0,
        ).write(folder)  # fmt: skip
        entries.append({"name": place.name, "folder": f"stages/{place.name}"})
    value = {
        "posttrain": "benchmark",
        "pipeline": [one["name"] for one in entries],
        "model": model,
        "seed": 0,
    }
    write_sealed(folder / RUN_FILE, value | {"start": start.as_dict(folder), "stages": entries})
    return stages * sum(4 * RANK * (high + wide) for high, wide in linear.values())


def round_of(
    side: str, model: str, run: Path, peer: str, texts: Sequence[str], tokenizer: Any
) -> dict[str, Any]:
    """Start one server, ask it, end it."""
    from posttrain.pipeline.base_models import find_base

    port, key = free_port(), "k" * 32
    address, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {key}"}
    folder = str(find_base(model).folder)
    if side == "transformers":
        command = [peer, "-m", "transformers.cli.transformers", "serve", folder, "--port", str(port)]
        started = server([*command, "--continuous-batching"], address, {}, "/health", {})
        asked = Asked(address, {}, [folder])
    else:
        command = [sys.executable, "-m", "posttrain", "serve", str(run), "--port", str(port)]
        started = server(command, address, headers, "/v1/models", {"POSTTRAIN_API_KEY": key})
        names = [f"stage{i}" for i in range(MOST_ADAPTERS)] if "adapters" in side else ["base"]
        asked = Asked(address, headers, names)
    with started as pid:
        asyncio.run(one_client_warm(asked, texts))
        found: dict[str, Any] = {str(n): asyncio.run(measure(asked, n, texts, tokenizer)) for n in CLIENTS}
        found["resident_bytes"] = resident(pid)
    return found


async def one_client_warm(asked: Asked, texts: Sequence[str]) -> None:
    import httpx

    async with httpx.AsyncClient(timeout=1800, verify=False, trust_env=False) as client:
        await one_client(0, 1, asked, texts, client)


def memory_of(run: Path, texts: Sequence[str]) -> int:
    """Resident bytes of a server of this run that has answered for each of its stages."""
    port, key = free_port(), "k" * 32
    address, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {key}"}
    command = [sys.executable, "-m", "posttrain", "serve", str(run), "--port", str(port)]
    with server(command, address, headers, "/v1/models", {"POSTTRAIN_API_KEY": key}) as pid:
        for stage in sorted((run / "stages").iterdir()):
            asyncio.run(one_client_warm(Asked(address, headers, [stage.name]), texts))
        return resident(pid)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()

    from posttrain.pipeline.base_models import find_base, load_tokenizer

    texts, tokenizer = prompts(), load_tokenizer(find_base(given.model).folder)
    folder = Path(tempfile.mkdtemp())
    try:
        runs = {count: folder / f"run{count}" for count in (1, MOST_ADAPTERS)}
        adapter_bytes = {count: write_run(run, given.model, count) for count, run in runs.items()}
        sides = ["ours", *([] if given.no_peer else ["transformers"]), "ours, 8 adapters"]
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(given.pairs):
            for side in sides:
                rounds[side].append(
                    round_of(side, given.model, runs[MOST_ADAPTERS], given.peer, texts, tokenizer)
                )
                print(f"round {number + 1}, {side}: {json.dumps(rounds[side][-1])}", flush=True)
        memory = {str(count): memory_of(run, texts) for count, run in runs.items()}
        print(json.dumps(write_result(given, rounds, memory, adapter_bytes), indent=2))
    finally:
        shutil.rmtree(folder)


def write_result(
    given: argparse.Namespace,
    rounds: dict[str, list[dict[str, Any]]],
    memory: dict[str, int],
    adapter_bytes: dict[int, int],
) -> dict[str, Any]:
    rates = {
        side: {str(n): statistics.median(one[str(n)]["tokens_per_second"] for one in found) for n in CLIENTS}
        for side, found in rounds.items()
    }
    added = memory[str(MOST_ADAPTERS)] - memory["1"] - (adapter_bytes[MOST_ADAPTERS] - adapter_bytes[1])
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            name: version(name) for name in ("torch", "transformers", "peft", "starlette", "uvicorn")
        },
        "model": given.model,
        "median tokens per second, by clients": rates,
        "ours at 8 clients / at 1": rates["ours"]["8"] / rates["ours"]["1"],
        "resident bytes, by adapters": memory,
        "bytes of the adapters": {str(count): size for count, size in adapter_bytes.items()},
        "growth from 1 to 8 but for the adapters": added / memory["1"],
        "rounds": rounds,
    }
    if "transformers" in rates:
        result["ours / transformers"] = {
            n: rates["ours"][n] / rates["transformers"][n] for n in rates["ours"]
        }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    main()
