"""The server of the page: what each address answers. Who may ask is the guard's business."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from posttrain.errors import CommandError, CorruptArtifactError, PosttrainError, RecipeError, RunFolderError
from posttrain.pipeline.run import RUN_FILE
from posttrain.pipeline.secrets import redacted
from posttrain.report import read_report
from posttrain.report.page import as_page
from posttrain.web import Guard, content_policy, request_json

from . import pages, recipes
from .chat import ModelServers
from .commands import answer
from .inspection import MOST_BYTES, Question, inspected, kept
from .runs import Runs, stamp_of
from .training import Training, yaml_words

Handler = Callable[[Request], Awaitable[Response]]
_LOOK_SECONDS = 1.0  # between two looks at the run folders, while somebody watches
_PLAN_SECONDS = 600.0


@dataclass(frozen=True)
class Site:
    """The page of one folder of runs."""

    root: Path
    training: Training
    runs: Runs
    models: ModelServers

    @classmethod
    def of(cls, root: Path, models: ModelServers | None = None) -> Site:
        training = Training(root)
        return cls(root, training, Runs(root, training), models or ModelServers(root))

    def guarded(self, token: str, most_bytes: int = MOST_BYTES) -> Guard:
        """The application behind its guard: a token in the address, then a cookie. most_bytes: of a file."""
        return Guard(self.app(), token=token, pages=True, uploads={"/api/inspect": most_bytes}, open_paths=())

    def app(self) -> Starlette:
        get: Mapping[str, Handler] = {
            "/": self.list_page, "/new": self.new_page, "/data": self.data_page, "/chat": self.chat_page,
            "/runs/{id}": self.run_page, "/runs/{id}/report.html": self.report_file, "/api/events": self.events,
            "/api/runs/{id}/events": self.run_events, "/api/runs/{id}/output": self.output, "/api/schema": self.schema,
        }  # fmt: skip
        post: Mapping[str, Handler] = {
            "/api/runs/{id}/stop": self.stop, "/api/runs/{id}/resume": self.resume, "/api/plan": self.plan,
            "/api/start": self.start, "/api/inspect": self.inspect, "/api/inspect-path": self.inspect_path,
            "/api/chat/open": self.open_chat, "/api/chat": self.chat,
        }  # fmt: skip
        return Starlette(
            routes=[
                *(Route(path, handler, methods=["GET"]) for path, handler in get.items()),
                *(Route(path, handler, methods=["POST"]) for path, handler in post.items()),
            ],
            exception_handlers={PosttrainError: _refuse, ClientDisconnect: _gone},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(self.models.sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.to_thread(self.models.close)

    # Pages

    async def list_page(self, request: Request) -> Response:
        listed = await run_in_threadpool(self.runs.listed)
        return _html(pages.render("runs", listed, root=str(self.root)))

    async def new_page(self, request: Request) -> Response:
        return _html(pages.render("new", recipes.offered(), root=str(self.root)))

    async def data_page(self, request: Request) -> Response:
        return _html(pages.render("data", {"most": MOST_BYTES}))

    async def chat_page(self, request: Request) -> Response:
        listed = await run_in_threadpool(self.runs.listed)
        return _html(pages.render("chat", [row for row in listed if row["chats"]]))

    async def run_page(self, request: Request) -> Response:
        folder = await self._folder(request)
        return _html(await run_in_threadpool(self._run_page, request.path_params["id"], folder))

    def _run_page(self, id: str, folder: Path) -> str:
        stamp, row = stamp_of(folder), self.runs.row(id, folder)
        try:
            report = read_report(folder) if (folder / RUN_FILE).is_file() else None
        except CorruptArtifactError as error:
            return pages.render("empty", None, row=row | {"error": str(error)}, stamp=stamp)
        if report is None:
            return pages.render("empty", None, row=row, stamp=stamp)
        return pages.live_report(report, row, stamp)

    async def report_file(self, request: Request) -> Response:
        folder = await self._folder(request)
        html = await run_in_threadpool(lambda: as_page(read_report(folder)))
        return Response(html, media_type="text/html", headers={"content-disposition": 'attachment; filename="report.html"'})  # fmt: skip

    # What happens in the run folders

    async def events(self, request: Request) -> Response:
        """The list of runs whenever it changes, as server-sent events."""
        return _stream(_changes(request, lambda: self.runs.listed(age=_LOOK_SECONDS / 2)))

    async def run_events(self, request: Request) -> Response:
        """That a run has news."""
        folder, id = await self._folder(request), request.path_params["id"]

        def look() -> Any:
            return {"stamp": stamp_of(folder), "status": self.runs.row(id, folder)["status"]}

        return _stream(_changes(request, look))

    async def output(self, request: Request) -> Response:
        folder = await self._folder(request)
        return JSONResponse({"text": await run_in_threadpool(self.training.output, folder)})

    async def stop(self, request: Request) -> Response:
        self.training.stop(await self._folder(request))
        return JSONResponse({})

    async def resume(self, request: Request) -> Response:
        self.training.resume(await self._folder(request))
        return JSONResponse({})

    async def _folder(self, request: Request) -> Path:
        return await run_in_threadpool(self.runs.folder, request.path_params["id"])

    # A new run

    async def schema(self, request: Request) -> Response:
        from posttrain.recipe_files.schema import schema

        return JSONResponse(await run_in_threadpool(schema))

    async def plan(self, request: Request) -> Response:
        """{"name", "yaml"} or {"name", "script", "flags"} -> what each stage will cost; nothing is trained."""
        asked = _asked(request, "name")
        folder = self.training.folder(asked["name"])
        if "script" in asked:
            name = _text(asked, "script")
            script, flags = recipes.script_of(name), recipes.words_of(name, asked.get("flags", {}))
            words = ["plan", str(script), "--json", *flags, f"--run-dir={folder}"]
            return await _waited(request, answer(words, _PLAN_SECONDS))
        with tempfile.TemporaryDirectory(prefix="posttrain-") as aside:
            recipe = Path(aside) / "recipe.yaml"
            recipe.write_text(_text(asked, "yaml"), "utf-8")
            words = [*yaml_words(recipe, folder, "plan"), "--json"]
            return await _waited(request, answer(words, _PLAN_SECONDS))

    async def start(self, request: Request) -> Response:
        """The same, run in a process of its own -> {"id"} of the run."""
        asked = _asked(request, "name")
        if "script" in asked:
            name = _text(asked, "script")
            flags = recipes.words_of(name, asked.get("flags", {}))
            folder = self.training.start_script(asked["name"], recipes.script_of(name), flags)
        else:
            folder = self.training.start_yaml(asked["name"], _text(asked, "yaml"))
        return JSONResponse({"id": self.runs.id_of(folder)})

    # Data

    async def inspect(self, request: Request) -> Response:
        """A file as the body -> what `posttrain inspect --json` says of it."""
        question = Question.of(request.query_params)
        with tempfile.TemporaryDirectory(prefix="posttrain-") as aside:
            question = await kept(request.stream(), question, Path(aside))
            return await _waited(request, inspected(question, Path(aside)))

    async def inspect_path(self, request: Request) -> Response:
        """The same of a file or folder of this machine: {"name"} is its path."""
        return await _waited(request, inspected(Question.of(_asked(request, "name"))))

    # Chat

    async def open_chat(self, request: Request) -> Response:
        """{"run"} -> {"models"}: loads the run's base, if it is not loaded, and its stages, and says what can be talked to."""
        folder = await run_in_threadpool(self.runs.folder, _asked(request, "run")["run"])
        return JSONResponse({"models": await self.models.open(folder)})

    async def chat(self, request: Request) -> Response:
        """{"run", "model", "messages", ...} -> the answer as it comes, in the events of OpenAI's API."""
        asked = dict(_asked(request, "run", "model"))
        folder = await run_in_threadpool(self.runs.folder, asked.pop("run"))
        return _stream(await self.models.answer(folder, asked | {"stream": True}))


