"""What is installed: exact versions, by hash where a lock lies there, and audited where a database can be reached."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tested_set_is_exact() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    names = [line.partition("==")[0].lower().replace("_", "-") for line in lines]
    assert len(names) == len(set(names))


def test_a_lock_names_every_package_with_its_hash(lock: ModuleType) -> None:
    def one(name: str, version: str, info: dict[str, object]) -> dict[str, object]:
        return {"metadata": {"name": name, "version": version}, "download_info": info}

    def hashed(digit: str) -> dict[str, object]:
        return {"url": "https://index/x", "archive_info": {"hashes": {"sha256": digit * 64}}}

    installs = [one("torch", "2.13.0+cpu", hashed("a")), one("Jinja2", "3.1.6", hashed("b")), one("posttrain", "0.1.0", {"dir_info": {}})]  # fmt: skip
    assert lock.lines_of(installs) == [
        f"Jinja2==3.1.6 --hash=sha256:{'b' * 64}",
        f"torch==2.13.0+cpu --hash=sha256:{'a' * 64}",
    ]


def test_what_setup_installs_alone_is_in_the_lock(lock: ModuleType) -> None:
    setup = (ROOT / "scripts" / "setup").read_text()
    assert set(re.findall(r"--no-deps ([\w-]+==\S+)", setup)) == set(lock._ALONE)
    assert "--require-hashes --no-deps --requirement requirements.lock" in setup
    assert not (ROOT / "requirements.lock").exists() or "requirements.lock" not in tracked()


def test_what_is_said_to_be_tested_is_there() -> None:
    rows = re.findall(
        r"^\| .+ \| ([\d,]+) \| (.+) \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) >= 12
    places = [place for _, found in rows for place in re.findall(r"`(.+?)`", found)]
    assert [place for place in places if not (ROOT / place).exists()] == []
    own = {path.name for path in (ROOT / "tests" / "security").glob("test_*.py")}
    assert own <= {Path(place).name for place in places}


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines()


AUDITS = {
    "nothing is known": ("echo 'No known vulnerabilities found' >&2", 0, "pip-audit knows no hole"),
    "something is known": ("echo 'Found 2 known vulnerabilities in 1 package' >&2; exit 1", 1, "Found 2 known"),
    "no database": ("echo 'ERROR:pip_audit._cli:connection refused' >&2; exit 1", 0, "not audited: pip-audit reaches no"),
    "a mirror without one": ("echo 'Jinja2 Dependency not found on PyPI and could not be audited: jinja2 (3.1.2)'", 0, "not audited: pip-audit reaches no"),
    "no pip-audit": (None, 0, "not audited: pip-audit is not installed"),
}  # fmt: skip


@pytest.mark.parametrize("name", AUDITS)
def test_the_check_audits_where_it_can(tmp_path: Path, name: str) -> None:
    audit, code, said = AUDITS[name]
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "scripts" / "check", tmp_path / "scripts")
    for tool, does in (("ruff", "exit 0"), ("mypy", "exit 0"), ("pip-audit", audit)):
        if does is not None:
            (tmp_path / "bin" / tool).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / "bin" / tool).chmod(0o755)
    done = subprocess.run(
        ["sh", str(tmp_path / "scripts" / "check")], capture_output=True, text=True, env=os.environ | {"PYTHON_BIN": str(tmp_path / "bin")}
    )  # fmt: skip
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
