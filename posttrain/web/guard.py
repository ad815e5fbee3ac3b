"""The guard in front of an ASGI application; what it does not let through never reaches a handler."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from .headers import SECURITY_HEADERS

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_METHODS = ("GET", "HEAD", "POST")
_DEEPEST = 64  # lists and objects inside one another
_BODY_SECONDS, _UPLOAD_SECONDS = 30.0, 600.0
_DRAINED_BYTES, _DRAIN_SECONDS = 1 << 20, 1.0
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::(\d{1,5}))?")
# Possessive and with no end needed: a string that never ends is passed over once.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def new_token() -> str:
    """256 random bits, in characters that need no escaping in an address or a header."""
    return secrets.token_urlsafe(32)


def request_json(scope: Mapping[str, Any]) -> Any:
    """The JSON value of a POST request that came through a Guard."""
    return scope["posttrain.json"]


@dataclass(frozen=True)
class Guard:
    """An ASGI application behind its checks. Each refusal is JSON, {"error": {"message", "type", "code"}}:

    421 Host is not one of `hosts` (DNS rebinding) · 403 an Origin, or Sec-Fetch-Site, that is not this server; there is
    no CORS · 405 a method other than GET, HEAD, POST · 401 no token, or a wrong one · 429 over `max_requests` at once ·
    415 a POST that is not application/json · 413 a body over `max_body_bytes` · 408 a body that takes over 30 seconds ·
    400 no JSON, JSON with NaN or lone surrogates, or nested deeper than 64.
    WebSockets are refused. Every answer gets the headers of `headers.SECURITY_HEADERS` that its handler did not set.
    """

    app: App
    token: str | None  # None: everybody who reaches the port may ask
    hosts: tuple[str, ...] = LOOPBACK_HOSTS  # names, without a port, that a request's Host may have
    max_body_bytes: int = 1 << 20
    max_requests: int = 256  # at once, streams among them
    pages: bool = False  # a GET may bring the token as ?token=, and gets a cookie that stands for it
    open_paths: tuple[str, ...] = ("/health",)  # need no token
    # Paths whose POST is a file, application/octet-stream, and its most bytes; handed on as it comes, within 10 minutes.
    uploads: Mapping[str, int] = field(default_factory=dict)
    _running: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        answer, running = _Answer(send), id(scope)
        incoming = _Incoming(receive)
        try:
            headers = _headers_of(scope)
            if place := self._check(scope, headers):
                return await _redirect(answer, place, self._cookie(headers))
            self._running.add(running)
            await self.app(scope, await self._receive(scope, headers, incoming, answer), answer)
        except _Refused as refused:
            await incoming.drain()
            await answer.refuse(refused)
        except Exception as error:
            # A client that went, or an upload refused on its way: the handler could not go on, and need not.
            if not (answer.refused or isinstance(error, ConnectionError)):
                raise
        finally:
            self._running.discard(running)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> str | None:
        """Raises for a request that may not come in. Returns the address without its token, for a page's first."""
        name = _HOST.fullmatch(headers.get("host", "").lower())
        if name is None or name[1] not in self.hosts:
            raise _Refused(421, "This server does not answer for that Host.", "wrong_host")
        self._check_origin(scope, headers)
        if scope["method"] not in _METHODS:
            raise _Refused(
                405, f"The methods here are {', '.join(_METHODS)}.", "method", allow=", ".join(_METHODS)
            )
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token") if self.pages and scope["method"] == "GET" else None
        if given is not None and self._is_token(given):
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            # "//name" would be another server's address
            return "/" + scope["raw_path"].decode("latin-1").lstrip("/\\") + (f"?{rest}" if rest else "")
        if scope["path"] not in self.open_paths and not self._knows_token(headers):
            raise _Refused(
                401, "The token (API key) is missing or wrong; send the header Authorization: Bearer TOKEN.", "invalid_api_key",
                **{"www-authenticate": "Bearer"},
            )  # fmt: skip
        if len(self._running) >= self.max_requests:
            raise _Refused(429, "Too many requests at once; try again.", "overloaded", **{"retry-after": "1"})
        return None

    @staticmethod
    def _check_origin(scope: Scope, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        own = origin is None or origin.lower() in (
            f"{s}://{headers['host'].lower()}" for s in ("http", "https")
        )
        link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if not own or (headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not link):
            raise _Refused(403, "Requests of other origins are refused.", "wrong_origin")

    def _knows_token(self, headers: Mapping[str, str]) -> bool:
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        return self.pages and self._is_token(_cookies(headers).get(_cookie_name(headers), ""))

    def _is_token(self, given: str) -> bool:
        """In a time that does not tell how much of it was right."""
        return self.token is not None and hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), self.token.encode()
        )

    def _cookie(self, headers: Mapping[str, str]) -> str:
        return f"{_cookie_name(headers)}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    async def _receive(
        self, scope: Scope, headers: Mapping[str, str], receive: _Incoming, answer: _Answer
    ) -> Receive:
        """What the application reads from: a body checked as a whole, or an upload counted as it comes."""
        most = self.uploads.get(scope["path"], self.max_body_bytes)
        if (length := headers.get("content-length", "0")) and (not length.isdecimal() or int(length) > most):
            raise _Refused(413, f"The body may have {most:,} bytes.", "too_large")
        if scope["method"] != "POST":
            return receive
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        upload = scope["path"] in self.uploads
        wanted = "application/octet-stream" if upload else "application/json"
        if kind != wanted:
            raise _Refused(
                415, f"The body must be {wanted}, and its Content-Type must say so.", "content_type"
            )
        if upload:
            return _counted(receive, most, answer)
        body = await _read(receive, most)
        scope["posttrain.json"] = _parse(body)
        return _replayed(body, receive)


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class _Incoming:
    """What the client sends."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._complete = receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what is still on its way, within reason: closing before would reset the connection, and the client
        would see that instead of the refusal.
        """
        left = _DRAINED_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left > 0 and not self._complete:
                    left -= len((await self()).get("body", b""))


