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
from posttrain.ui.chat import ModelServers
from tests.posttrain.ui.asking import STAND_IN

ASK: dict[str, Any] = {"model": "sft", "messages": [{"role": "user", "content": "Hello <b>you</b>"}], "max_tokens": 8, "stream": True}  # fmt: skip


def with_servers(body: Callable[[ModelServers], Awaitable[None]]) -> None:
    async def main() -> None:
        servers = ModelServers(STAND_IN)
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
        assert (await servers.open(tmp_path)).models == ("base", "sft", "dpo")
        assert len((tmp_path / "served").read_text().split()) == 1

    with_servers(body)
    (pid,) = (tmp_path / "served").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_why_a_model_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()

    async def body(servers: ModelServers) -> None:
        with pytest.raises(CommandError, match=r"^ModelError: this run has no model\.$"):
            await servers.open(tmp_path)

    with_servers(body)


def test_what_the_server_refuses_is_told(tmp_path: Path) -> None:
    async def body(servers: ModelServers) -> None:
        with pytest.raises(CommandError, match="max_tokens: at most 1,000 <b>tokens</b>"):
            await said(servers, tmp_path, max_tokens=5000)
        assert (await servers.open(tmp_path)).busy == 0

    with_servers(body)


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
        assert (await servers.open(tmp_path)).busy == 0

    with_servers(body)


def test_the_longest_idle_one_makes_room(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()

    async def body(servers: ModelServers) -> None:
        first, second = [await servers.open(folder) for folder in folders[:2]]
        await said(servers, folders[0])
        await servers.open(folders[2])
        assert second.process.poll() is not None and first.process.poll() is None
        first.process.kill()
        first.process.wait()
        assert await said(servers, folders[0]) == "sft: Hello <b>you</b>"  # one that died is started again

    with_servers(body)
