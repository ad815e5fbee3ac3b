"""The one place where files become lasting: write aside, fsync, manifest, rename, fsync the parent.

A committed folder holds `manifest.json` with the size and sha256 of every other file in it. Readers take
only folders whose manifest holds; whatever a crash left half-written has no manifest under its final name.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.errors import CorruptArtifactError, DiskError, DiskSpaceError

from .digests import digest_of, sha256_of

MANIFEST = "manifest.json"
_FULL = ("No space left on device", "os error 28", "Disk quota exceeded")  # safetensors has no error number
_BROKEN = {errno.EIO: "(os error 5)", errno.EROFS: "(os error 30)"}  # and what safetensors says
_SHORT = ("iostream error", "inline_container", "PytorchStreamWriter")
_ROOM = 64 << 20  # bytes; with less, a short file is a full disk


def write_bytes(path: Path, content: bytes) -> None:
    """Replace one file; after a crash the old or the new content is there, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named_disk_errors(path):
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace one JSON file, indented for people."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """One JSON file.

    Raises CorruptArtifactError when it is missing or is no JSON: files written here are whole or absent.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(f"{path} cannot be read ({error}).") from error


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """JSON with a seal over its content, so that a flipped bit or an edit is noticed."""
    write_json(path, {**value, "seal": digest_of(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The inverse of `write_sealed`.

    Raises CorruptArtifactError when the content does not carry its own seal.
    """
    value = read_json(path)
    seal = value.pop("seal", None) if isinstance(value, dict) else None
    if seal is None or seal != digest_of(value):
        raise CorruptArtifactError(f"{path} was changed after it was written (its seal does not fit).")
    return dict(value)


def commit_folder(
    target: Path, fill: Callable[[Path], None], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Let `fill` write into an empty folder, then make it `target` in one step; returns the manifest."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with named_disk_errors(target):
            fill(aside)
            return adopt_folder(aside, target, facts)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def adopt_folder(
    source: Path, target: Path, facts: Mapping[str, Any] | None = None, name: str = MANIFEST
) -> dict[str, Any]:
    """Commit a folder that somebody else wrote (same file system) as `target`; returns the manifest, kept as `name`."""
    with named_disk_errors(target):
        files = {
            path.relative_to(source).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in _files_of(source, name)
        }
        manifest = {"files": files, "facts": dict(facts or {})}
        for path in _files_of(source, name):
            _sync_file(path)
        write_sealed(source / name, manifest)
        for folder, _, _ in os.walk(source, topdown=False):
            _sync_folder(Path(folder))
        old = target.with_name(f".{target.name}.{os.getpid()}.old.tmp")
        if (
            target.exists()
        ):  # an earlier attempt; out of the way in one step, for a deletion can be killed half-way
            target.rename(old)
        source.rename(target)
        _sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    return manifest


def verify_folder(
    folder: Path, sha256: Callable[[Path], str] = sha256_of, manifest_name: str = MANIFEST
) -> dict[str, Any]:
    """The manifest of a committed folder, after reading every byte that it names, or what `sha256` remembers of it.

    Raises CorruptArtifactError naming the first file that is missing, of another size, or changed.
    """
    manifest = read_sealed(folder / manifest_name)
    for name, expected in _listed(folder / manifest_name, manifest).items():
        path = inside(folder, name, folder / manifest_name)
        if path.resolve() != folder.resolve() / name:
            raise CorruptArtifactError(f"{path} is reached by a link, and leads out of its folder.")
        if not path.is_file():
            raise CorruptArtifactError(f"{path} is missing.")
        if path.stat().st_size != expected["bytes"]:
            raise CorruptArtifactError(
                f"{path} has {path.stat().st_size} bytes and was committed with {expected['bytes']}."
            )
        if sha256(path) != expected["sha256"]:
            raise CorruptArtifactError(f"{path} has changed since it was committed (sha256 differs).")
    return manifest


def _listed(path: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """{name: {"bytes", "sha256"}}. Whoever writes a manifest can seal it, so its shape is not taken for granted."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(one, dict) and {"bytes", "sha256"} <= one.keys() for one in files.values()
    ):
        raise CorruptArtifactError(f"{path} is no list of files with their sizes and digests.")
    return files


def inside(folder: Path, name: Any, named_by: Path) -> Path:
    """The file or folder of this name in `folder`.

    Raises CorruptArtifactError, with the file that names it, for a name that leads outside.
    """
    plain = isinstance(name, str) and name and "\0" not in name and not Path(name).is_absolute()
    if plain and ".." not in Path(name).parts:
        return folder / name
    raise CorruptArtifactError(f"{named_by} names {str(name)[:200]!r}, which is outside its folder.")


def digest_of_manifest(manifest: Mapping[str, Any]) -> str:
    """One sha256 for a committed folder: over the names and contents of its files."""
    return digest_of(sorted((name, entry["sha256"]) for name, entry in manifest["files"].items()))


def sync_file(path: Path) -> None:
    """Have what was appended to a file, if there is one, on the disk."""
    if path.exists():
        _sync_file(path)


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder so that no reader takes it again; nothing is deleted."""
    for attempt in range(1000):
        stamp = time.strftime("%Y%m%d-%H%M%S") + (f"-{attempt}" if attempt else "")
        target = folder.with_name(f"{folder.name}.corrupt-{stamp}")
        if not target.exists():
            folder.rename(target)
            _sync_folder(folder.parent)
            return target
    raise CorruptArtifactError(f"{folder} is damaged and could not be renamed.")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what a killed process left half-written in `folder`, of all or of one name; nothing committed is so called."""
    for path in folder.glob(f".{name}.*.tmp"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def named_disk_errors(target: Path) -> Iterator[None]:
    """Turn "no space left" of any layer (OS, safetensors, torch) into a DiskSpaceError that names `target`.

    A disk that fails, or went read-only, is a DiskError.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if (broken := _broken_disk(error)) is not None:
            raise DiskError(
                f"{broken.filename or target} cannot be written ({broken.strerror}). What was committed before is whole; "
                "see to the disk and run the same command again to go on, or copy the run folder to another one."
            ) from error
        if not is_disk_full(error, target):
            raise
        free = shutil.disk_usage(_existing_parent(target)).free
        raise DiskSpaceError(
            f"The disk is full while writing {target} ({free / 1e6:.0f} MB free). What was committed before is "
            "whole; free some space and run the same command again to go on."
        ) from error


def _broken_disk(error: BaseException | None) -> OSError | None:
    """What the disk said, of an error or one that caused it; None where it said nothing."""
    for _ in range(10):
        if isinstance(error, OSError) and error.errno in _BROKEN:
            return error
        for number, sign in _BROKEN.items():
            if sign in str(error):
                return OSError(number, os.strerror(number))
        if error is None:
            break
        error = error.__cause__ or error.__context__
    return None


def is_disk_full(error: BaseException | None, place: Path) -> bool:
    """Whether the error, or one that caused it, says that the disk or the quota of `place` is full."""
    for _ in range(10):
        if error is None:
            return False
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error) for sign in _FULL):
            return True
        # torch.save only says that its file came out short; a full disk is one reason among others
        if (
            any(sign in str(error) for sign in _SHORT)
            and shutil.disk_usage(_existing_parent(place)).free < _ROOM
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _files_of(folder: Path, manifest_name: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / manifest_name)


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    _sync_file(folder)