async def _waited(request: Request, work: Coroutine[Any, Any, Any]) -> Response:
    """The answer as JSON; the work is ended when the client goes before it is done."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return JSONResponse(task.result())
    finally:
        task.cancel()
        await asyncio.wait({task})


def _html(page: str) -> HTMLResponse:
    return HTMLResponse(page, headers={"content-security-policy": content_policy(page)})


def _stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream")


async def _changes(request: Request, look: Callable[[], Any]) -> AsyncIterator[bytes]:
    """What `look` sees, each time that it is something else."""
    before = ""
    while not await request.is_disconnected():
        with contextlib.suppress(RunFolderError):  # the folder is moved or deleted; the next page says so
            seen = json.dumps(await run_in_threadpool(look))
            if seen != before:
                before = seen
                yield f"data: {seen}\n\n".encode()
        await asyncio.sleep(_LOOK_SECONDS)


def _asked(request: Request, *texts: str) -> Mapping[str, Any]:
    asked = request_json(request.scope)
    if not isinstance(asked, dict):
        raise RecipeError("The body must be an object.")
    for name in texts:
        _text(asked, name)
    return asked


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise RecipeError(f"{name!r} must be a text.")
    return value


async def _refuse(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, RunFolderError) and request.method == "GET" else 400
    if status == 404 and request.url.path.startswith("/runs/"):
        page = pages.render(
            "empty", None, row={"id": "", "name": "", "status": "", "error": str(error)}, stamp=""
        )
        return HTMLResponse(page, status, {"content-security-policy": content_policy(page)})
    message = redacted(str(error) if isinstance(error, CommandError) else f"{type(error).__name__}: {error}")
    return JSONResponse({"error": {"message": message, "type": type(error).__name__}}, status)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)
