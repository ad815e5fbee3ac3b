"""Bounds and hostile requests: refused with a reason, never a 5xx, and the next request is answered."""

import concurrent.futures
import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from posttrain.serving.app import make_app
from posttrain.serving.bank import Bank, load_runs
from posttrain.serving.engine import Limits
from posttrain.web import Guard
from tests.posttrain.serving.runs import random_lora, write_run
from tests.posttrain.web.running import running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One answer at a time, two may wait, of 80 tokens with their prompt."""
    folder = tmp_path_factory.mktemp("small")
    bank = Bank(Limits(rows=1, waiting=2, cache_tokens=80, answer_tokens=3, seconds=20))
    load_runs(bank, [write_run(folder / "run", {"sft": random_lora(1, 2)})], print)
    with (
        running(Guard(make_app(bank), token=None)) as address,
        httpx.Client(base_url=address, timeout=60, verify=False) as client,
    ):
        yield client
    bank.close()


CHAT: dict[str, Any] = {
    "model": "sft", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 3,
    "stop": ["x"], "n": 1, "stream": False, "stream_options": {"include_usage": True}, "tool_choice": "auto", "user": "me",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
}  # fmt: skip
COMPLETION: dict[str, Any] = {"model": "sft", "prompt": "Hi", "max_tokens": 2, "temperature": 0}
PATHS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}


def refused(client: httpx.Client, path: str, param: str | None, **change: Any) -> None:
    answer = client.post(path, json={**PATHS[path], **change})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2), ("n", True), ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1.5), ("max_tokens", True), ("temperature", -0.1),
        ("temperature", 2.1), ("temperature", "1"), ("temperature", 1e999), ("top_p", 1.1), ("seed", 2**63), ("seed", 0.5), ("stop", [""]),
        ("stop", ["a"] * 9), ("stop", ["a" * 257]), ("stop", [1]), ("stop", {}), ("stream", 1), ("stream_options", []), ("logprobs", True),
        ("logit_bias", {"1": 5}), ("frequency_penalty", 0.5), ("presence_penalty", 1), ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"), ("tool_choice", {"type": "function"}), ("parallel_tool_calls", False), ("tools", {}), ("tools", [{}] * 129),
        ("messages", []), ("messages", "Hi"), ("messages", [{"role": "user", "content": "Hi"}] * 257), ("model", 5), ("modle", "x"),
        ("top_k", 5), ("max_completion_tokens", 5),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(small: httpx.Client, name: str, value: Any) -> None:
    if value == 1e999:
        answer = small.post(
            "/v1/chat/completions", content=json.dumps({**CHAT, name: 0}).replace(f'"{name}": 0', f'"{name}": 1e999'),
            headers={"content-type": "application/json"},
        )  # fmt: skip
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    else:
        refused(small, "/v1/chat/completions", name, **{name: value})


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": ""}], "messages[0].content"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
            "image_url",
        ),
        ([{"role": "assistant", "content": "Hi"}], "messages"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "take turns"),
        ([{"role": "tool", "content": "5"}], "no call before it"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "only the first turn"),
    ],
)
def test_messages_are_read_as_rows_of_a_file(small: httpx.Client, messages: list[Any], found: str) -> None:
    answer = small.post("/v1/chat/completions", json={**CHAT, "messages": messages})
    assert answer.status_code == 400
    assert found in answer.json()["error"]["message"]


def test_what_is_too_long_is_told_in_tokens(small: httpx.Client) -> None:
    answer = small.post("/v1/completions", json={**COMPLETION, "max_tokens": 80})
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "together they may have 80" in answer.json()["error"]["message"]
    assert small.post("/v1/completions", json={**COMPLETION, "prompt": "word " * 200}).status_code == 400
    assert small.post("/v1/completions", json={**COMPLETION, "prompt": [10**9]}).status_code == 400
    assert small.post("/v1/completions", json={**COMPLETION, "prompt": ""}).status_code == 400


def test_a_full_queue_is_429(small: httpx.Client) -> None:
    body = {**COMPLETION, "max_tokens": 70, "temperature": 1}
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: small.post("/v1/completions", json=body), range(12)))
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    assert {answer.headers["retry-after"] for answer in answers if answer.status_code == 429} == {"1"}
    assert small.post("/v1/completions", json=COMPLETION).status_code == 200


NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.1, -1e300, "", " ", "\0", "a" * 3000, "\u202e\U0001f600", "<|im_end|>",
    "{{ 7*7 }}", "../../etc/passwd", [], [[]], [None], {}, {"role": "user"}, {"": {}}, [{"role": "user", "content": ["x"]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], [{"type": "function"}], [1, 2, 3], [-5],
]  # fmt: skip


def mutated(draw: random.Random, body: dict[str, Any]) -> Any:
    body = copy.deepcopy(body)
    for _ in range(draw.randint(1, 3)):
        holder: Any = body
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(holder[key], (dict, list)) and draw.random() < 0.6:
                holder = holder[key]
                continue
            what = draw.random()
            if what < 0.2:
                del holder[key]
            elif what < 0.3 and isinstance(holder, dict):
                holder[draw.choice(["x", "functions", "messages", "prompt", "tools"])] = copy.deepcopy(
                    draw.choice(NASTY)
                )
            else:
                holder[key] = copy.deepcopy(draw.choice(NASTY))
            break
    return copy.deepcopy(draw.choice(NASTY)) if draw.random() < 0.02 else body


def check_fuzzed(client: httpx.Client, count: int) -> None:
    draw = random.Random(0)
    seen: dict[int, int] = {}
    for _ in range(count):
        path = draw.choice([*PATHS, "/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
        body = mutated(draw, PATHS.get(path, {"lora_name": "x", "lora_path": "/tmp"}))
        answer = client.post(path, json=body)
        assert answer.status_code < 500, (path, body, answer.text)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        if answer.status_code != 200:
            assert answer.json()["error"]["message"], (path, body)
    assert {200, 400, 404} <= {*seen}
    assert client.post("/v1/completions", json=COMPLETION).status_code == 200


def test_fuzzed_requests_get_no_5xx(small: httpx.Client) -> None:
    check_fuzzed(small, 250)


@pytest.mark.slow
def test_3_000_fuzzed_requests_get_no_5xx(small: httpx.Client) -> None:
    check_fuzzed(small, 3_000)


def test_other_addresses_and_methods_are_refused(small: httpx.Client, tmp_path: Path) -> None:
    assert small.get("/v1/chat/completions").status_code == 405
    for path in ("/", "/docs", "/openapi.json", "/v1/models/%2e%2e", "/v1/files", "/load_model"):
        assert small.get(path).status_code == 404
        assert small.get(path).json()["error"]["message"]
