"""Both servers, asked thousands of odd things: no answer is a 5xx, and the next right request is answered."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from posttrain.serving.app import make_app
from posttrain.serving.bank import Bank, load_runs
from posttrain.serving.engine import Limits
from posttrain.ui.app import Site
from posttrain.ui.chat import ModelServers
from posttrain.web import Guard
from tests.posttrain.report.runs import rlhf
from tests.posttrain.serving.runs import random_lora, write_run
from tests.posttrain.serving.test_limits import CHAT, COMPLETION
from tests.posttrain.ui.asking import STAND_IN, TOKEN
from tests.posttrain.web.running import running
from tests.security.fuzzing import Server, check

FEW, ALL = 150, 5_000  # of each server
STATUSES = (200, 400, 401, 403, 404, 405, 413, 415, 421)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fuzzed")
    bank = Bank(Limits(rows=2, waiting=4, cache_tokens=160, answer_tokens=3, seconds=20))
    load_runs(bank, [write_run(folder / "run", {"sft": random_lora(1, 2)})], print)
    bodies = {
        "/v1/chat/completions": CHAT, "/v1/completions": COMPLETION, "/v1/models": None, "/v1/models/sft": None, "/health": None,
        "/v1/load_lora_adapter": {"lora_name": "x", "lora_path": str(folder / "run")}, "/v1/unload_lora_adapter": {"lora_name": "x"},
    }  # fmt: skip
    with running(Guard(make_app(bank, [folder]), token=TOKEN)) as address:
        yield Server(address, TOKEN, bodies)
    bank.close()


@pytest.fixture
def paged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The page, whose commands answer at once and do nothing."""
    monkeypatch.setattr("posttrain.ui.commands.PROGRAM", ("/bin/sh", "-c", "echo {}"))
    (tmp_path / "runs").mkdir()
    site = Site.of(tmp_path / "runs", ModelServers(STAND_IN))
    id = site.runs.id_of(rlhf(site.root / "a"))
    recipe = {"name": "b", "yaml": "stages:\n  - SFT\n"}
    chat = {"run": id, "model": "sft", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    bodies = {
        "/": None, "/new": None, "/data": None, f"/runs/{id}": None, f"/runs/{id}/report.html": None, "/api/events": None,
        f"/api/runs/{id}/events": None, f"/api/runs/{id}/output": None, "/api/schema": None, f"/api/runs/{id}/stop": {},
        f"/api/runs/{id}/resume": {}, "/api/plan": recipe, "/api/start": recipe | {"script": "extraction", "flags": {"model": "x"}},
        "/api/inspect-path": {"name": "a.jsonl", "model": "x", "kind": "text", "max_length": "5"}, "/api/inspect?name=a.jsonl": {},
        "/api/chat/open": {"run": id}, "/api/chat": chat,
    }  # fmt: skip
    with running(site.guarded(TOKEN)) as address:
        yield Server(address, TOKEN, bodies)


def is_well(server: Server, path: str) -> bool:
    headers = {"authorization": f"Bearer {server.token}"}
    return httpx.get(server.address + path, headers=headers, trust_env=False, verify=False).status_code == 200


@pytest.mark.parametrize(("count", "seed"), [(FEW, 0), pytest.param(ALL, 1, marks=pytest.mark.slow)])
def test_the_api_answers_no_5xx(served: Server, count: int, seed: int) -> None:
    wanted = STATUSES if count == ALL else (200, 400)
    check(served, count, seed, lambda: is_well(served, "/v1/models"), wanted)


@pytest.mark.parametrize(("count", "seed"), [(FEW, 0), pytest.param(ALL, 1, marks=pytest.mark.slow)])
def test_the_page_answers_no_5xx(paged: Server, count: int, seed: int) -> None:
    wanted = STATUSES if count == ALL else (200, 400)
    check(paged, count, seed, lambda: is_well(paged, "/"), wanted)
