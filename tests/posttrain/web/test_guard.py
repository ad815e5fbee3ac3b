"""Who gets through to a handler, and what is answered to the others."""

import hmac
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from posttrain.web import Guard, content_policy, request_json
from tests.posttrain.web.running import running

TOKEN = "itEL-n9HKG5ZJQpJ9hfns5FZ55x4u5IWMWBJN3Opd-E"  # of one shape with new_token(), and the same in every process
CLIENT = httpx.Client(trust_env=False, verify=False)  # reading certificates takes longer than all requests
PAGE = "<style>b{}</style><script>1</script><script type='application/json'>{}</script>"


async def echo(request: Request) -> Response:
    return JSONResponse(request_json(request.scope))


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE, headers={"content-security-policy": content_policy(PAGE)})


async def upload(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
    return JSONResponse({"bytes": size})


async def hello(request: Request) -> Response:
    return PlainTextResponse("ok")


APP = Starlette(
    routes=[
        Route("/echo", echo, methods=["POST"]),
        Route("/", page),
        Route("/health", hello),
        Route("/upload", upload, methods=["POST"]),
    ]
)


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    guard = Guard(APP, token=TOKEN, max_body_bytes=1000, uploads={"/upload": 100_000})
    with running(guard) as address:
        yield address


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with running(Guard(APP, token=TOKEN, pages=True)) as address:
        yield address


BEARER = {"authorization": f"Bearer {TOKEN}"}


def post(address: str, body: Any = b"{}", path: str = "/echo", **headers: str) -> httpx.Response:
    given = {
        "content-type": "application/json",
        **BEARER,
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return CLIENT.post(address + path, content=body, headers={k: v for k, v in given.items() if v})


def raw(address: str, text: bytes) -> bytes:
    """What is answered to these bytes, as they are."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(text)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_the_right_token_gets_through(api: str) -> None:
    answer = post(api, b'{"a": [1, "\xc3\xa9"]}')
    assert (answer.status_code, answer.json()) == (200, {"a": [1, "é"]})
    assert CLIENT.get(f"{api}/health").text == "ok"  # needs none


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xe9",
    ],
)
def test_no_token_or_a_near_one_is_401(api: str, given: str) -> None:
    answer = raw(
        api,
        f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {given}\r\nConnection: close\r\n\r\n".encode(
            "latin-1"
        ),
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: Bearer" in answer
    assert TOKEN.encode() not in answer


def test_the_token_is_compared_in_constant_time(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: (seen.append((a, b)), compare(a, b))[1])
    assert post(api, authorization="Bearer wrong").status_code == 401
    assert seen == [(b"wrong", TOKEN.encode())]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.",
        "evil.example:8000",
        "[::2]",
        "0.0.0.0",
        "localhost@evil",
        "localhost:80:80",
    ],
)
def test_another_host_is_421(api: str, host: str) -> None:
    assert post(api, host=host).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:99"])
def test_the_names_of_this_machine_are_answered(api: str, host: str) -> None:
    assert post(api, host=host).status_code == 200


def test_two_hosts_or_none_are_refused(api: str) -> None:
    for hosts in ("Host: localhost\r\nHost: evil.example\r\n", ""):
        assert b" 400 " in raw(api, f"GET /health HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())[:20]


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://localhost:1",
        "http://127.0.0.1",
        "https://127.0.0.1.evil.example",
        "file://",
    ],
)
def test_a_foreign_origin_is_403_and_gets_no_cors(api: str, origin: str) -> None:
    answer = post(api, origin=origin)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_its_own_origin_is_answered(api: str) -> None:
    assert post(api, origin=api).status_code == 200
    assert post(api, sec_fetch_site="cross-site").status_code == 403
    assert post(api, sec_fetch_site="same-site").status_code == 403
    assert post(api, sec_fetch_site="same-origin").status_code == 200


def test_no_preflight_is_answered(api: str) -> None:
    answer = CLIENT.options(api + "/echo", headers={"origin": api, "access-control-request-method": "POST"})
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_405(api: str, method: str) -> None:
    request = f"{method} /echo HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    assert b" 405 " in raw(api, request.encode())[:20]


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "multipart/form-data", "application/json-patch+json", "application/octet-stream"],
)
def test_only_json_is_read(api: str, kind: str) -> None:
    assert post(api, content_type=kind).status_code == 415


def test_a_large_body_is_413_whether_or_not_it_says_so(api: str) -> None:
    large = json.dumps("x" * 2000).encode()
    assert post(api, large).status_code == 413
    assert post(api, iter([large[:500], large[500:]])).status_code == 413  # in chunks, with no length
    assert post(api, b'"' + b"x" * 998 + b'"').status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b'{"a": NaN}',
        b"[Infinity]",
        b"\xff",
        b'"\\ud800"',
        b"9" * 900 + b"e" + b"9" * 50 + b"x",
        b"[1] [2]",
    ],
)
def test_what_is_no_json_is_400(api: str, body: bytes) -> None:
    assert post(api, body).status_code == 400


def test_depth_is_bounded_and_brackets_in_strings_do_not_count(api: str) -> None:
    assert post(api, b"[" * 64 + b"]" * 64).status_code == 200
    assert post(api, b"[" * 65 + b"]" * 65).status_code == 400
    assert post(api, b"[" * 999).status_code == 400
    assert post(api, json.dumps('[{"\\' * 90).encode()).status_code == 200


def test_uploads_are_files_with_a_bound_of_their_own(api: str) -> None:
    file = b"x" * 50_000
    assert post(api, file, "/upload", content_type="application/octet-stream").json() == {"bytes": 50_000}
    assert post(api, file, "/upload").status_code == 415
    assert post(api, file * 3, "/upload", content_type="application/octet-stream").status_code == 413
    chunks = iter([file, file, file])
    assert post(api, chunks, "/upload", content_type="application/octet-stream").status_code == 413


def test_every_answer_has_the_security_headers(api: str, site: str) -> None:
    for answer in (post(api), post(api, authorization=""), CLIENT.get(site, headers=BEARER)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_a_page_runs_its_own_scripts_and_no_others(site: str) -> None:
    policy = CLIENT.get(site, headers=BEARER).headers["content-security-policy"]
    # printf 1 | openssl dgst -sha256 -binary | base64
    assert "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='" in policy
    assert policy.count("sha256-") == 2  # the style's; a block of JSON needs none
    assert "unsafe" not in policy


def test_a_page_takes_the_token_once_and_then_a_cookie(site: str) -> None:
    with httpx.Client(base_url=site, verify=False) as browser:
        assert browser.get("/").status_code == 401
        answer = browser.get("/", params={"token": TOKEN, "run": "a b"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/?run=a+b")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert browser.get("/").text == PAGE
        assert browser.post("/echo", json={}).status_code == 200
        assert browser.post("/echo", json={}, headers={"origin": "http://localhost:1"}).status_code == 403
    assert CLIENT.get(site, params={"token": TOKEN[:-1]}).status_code == 401
    assert (
        CLIENT.get(f"{site}//evil.example/", params={"token": TOKEN}).headers["location"] == "/evil.example/"
    )


def test_an_api_takes_neither_address_nor_cookie(api: str) -> None:
    assert CLIENT.get(api, params={"token": TOKEN}).status_code == 401
    port = api.rpartition(":")[2]
    assert CLIENT.get(api, headers={"cookie": f"posttrain-{port}={TOKEN}"}).status_code == 401


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.web.guard._BODY_SECONDS", 0.2)
    with running(Guard(APP, token=None)) as address:
        head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        assert b" 408 " in raw(address, head)[:20]


def test_a_connection_that_never_asks_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.web.server._HEAD_SECONDS", 0.2)
    with running(Guard(APP, token=None)) as address:
        assert raw(address, b"GET /health HTTP/1.1\r\nHost: local") == b""
        assert raw(address, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea").endswith(b"ok")


def test_too_many_at_once_are_429_and_leave_no_trace() -> None:
    release: list[bool] = []

    async def waits(request: Request) -> Response:
        async def body() -> Any:
            import asyncio

            yield b"x"
            while not release:
                await asyncio.sleep(0.01)

        return StreamingResponse(body())

    app = Starlette(routes=[Route("/", waits)])
    with running(Guard(app, token=None, max_requests=2)) as address, httpx.Client(verify=False) as client:
        with client.stream("GET", address), client.stream("GET", address):
            refused = client.get(address)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            release.append(True)
        assert client.get(address).status_code == 200


def test_websockets_are_refused(site: str) -> None:
    host = site.removeprefix("http://")
    request = (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert raw(site, request.encode()).startswith(b"HTTP/1.1 401 ")


def test_slow_clients_hold_up_nobody(api: str) -> None:
    host, port = api.removeprefix("http://").split(":")
    head = f"POST /echo HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    slow = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for number, one in enumerate(slow):  # half of them stop in the head, half in the body
            one.sendall(
                head[: 20 + number].encode() if number % 2 else f"{head}Content-Length: 9\r\n\r\n".encode()
            )
        assert post(api, b"[1]").json() == [1]
    finally:
        for one in slow:
            one.close()
