"""The models that the page talks to: each run is served by a process of its own, which loads its base once."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from posttrain.errors import CommandError
from posttrain.web import new_token

from .commands import PROGRAM, environment, last_words

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


@dataclass
class ModelServer:
    """A `posttrain serve` of one run, and the key that only this process knows."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    key: str
    errors: IO[bytes]  # what it says
    models: tuple[str, ...] = ()
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

    # Followed by the run folder and --port. Stages that are no LoRA can be talked to, too.
    command: Sequence[str] = (*PROGRAM, "serve", "--whole")
    _open: dict[Path, ModelServer] = field(default_factory=dict)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def open(self, folder: Path) -> ModelServer:
        """The server of a run, once it answers. Raises CommandError with its last words when it does not."""
        async with self._starting:
            found = self._open.get(folder)
            if found is not None and found.process.poll() is None:
                found.used = time.monotonic()
                return found
            await self._make_room(folder)
            server = await asyncio.to_thread(self._start, folder)
            try:
                server.models = await asyncio.wait_for(_ready(server), _START_SECONDS)
            except BaseException:
                await asyncio.to_thread(server.close)
                raise
            self._open[folder] = server
            return server

    async def answer(self, folder: Path, request: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """The server's answer as it comes, in server-sent events; ends with the one who reads it.

        Raises CommandError for what the server refuses, before the first byte.
        """
        server = await self.open(folder)
        server.busy += 1
        try:
            reply = await _in_thread(server.request, "POST", "/v1/chat/completions", request)
            if reply.response.status != 200:
                raise CommandError(_refusal(reply.response.read(1 << 16), reply.response.status))
        except (OSError, http.client.HTTPException) as error:
            server.busy -= 1
            raise CommandError(f"The model server broke off ({type(error).__name__}); ask again.") from error
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
            for folder, server in list(self._open.items()):
                if not server.busy and server.used < late:
                    await self._end(folder)

    def close(self) -> None:
        for server in self._open.values():
            server.close()
        self._open.clear()

    async def _make_room(self, folder: Path) -> None:
        if folder in self._open:  # it died
            await self._end(folder)
        idle = sorted((one for one in self._open.values() if not one.busy), key=lambda one: one.used)
        for one in idle[: max(0, len(self._open) - _MOST + 1)]:
            await self._end(one.folder)

    async def _end(self, folder: Path) -> None:
        await asyncio.to_thread(self._open.pop(folder).close)

    def _start(self, folder: Path) -> ModelServer:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        key, errors = new_token(), tempfile.TemporaryFile()  # noqa: SIM115  (it is closed with the server)
        process = subprocess.Popen(
            [*self.command, str(folder), "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment() | {"POSTTRAIN_API_KEY": key},
        )  # fmt: skip
        return ModelServer(folder, process, port, key, errors)


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


def _refusal(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The model server answered with status {status}."
