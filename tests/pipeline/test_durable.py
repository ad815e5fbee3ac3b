"""Committed files are whole or absent, and damage is noticed."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.errors import CorruptArtifactError, DiskError, DiskSpaceError
from posttrain.pipeline import durable


def two_files(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.txt").write_text("alpha")
    (folder / "sub" / "b.bin").write_bytes(bytes(range(256)) * 64)


def test_a_committed_folder_verifies_and_lists_every_file(tmp_path: Path) -> None:
    manifest = durable.commit_folder(tmp_path / "x", two_files, {"step": 3})
    assert sorted(manifest["files"]) == ["a.txt", "sub/b.bin"]
    assert manifest["files"]["a.txt"]["bytes"] == 5
    assert durable.verify_folder(tmp_path / "x") == manifest
    assert manifest["facts"] == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]  # nothing left aside


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def damage_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_missing, damage_cut, damage_bit, damage_empty])
@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin", "manifest.json"])
def test_damage_is_noticed(tmp_path: Path, damage: object, name: str) -> None:
    durable.commit_folder(tmp_path / "x", two_files)
    damage(tmp_path / "x" / name)  # type: ignore[operator]
    with pytest.raises(CorruptArtifactError):
        durable.verify_folder(tmp_path / "x")


def test_a_manifest_cannot_name_a_file_outside(tmp_path: Path) -> None:
    durable.commit_folder(tmp_path / "x", two_files)
    (tmp_path / "secret").write_text("alpha")
    manifest = durable.read_sealed(tmp_path / "x" / "manifest.json")
    manifest["files"]["../secret"] = manifest["files"]["a.txt"]
    durable.write_sealed(tmp_path / "x" / "manifest.json", manifest)
    with pytest.raises(CorruptArtifactError, match="outside"):
        durable.verify_folder(tmp_path / "x")


def test_a_failed_fill_leaves_the_old_folder(tmp_path: Path) -> None:
    durable.commit_folder(tmp_path / "x", two_files)

    def broken(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        durable.commit_folder(tmp_path / "x", broken)
    assert (tmp_path / "x" / "a.txt").read_text() == "alpha"
    durable.verify_folder(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_whichever_layer_says_so(tmp_path: Path, error: Exception) -> None:
    def full(folder: Path) -> None:
        raise error

    with pytest.raises(DiskSpaceError, match="free some space and run the same command again"):
        durable.commit_folder(tmp_path / "x", full)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, "Read-only file system"),
        RuntimeError("I/O error: Input/output error (os error 5)"),
    ],
)
def test_a_disk_that_fails_is_named_whichever_layer_says_so(tmp_path: Path, error: Exception) -> None:
    def broken(folder: Path) -> None:
        raise error

    with pytest.raises(DiskError, match=r"cannot be written \((Read-only file system|Input/output error)\)"):
        durable.commit_folder(tmp_path / "x", broken)


def test_a_damaged_folder_is_set_aside_not_deleted(tmp_path: Path) -> None:
    durable.commit_folder(tmp_path / "x", two_files)
    aside = durable.set_aside(tmp_path / "x")
    assert aside.name.startswith("x.corrupt-")
    assert (aside / "a.txt").read_text() == "alpha"


_WRITER = """
import sys
from pathlib import Path
from posttrain.pipeline import durable
target = Path(sys.argv[1])
def fill(folder):
    for i in range(40):
        (folder / f"{i}").write_bytes(bytes([i]) * 20000)
print("ready", flush=True)
while True:
    durable.commit_folder(target, fill)
"""


def test_a_killed_writer_leaves_whole_or_nothing(tmp_path: Path) -> None:
    """SIGKILL at eight moments of endless commits: what stands under the final name always verifies."""
    verified = 0
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        while (
            attempt >= 4 and not (tmp_path / "x").exists()
        ):  # a busy machine may be slow to its first commit
            time.sleep(0.001)
        time.sleep(0.02 + 0.017 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (tmp_path / "x").exists():
            durable.verify_folder(tmp_path / "x")
            verified += 1
        durable.remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] in ([], ["x"])
    assert verified >= 1
