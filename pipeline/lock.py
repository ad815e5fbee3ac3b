"""One run at a time in a run folder: flock, with the holder's name in the file."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.errors import RunFolderError, RunLockedError


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets it go when the process dies, so none is ever stale.

    Raises RunLockedError at once, naming the holder, when another process has it.
    """
    path = folder / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"The run folder {folder} cannot be written ({error.strerror}); choose another run_dir."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLockedError(
                f"{folder} is in use by {_holder(path)}; wait for it to end or choose another run_dir."
            ) from None
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process works in the run folder now."""
    path = folder / ".lock"
    try:
        owner, here = json.loads(path.read_text()), socket.gethostname()
        if owner["host"] == here and not _is_alive(int(owner["pid"])):
            return False  # asking the kernel takes the lock for a moment, in which no run could start
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def worker(folder: Path) -> int | None:
    """The process that works in the run folder now. Raises RunLockedError when it is one of another machine."""
    if not is_locked(folder):
        return None
    try:
        owner = json.loads((folder / ".lock").read_text())
        pid, host = int(owner["pid"]), owner["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it has taken the lock and not yet written who it is
    if host != socket.gethostname():
        raise RunLockedError(f"{folder} is in use by {_holder(folder / '.lock')}; stop it there.")
    return pid


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _holder(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
