"""The models that the page talks to: runs on one base are served by one process, which loads it once."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from posttrain.errors import CommandError
from posttrain.pipeline import Run
from posttrain.web import new_token

from .commands import PROGRAM, environment, last_words

_BASE = "base"  # what every server calls the model that its runs stand on
_MOST = 2  # servers at once: each holds a model in memory
_IDLE_SECONDS = 900.0  # after which a model is let go
_START_SECONDS = 600.0
_ANSWER_SECONDS = 600.0  # without a word


@dataclass(frozen=True)
class Reply:
    """What a server answers, and the connection that it comes by."""

    response: http.client.HTTPResponse
    connection: socket.socket

    def end(self) -> None:
        """From any thread. Closing alone would wait for a thread that reads, and so for the next word of the model."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.response.close()


@dataclass(frozen=True)
class Talkers:
    """What of a run can be talked to: its base's fingerprint, and its stages' folders by their names."""

    base: str
    stages: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path) -> Talkers:
        run = Run.load(folder)
        stages = {title: record.folder for title, record in run.language_models.items()}
        return cls(run.start.fingerprint, stages)


@dataclass
class ModelServer:
    """A `posttrain serve`, and the key that only this process knows."""

    base: str  # fingerprint of the model that all its runs stand on
    process: subprocess.Popen[bytes]
    port: int
    key: str
    errors: IO[bytes]  # what it says
    # Of the stages' folders; None: it cannot serve that one.
    names: dict[Path, str | None] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)
    busy: int = 0  # answers on their way

    def request(self, method: str, path: str, body: Any = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.connect()
        opened = connection.sock
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return Reply(connection.getresponse(), opened)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


@dataclass
class ModelServers:
    """Starts servers when they are asked for and ends those that nobody talks to; used from one event loop."""

    root: Path  # of the runs
    # Followed by the run folder, --port, --adapters. Stages that are no LoRA can be talked to, too.
    command: Sequence[str] = (*PROGRAM, "serve", "--whole")
    talkers: Callable[[Path], Talkers] = Talkers.of
    opened: list[ModelServer] = field(default_factory=list, init=False)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def open(self, folder: Path) -> tuple[str, ...]:
        """What can be talked to of a run, once it answers; a stage that was finished since is among it.

        Raises CommandError with the last words of a server that does not.
        """
        return tuple((await self._serving(folder))[1])

    async def _serving(self, folder: Path) -> tuple[ModelServer, dict[str, str]]:
        """The server of the base that the run stands on, and what it calls the run's stages, by their names."""
        async with self._starting:
            for dead in [one for one in self.opened if one.process.poll() is not None]:
                await self._end(dead)
            talkers = await asyncio.to_thread(self.talkers, folder)
            server = next((one for one in self.opened if one.base == talkers.base), None)
            if server is None:
                server = await self._start(folder, talkers)
            for title, stage in talkers.stages.items():
                if stage not in server.names:
                    server.names[stage] = await _load(server, title, stage)
            server.used = time.monotonic()
        known = ((title, server.names[stage]) for title, stage in talkers.stages.items())
        return server, {_BASE: _BASE, **{title: name for title, name in known if name is not None}}

    async def _start(self, folder: Path, talkers: Talkers) -> ModelServer:
        await self._make_room()
        server = await asyncio.to_thread(self._launch, folder, talkers.base)
        try:
            names = await asyncio.wait_for(_ready(server), _START_SECONDS)
        except BaseException:
            await asyncio.to_thread(server.close)
            raise
        given = set(names) - {_BASE}
        server.names = {stage: title for title, stage in talkers.stages.items() if title in given}
        self.opened.append(server)
        return server

    async def answer(self, folder: Path, request: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """The server's answer as it comes, in server-sent events; ends with the one who reads it.

        Raises CommandError for what the server refuses, before the first byte.
        """
        server, names = await self._serving(folder)
        asked = {**request, "model": names.get(str(request["model"]), request["model"])}
        server.busy += 1
        try:
            reply = await _in_thread(server.request, "POST", "/v1/chat/completions", asked)
            if reply.response.status != 200:
                raise CommandError(_refusal(reply.response.read(1 << 16), reply.response.status))
        except (OSError, http.client.HTTPException) as error:
            server.busy -= 1
            raise _broke_off(error) from error
        except BaseException:
            server.busy -= 1
            raise
        pieces = _pieces(server, reply)
        await anext(pieces)  # begun, so that its end comes whoever drops it
        return pieces

    async def sweep(self) -> None:
        """End what has been idle for long, for ever."""
        while True:
            await asyncio.sleep(30)
            late = time.monotonic() - _IDLE_SECONDS
            for server in list(self.opened):
                if not server.busy and server.used < late:
                    await self._end(server)

    def close(self) -> None:
        for server in self.opened:
            server.close()
        self.opened.clear()

    async def _make_room(self) -> None:
        idle = sorted((one for one in self.opened if not one.busy), key=lambda one: one.used)
        for one in idle[: max(0, len(self.opened) - _MOST + 1)]:
            await self._end(one)

    async def _end(self, server: ModelServer) -> None:
        self.opened.remove(server)
        await asyncio.to_thread(server.close)

    def _launch(self, folder: Path, base: str) -> ModelServer:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        key, errors = new_token(), tempfile.TemporaryFile()  # noqa: SIM115  (it is closed with the server)
        process = subprocess.Popen(
            [*self.command, str(folder), "--port", str(port), "--adapters", str(self.root)],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment() | {"POSTTRAIN_API_KEY": key},
        )  # fmt: skip
        return ModelServer(base, process, port, key, errors)


async def _load(server: ModelServer, title: str, stage: Path) -> str | None:
    """The name under which a server has loaded a stage's adapter, or None where it refuses to."""
    name = f"{title[:48]}.{sha256(str(stage).encode()).hexdigest()[:12]}"
    asked = {"lora_name": name, "lora_path": str(stage)}
    try:
        reply = await _in_thread(server.request, "POST", "/v1/load_lora_adapter", asked)
    except (OSError, http.client.HTTPException) as error:
        raise _broke_off(error) from error
    reply.end()
    return name if reply.response.status == 200 else None


async def _ready(server: ModelServer) -> tuple[str, ...]:
    """The names of its models, when it answers."""
    while server.process.poll() is None:
        with contextlib.suppress(ConnectionError):
            response = (await _in_thread(server.request, "GET", "/v1/models")).response
            if response.status == 200:
                return tuple(str(model["id"]) for model in json.loads(response.read())["data"])
            raise CommandError(_refusal(response.read(1 << 16), response.status))
        await asyncio.sleep(0.2)
    server.errors.seek(0)
    raise CommandError(last_words(server.errors.read().decode("utf-8", "replace"), server.process.returncode))


async def _pieces(server: ModelServer, reply: Reply) -> AsyncIterator[bytes]:
    try:
        yield b""
        while piece := await _in_thread(reply.response.read1, 1 << 16):
            yield piece
    finally:  # the reader is gone, or all is said: the server hears that from its closed connection
        reply.end()
        server.busy -= 1
        server.used = time.monotonic()


async def _in_thread(function: Any, *arguments: Any) -> Any:
    """Without waiting for the thread when the request is cancelled."""
    from anyio import to_thread

    return await to_thread.run_sync(partial(function, *arguments), abandon_on_cancel=True)


def _broke_off(error: Exception) -> CommandError:
    return CommandError(f"The model server broke off ({type(error).__name__}); ask again.")


def _refusal(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The model server answered with status {status}."
