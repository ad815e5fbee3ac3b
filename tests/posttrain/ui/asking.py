"""Requests to the page without a browser."""

import http.client
import json
import sys
from pathlib import Path
from typing import Any

from posttrain.ui.chat import ModelServers, Talkers

TOKEN = "the-token"
STAND_IN = (sys.executable, str(Path(__file__).with_name("model_server.py")))


def servers(root: Path) -> ModelServers:
    """Of stand-ins: every folder is a run with two stages, on a base of its own unless a file in it names one."""

    def talkers(folder: Path) -> Talkers:
        named = folder / "base"
        return Talkers(
            named.read_text() if named.exists() else str(folder),
            {name: folder / name for name in ("sft", "dpo")},
        )

    return ModelServers(root, STAND_IN, talkers)


def request(
    address: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers by their small names, body); headers are given with underscores, None leaves one out."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)
    given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(
        method, path, body, {name: value for name, value in given.items() if value}, encode_chunked=True
    )
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def get(address: str, path: str) -> str:
    status, _, body = request(address, "GET", path)
    assert status == 200, body
    return body.decode()


def post(address: str, path: str, value: Any) -> tuple[int, Any]:
    status, _, body = request(address, "POST", path, json.dumps(value).encode())
    return status, json.loads(body)
