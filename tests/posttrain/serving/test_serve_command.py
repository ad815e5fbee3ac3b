"""`posttrain serve` as a process: what it prints, who it answers, and how wrong starts end."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from posttrain.commands.serve import serve
from posttrain.errors import SettingError
from tests.posttrain.serving.runs import random_lora, write_run

ROOT = Path(__file__).resolve().parents[3]


def started(words: Sequence[str], **env: str) -> "subprocess.Popen[str]":
    clean = {key: value for key, value in os.environ.items() if key != "POSTTRAIN_API_KEY"}
    return subprocess.Popen(
        [sys.executable, "-m", "posttrain", "serve", *words, "--port", "0"], cwd=ROOT, env={**clean, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_it_prints_where_who_and_the_key(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"sft": random_lora(1, 2)})
    process = started([str(tmp_path / "run")])
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        assert lines[0] == "Models: base, sft"
        address = lines[1].removeprefix("Listening on ")
        key = lines[2].removeprefix("API key, made for this start: ")
        request = urllib.request.Request(f"{address}/models", headers={"authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == ["base", "sft"]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert key not in errors


def refused(match: str, **given: object) -> None:
    settings: dict[str, object] = {
        "runs": [],
        "host": "127.0.0.1",
        "port": 0,
        "api_key_file": None,
        "allow_host": None,
    }
    with pytest.raises(SettingError, match=match):
        serve(**{**settings, "adapters": None, "whole": False, **given})  # type: ignore[arg-type]


def test_wrong_keys_and_hosts_are_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("cannot be read", api_key_file=tmp_path / "none")
    short = tmp_path / "key"
    short.write_text("short\n")
    refused("16 or more printable", api_key_file=short)
    monkeypatch.setenv("POSTTRAIN_API_KEY", "fünfzehn zeichen und mehr")
    refused("16 or more printable")
    monkeypatch.setenv("POSTTRAIN_API_KEY", "k" * 20)
    refused("say with --allow-host", host="0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(f"port {port}: Address already in use", port=port)
    refused("192.0.2.1, port 0: Cannot assign", host="192.0.2.1")
