"""A model server for each run: started once, asked with a key of its own, ended when nobody talks to it."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import CommandError
from posttrain.ui.chat import ModelServers, Talkers
from tests.posttrain.serving.runs import random_lora, write_run
from tests.posttrain.ui.asking import servers as stand_ins

ASK: dict[str, Any] = {"model": "sft", "messages": [{"role": "user", "content": "Hello <b>you</b>"}], "max_tokens": 8, "stream": True}  # fmt: skip


def with_servers(root: Path, body: Callable[[ModelServers], Awaitable[None]]) -> None:
    async def main() -> None:
        servers = stand_ins(root)
        try:
            await body(servers)
        finally:
            servers.close()

    asyncio.run(main())


async def said(servers: ModelServers, folder: Path, **more: Any) -> str:
    text = b"".join([piece async for piece in await servers.answer(folder, ASK | more)]).decode()
    events = [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: {")]
    return "".join(event["choices"][0]["delta"]["content"] for event in events)


def test_one_server_answers_for_all_stages_at_once(tmp_path: Path) -> None:
    async def body(servers: ModelServers) -> None:
        both = await asyncio.gather(said(servers, tmp_path), said(servers, tmp_path, model="dpo"))
        assert both == ["sft: Hello <b>you</b>", "dpo: Hello <b>you</b>"]
        assert await servers.open(tmp_path) == ("base", "sft", "dpo")
        assert len((tmp_path / "served").read_text().split()) == 1

    with_servers(tmp_path, body)
    (pid,) = (tmp_path / "served").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_why_a_model_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()

    async def body(servers: ModelServers) -> None:
        with pytest.raises(CommandError, match=r"^ModelError: this run has no model\.$"):
            await servers.open(tmp_path)

    with_servers(tmp_path, body)


def test_what_the_server_refuses_is_told(tmp_path: Path) -> None:
    async def body(servers: ModelServers) -> None:
        with pytest.raises(CommandError, match="max_tokens: at most 1,000 <b>tokens</b>"):
            await said(servers, tmp_path, max_tokens=5000)
        assert servers.opened[0].busy == 0

    with_servers(tmp_path, body)


@pytest.mark.parametrize("how", ["SLEEP", "HANG"])
def test_who_leaves_ends_the_answer(tmp_path: Path, how: str) -> None:
    async def body(servers: ModelServers) -> None:
        asked = [{"role": "user", "content": how}]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                async for _ in await servers.answer(tmp_path, ASK | {"messages": asked}):
                    pass
        until = time.monotonic() + 20
        while not (tmp_path / "left").exists():
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
        assert servers.opened[0].busy == 0

    with_servers(tmp_path, body)


def test_the_longest_idle_one_makes_room(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()

    async def body(servers: ModelServers) -> None:
        for folder in folders[:2]:
            await servers.open(folder)
        first, second = servers.opened
        await said(servers, folders[0])
        await servers.open(folders[2])
        assert second.process.poll() is not None and first.process.poll() is None
        first.process.kill()
        first.process.wait()
        assert await said(servers, folders[0]) == "sft: Hello <b>you</b>"  # one that died is started again

    with_servers(tmp_path, body)


def test_runs_on_one_base_are_served_together(tmp_path: Path) -> None:
    """And a stage that is finished while its run is open joins; what a server cannot load is not offered."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        (folder / "base").write_text("one")
    stages = {folder: {"sft": folder / "sft"} for folder in folders}

    async def main() -> None:
        servers = stand_ins(tmp_path)
        servers.talkers = lambda folder: Talkers("one", dict(stages[folder]))
        try:
            assert await servers.open(folders[0]) == ("base", "sft")
            assert await servers.open(folders[1]) == ("base", "sft")
            assert len(servers.opened) == 1 and not (folders[1] / "served").exists()
            answers = [await said(servers, folder) for folder in folders]
            assert answers[0] == "sft: Hello <b>you</b>"
            assert answers[1].startswith("sft.") and answers[1] != answers[0]
            stages[folders[1]] |= {"dpo": folders[1] / "dpo", "prompts": folders[1] / "prompts"}
            assert await servers.open(folders[1]) == ("base", "sft", "dpo")
            assert (await said(servers, folders[1], model="dpo")).startswith("dpo.")
        finally:
            servers.close()

    asyncio.run(main())


def test_what_can_be_talked_to_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"cpt": random_lora(1, 2), "sft": random_lora(2, 3)})
    talkers = Talkers.of(run.folder)
    assert talkers.base == run.start.fingerprint
    assert talkers.stages == {name: run[name].folder for name in ("cpt", "sft")}