class _Answer:
    """The way back to the client, with the security headers; closed behind a refusal."""

    def __init__(self, send: Send) -> None:
        self._send, self._started, self.refused = send, False, False

    async def __call__(self, message: Message) -> None:
        if self.refused:
            return
        if message["type"] == "http.response.start":
            self._started = True
            given = {key.lower() for key, _ in message.get("headers", ())}
            added = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items() if k.encode() not in given]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def refuse(self, why: _Refused) -> None:
        if not self._started:
            kind = "rate_limit_error" if why.status == 429 else "invalid_request_error"
            error = {"message": str(why), "type": kind, "param": None, "code": why.code}
            body = json.dumps({"error": error}).encode()
            # A body that was not read would be taken for the next request.
            fixed = {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
            }
            await _start(self, why.status, fixed | why.headers)
            await self({"type": "http.response.body", "body": body})
        self.refused = True


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _redirect(send: Send, place: str, cookie: str) -> None:
    """So the token stands neither in the history nor in the address bar."""
    await _start(send, 303, {"location": place, "set-cookie": cookie, "content-length": "0"})
    await send({"type": "http.response.body", "body": b""})


def _headers_of(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        name = key.decode("latin-1").lower()
        if name in found and name in ("host", "origin", "authorization", "content-type", "content-length"):
            raise _Refused(400, f"The header {name} stands there twice.", "header")
        found[name] = value.decode("latin-1")
    return found


def _cookies(headers: Mapping[str, str]) -> dict[str, str]:
    try:
        return {key: one.value for key, one in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _cookie_name(headers: Mapping[str, str]) -> str:
    """Cookies know no ports: each of several servers on one machine has a name of its own."""
    return f"posttrain-{headers['host'].rpartition(':')[2] if ':' in headers['host'] else '80'}"


async def _read(receive: Receive, most: int) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise _Refused(413, f"The body may have {most:,} bytes.", "too_large")
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise _Refused(408, f"The body must arrive within {_BODY_SECONDS:.0f} seconds.", "timeout") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as if it had not been read, then what comes after it: that the client has gone."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def wrapped() -> Message:
        return left.pop() if left else await receive()

    return wrapped


def _counted(incoming: _Incoming, most: int, answer: _Answer) -> Receive:
    """The body as it comes; one that grows too large or takes too long is refused here, and ends for the handler."""
    size, until = 0, asyncio.get_running_loop().time() + _UPLOAD_SECONDS

    async def wrapped() -> Message:
        nonlocal size, until
        try:
            async with asyncio.timeout_at(until):
                message = await incoming()
            size += len(message.get("body", b""))
            if size > most:
                raise _Refused(413, f"The file may have {most:,} bytes.", "too_large")
        except TimeoutError:
            await answer.refuse(
                _Refused(408, f"A file must arrive within {_UPLOAD_SECONDS:.0f} seconds.", "timeout")
            )
        except _Refused as refused:
            await incoming.drain()
            await answer.refuse(refused)
        else:
            if not message.get("more_body", False):
                until = math.inf  # all is there; what comes next is that the client has gone
            return message
        return {"type": "http.disconnect"}

    return wrapped


def _parse(body: bytes) -> Any:
    depth = 0
    for found in _BRACKETS.finditer(body):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        if depth > _DEEPEST:
            raise _Refused(400, f"The JSON is nested deeper than {_DEEPEST}.", "json")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
        if b"\\ud" in body or b"\\uD" in body:  # half of a pair, which no answer could be written with
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise _Refused(400, f"The body is not JSON ({type(error).__name__}).", "json") from None
    return value


def _no_number(word: str) -> Any:
    raise ValueError(word)
