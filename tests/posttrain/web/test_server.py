"""Where a server listens, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.errors import ConfigurationError, SettingError
from posttrain.web import Guard, check_installed, serve


async def nothing(scope: object, receive: object, send: object) -> None:
    raise AssertionError


def test_an_address_that_others_reach_needs_a_token() -> None:
    with pytest.raises(SettingError, match=r"0\.0\.0\.0 can be reached from other machines"):
        serve(Guard(nothing, token=None), "0.0.0.0")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=rf"port {port}: Address already in use\.$"):
            serve(Guard(nothing, token=None), port=port)
    with pytest.raises(SettingError, match=r"Cannot listen on no\.such\.host\.invalid, port 0: [A-Z-].*\.$"):
        serve(Guard(nothing, token="x"), "no.such.host.invalid")


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"posttrain serve needs .*pip install 'posttrain\[serve\]'"):
        check_installed("posttrain serve")


SCRIPT = """
from posttrain.web import Guard, serve
async def app(scope, receive, send):
    pass
serve(Guard(app, token=None), port=0, ready=lambda address: print(address, flush=True))
print("over", flush=True)
"""


def test_ctrl_c_ends_it_and_it_listens_on_loopback_only() -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    port = int(address.rpartition(":")[2])
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        if os.path.exists(f"/proc/net/{name}")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "over\n"
    assert process.returncode == 0
