"""Requests as bytes, drawn from a seed: most come near to right ones, so that they get past the guard to a handler."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.posttrain.serving.test_limits import NASTY, mutated

METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "\x00",
    "PRI",
    "A" * 300,
)
PARTS = (
    "..",
    "%2e%2e",
    "%00",
    "%",
    "%zz",
    "//",
    "\\",
    "~",
    "{id}",
    "é",
    "%c3%28",
    "a" * 3000,
    "?",
    "#",
    ";",
    "*",
    "%0d%0aX:1",
    "?token=",
    "?a&a=&=a",
    " ",
)
VALUES = (
    "",
    " ",
    "x",
    "\t",
    "é",
    "\x7f",
    "a" * 5000,
    "*/*",
    "null",
    "0",
    "-1",
    "1e9",
    "Bearer",
    "application/json",
    "text/html",
    "gzip, chunked",
    "bytes=0-",
    "0;",
    '"',
)
NAMES = ("Accept", "Accept-Encoding", "Content-Encoding", "Content-Type", "Content-Length", "Transfer-Encoding", "Expect", "Range", "Cookie", "Origin", "Host", "Authorization", "Sec-Fetch-Site", "Upgrade", "Connection", "X-Forwarded-For", "Te", "Date", "If-Match", "X-HTTP-Method-Override")  # fmt: skip


_PATIENCE = 0.2  # seconds


@dataclass(frozen=True)
class Server:
    """What is asked: an address and its token, and by path what a right body is; None for a GET."""

    address: str
    token: str
    bodies: Mapping[str, Any]

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")


def drawn(draw: random.Random, server: Server) -> bytes:
    path = draw.choice(list(server.bodies))
    right = server.bodies[path]
    method = "GET" if right is None else "POST"
    headers = {"Host": server.host, "Authorization": f"Bearer {server.token}", "Connection": "close"}
    body = b""
    if right is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(
            mutated(draw, right) if isinstance(right, dict) and right else draw.choice(NASTY)
        ).encode()
    if draw.random() < 0.1:
        method = draw.choice(METHODS)
    if draw.random() < 0.15:
        at = draw.randint(0, len(path))
        path = path[:at] + draw.choice(PARTS) + path[at:]
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        headers[draw.choice(NAMES)] = draw.choice(VALUES)
    if draw.random() < 0.1:
        body = bytes(draw.randrange(256) for _ in range(draw.randint(0, 60)))
    if draw.random() < 0.03:
        body = body.ljust(1_100_000)
    if draw.random() < 0.1:
        at = draw.randint(0, len(body))
        body = body[:at] + draw.choice((b"\xff", b"\x00", b"[" * 70, b'"', b"NaN", b"\\ud800")) + body[at:]
    headers.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    request = "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body
    if draw.random() < 0.03:
        at = draw.randint(0, min(len(request), 400))
        request = request[:at] + bytes([draw.randrange(256)]) + request[at + 1 :]
    return request


def status_of(host: str, request: bytes) -> int:
    """What is answered; 0 where the connection is closed without a word. An answer is not read to its end."""
    name, port = host.split(":")
    with socket.create_connection((name, int(port)), timeout=60) as connection:
        try:
            connection.sendall(request)
            connection.settimeout(_PATIENCE)
            answer = b""
            while b"\r\n" not in answer:
                try:
                    part = connection.recv(4096)
                except (
                    TimeoutError
                ):  # it waits for a body that is not all here, and is told that nothing comes
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(60)
                    continue
                if not part:
                    return 0
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            return 0
    words = answer.split(b" ", 2)
    assert words[0] == b"HTTP/1.1" and words[1].isdigit(), answer[:200]
    return int(words[1])


def check(
    server: Server, count: int, seed: int, is_well: Callable[[], bool], wanted: Sequence[int]
) -> Counter[int]:
    """Ask so often, one behind the other. No answer is a 5xx, all kinds that are wanted come, and it stays well."""
    draw = random.Random(seed)
    seen: Counter[int] = Counter()
    for number in range(count):
        request = drawn(draw, server)
        status = status_of(server.host, request)
        assert status < 500, (number, status, request[:600])
        seen[status] += 1
    assert is_well()
    assert set(wanted) <= set(seen), seen
    assert seen[0] < count / 4, seen  # most are answered
    return seen
