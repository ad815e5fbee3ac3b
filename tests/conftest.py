"""Rows and pipelines on the tiny random model, shared by the tests of mechanics."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.stages.forgetting import limits

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network is a defect
# A shell's background job ignores it, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "green",
    "boats",
    "drift",
    "along",
    "quiet",
    "river",
    "banks",
]


def sentence(draw: random.Random, words: int) -> str:
    """Random words: enough for mechanics, meaningless on purpose."""
    return " ".join(draw.choice(_WORDS) for _ in range(words))


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def make_rows(count: int = 32, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Rows of each kind: "text", "chat", "pairs"."""
    draw = random.Random(seed)
    return {
        "text": [{"text": sentence(draw, 20)} for _ in range(count)],
        "chat": [
            {"messages": [message("user", sentence(draw, 5)), message("assistant", sentence(draw, 6))]}
            for _ in range(count)
        ],
        "pairs": [
            {
                "prompt": [message("user", sentence(draw, 5))],
                "chosen": [message("assistant", sentence(draw, 5) + " river")],
                "rejected": [message("assistant", sentence(draw, 5) + " dog")],
            }
            for _ in range(count)
        ],
    }


@pytest.fixture(autouse=True)
def short_samples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What random models answer is noise: a few tokens of it are enough, and runs are faster."""
    if "test_embedded" not in request.node.nodeid:
        monkeypatch.setattr("posttrain.stages.samples._NEW_TOKENS", 8)


@pytest.fixture(scope="session")
def rows() -> dict[str, list[dict[str, Any]]]:
    return make_rows()


SMALL_FORGETTING = {"TEXTS": 4, "TEXT_TOKENS": 4, "OWN_ROWS": 4, "OWN_TOKENS": 8, "PROBES": 4}


@pytest.fixture(autouse=True)
def small_forgetting_check(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of mechanics need no interval worth reading, and the random model has 49,152 tokens."""
    if "test_forgetting" not in request.node.nodeid:
        for name, value in SMALL_FORGETTING.items():
            monkeypatch.setattr(limits, name, value)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Any]:
    """A Pipeline on the tiny random model in a folder of the test's own."""
    from posttrain import Pipeline

    def build(stages: list[Any], name: str = "run", **settings: Any) -> Pipeline:
        return Pipeline(stages, model="tiny-random", run_dir=tmp_path / name, **settings)

    return build
