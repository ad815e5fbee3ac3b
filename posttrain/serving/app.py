"""The HTTP side: OpenAI's endpoints, and vLLM's two for adapters."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from posttrain.errors import DataError, PosttrainError, SettingError
from posttrain.web import request_json

from .answers import Answering, Form, Post, as_error
from .bank import Bank, Served, find_adapter
from .engine import NoSuchAdapter, Overloaded
from .requests import Asked, BadRequest, Chat, Completion, read_chat, read_completion

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def make_app(bank: Bank, adapters: Sequence[Path] = ()) -> Starlette:
    """adapters: folders from which adapters may be loaded while it serves. It must stand behind a Guard."""
    endpoints = _Endpoints(bank, tuple(folder.resolve() for folder in adapters))
    return Starlette(
        routes=[
            Route("/health", endpoints.health),
            Route("/v1/models", endpoints.models),
            Route("/v1/models/{name:path}", endpoints.model),
            Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
            Route("/v1/completions", endpoints.completion, methods=["POST"]),
            Route("/v1/load_lora_adapter", endpoints.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", endpoints.unload, methods=["POST"]),
        ],
        exception_handlers={BadRequest: _refused, 404: _unknown, 405: _unknown},
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    headers = {"retry-after": "1"} if error.status in (429, 503) else None
    return JSONResponse(as_error(error), error.status, headers)


async def _unknown(request: Request, error: Any) -> Response:
    what = (
        "There is nothing at this address."
        if error.status_code == 404
        else "This address takes another method."
    )
    return JSONResponse(
        as_error(BadRequest(what, status=error.status_code)), error.status_code, error.headers
    )


class _Endpoints:
    def __init__(self, bank: Bank, adapters: tuple[Path, ...]) -> None:
        self._bank, self._adapters = bank, adapters
        self._post: Post | None = None  # of the event loop that asks

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_described(one) for one in self._bank]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(_described(self._find(request.path_params["name"])))

    async def chat(self, request: Request) -> Response:
        asked = read_chat(request_json(request.scope))
        return await self._answer(request, asked, lambda served: served.speaker.prompt(asked.row))

    async def completion(self, request: Request) -> Response:
        asked = read_completion(request_json(request.scope))
        return await self._answer(request, asked, lambda served: _plain_prompt(served, asked))

    async def _answer(
        self, request: Request, asked: Asked, prompt: Callable[[Served], list[int]]
    ) -> Response:
        served = self._find(asked.model)
        try:
            ids = await run_in_threadpool(prompt, served)
        except DataError as error:
            raise BadRequest(str(error), "messages" if isinstance(asked, Chat) else "prompt") from error
        if self._post is None or self._post.loop is not asyncio.get_running_loop():
            self._post = Post()
        answering, form = Answering(served, asked, ids, self._post), Form(asked, served.name)
        try:
            answering.begin()
        except Overloaded as error:
            raise BadRequest(str(error), code="overloaded", status=429) from error
        except NoSuchAdapter as error:
            raise BadRequest(str(error), "model", "model_not_found", 404) from error
        if asked.stream:
            return _Stream(form.stream(answering), answering)
        try:
            found = await _unless_gone(request, form.whole(answering))
        finally:
            answering.cancel()
        return Response(status_code=499) if found is None else JSONResponse(found)

    def _find(self, name: str) -> Served:
        served = self._bank.find(name)
        if served is None:
            raise BadRequest(
                f"There is no model {name[:128]!r}; GET /v1/models lists them.",
                "model",
                "model_not_found",
                404,
            )
        return served

    async def load(self, request: Request) -> Response:
        """{"lora_name", "lora_path"}: the path is a run, or a stage or adapter of one, in a folder that is allowed."""
        name, path = _texts(request_json(request.scope), "lora_name", "lora_path")
        if not _NAME.fullmatch(name):
            raise BadRequest(
                "lora_name must be up to 64 letters, digits, dots, dashes and underscores.", "lora_name"
            )

        def add() -> None:
            self._bank.add(name, find_adapter(path, self._adapters))

        try:
            await run_in_threadpool(add)
        except SettingError as error:
            raise BadRequest(str(error), "lora_name") from error
        except PosttrainError as error:
            raise BadRequest(str(error), "lora_path") from error
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """{"lora_name"}; answers in progress with it are given to their end."""
        (name,) = _texts(request_json(request.scope), "lora_name")
        try:
            removed = await run_in_threadpool(self._bank.remove, name)
        except SettingError as error:
            raise BadRequest(str(error), "lora_name") from error
        if not removed:
            raise BadRequest(f"There is no adapter {name[:128]!r}.", "lora_name", "model_not_found", 404)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


class _Stream(StreamingResponse):
    """Server-sent events; a client that hangs up, be it before the first of them, frees its slot."""

    def __init__(self, events: AsyncIterator[str], answering: Answering) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.cancel()


def _described(served: Served) -> dict[str, Any]:
    return {
        "id": served.name, "object": "model", "created": served.since, "owned_by": "posttrain", "root": served.name,
        "parent": None if served.adapter is None else "base", "max_model_len": served.engine.longest,
        "fingerprint": served.ref.fingerprint,
    }  # fmt: skip


def _plain_prompt(served: Served, asked: Completion) -> list[int]:
    if isinstance(asked.prompt, str):
        return served.speaker.plain(asked.prompt)
    known = len(served.speaker.tokenizer)
    if any(token >= known for token in asked.prompt):
        raise DataError(f"The token ids must be below {known}.")
    return list(asked.prompt)


def _texts(body: Any, *names: str) -> tuple[str, ...]:
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in names):
        raise BadRequest(f"The body must be an object with {' and '.join(names)}.", names[0])
    if unknown := next((name for name in body if name not in (*names, "lora_int_id")), None):
        raise BadRequest(
            f"{unknown[:64]} is no known field; leave it out.", unknown[:64], "unsupported_parameter"
        )
    return tuple(body[name] for name in names)


async def _unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """What the work gives, or None when the client hangs up before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hangs_up(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _hangs_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
