"""One source of a stage's data into the raw rows: in one go, or in pieces by several processes.

A large file of JSON lines is always read in the same pieces, and what is made of one does not depend on the others. So
the rows, counts, notes and messages are the same whether this process makes all of them or some processes share them.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from posttrain.errors import PosttrainError, ProcessDiedError

from .data import Data
from .examples import Example, Kind
from .formats.registry import OURS
from .loading import Reading, Tally
from .readers.pieces import Piece, SharedPieces, pieces_of
from .tokens.encoders import Work
from .tokens.handover import pack, packed_tokenizer, unpack
from .tokens.raw import Part, RawWriter

See = Callable[[Example], None]
WORTH = 2**25  # bytes; what is smaller is done before another process has started
MOST = 4  # processes: each holds its own tokenizer, and one of them joins what all make
PATIENCE = 0.01  # seconds between two looks for parts of others
WORK, RESULT, BAD_ROWS = "work.pickle", "part.pickle", "bad_rows.jsonl"
# A program of its own, so that the caller's script is not run again, as multiprocessing would.
HELPER = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from posttrain.data_formats.processes import help_out; help_out()"


def write_source(reading: Reading, writer: RawWriter, aside: Path, see: See | None = None) -> None:
    """aside: the folder for the parts of other processes; it is gone afterwards. Raises DataError, ProcessDiedError."""
    files = reading.files()
    if not files:
        writer.write(_shown(reading, see), reading.refuse)
        reading.raise_if_refused()
        return
    reading.look_ahead()
    helpers = 0 if see else _helpers(files)
    job = _job(reading, writer.work.tokenizer, files, aside) if helpers else None
    if job is None:
        for piece in pieces_of(files):
            part = reading.of_piece(piece, reading.bad_rows)
            writer.write(_shown(part.examples(), see), part.refuse)
            reading.tally.add(part.tally)
    else:
        _write_together(job, helpers, reading, writer)
    reading.close()


def _shown(examples: Iterable[Example], see: See | None) -> Iterable[Example]:
    for example in examples:
        if see is not None:
            see(example)
        yield example


def _helpers(files: Iterable[Path]) -> int:
    """How many processes are worth their start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    size = sum(file.stat().st_size for file in files)
    return min(cores, MOST, size // WORTH + 1) - 1


@dataclass(frozen=True)
class Job:
    """Everything that another process needs."""

    data: Data
    kind: Kind
    format: int  # among OURS
    first: Example | None
    tokenizer: bytes
    pieces: SharedPieces
    aside: Path

    def reading(self) -> Reading:
        return Reading(self.data, self.kind, OURS[self.format], first=self.first)


@dataclass(frozen=True)
class Made:
    """What a process leaves beside the rows of a piece."""

    tally: Tally
    part: Part


def _job(reading: Reading, tokenizer: Any, files: list[Path], aside: Path) -> Job | None:
    """None where another process could not have the same format or tokenizer."""
    number = next((i for i, known in enumerate(OURS) if known is reading.format), None)
    packed = packed_tokenizer(tokenizer)
    if number is None or packed is None:
        return None
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(
        mode=0o700, parents=True
    )  # what lies there is unpickled, so nobody else may put anything there
    pieces = SharedPieces.start(files, aside / "next.json")
    data = replace(reading.data, format=None)
    return Job(data, reading.kind, number, reading.first, packed, pieces, aside)


def _write_together(job: Job, helpers: int, reading: Reading, writer: RawWriter) -> None:
    """Pieces made by this process and its helpers, joined in their order."""
    work, joined = writer.work, 0
    with _helping(job, helpers) as processes:
        told = False
        while piece := job.pieces.take():
            _make(job, piece, work)
            if work.to_ids is not None and not told:  # what the first texts have proven holds for all
                told = True
                (job.aside / WORK).write_bytes(pack(work, job.tokenizer))
                for process in processes:
                    _tell(process, job.aside / WORK)
            joined = _join(job, joined, reading, writer)
        while joined < job.pieces.taken():
            ended = [process.poll() for process in processes]
            before, joined = joined, _join(job, joined, reading, writer)
            if before == joined:
                if None not in ended:
                    _refuse_dead(job, processes)
                time.sleep(PATIENCE)


def _make(job: Job, piece: Piece, work: Work) -> None:
    """The rows of one piece in a folder of its own; whole when the result is in it."""
    folder = job.aside / str(piece.number)
    folder.mkdir()
    reading = job.reading().of_piece(piece, folder / BAD_ROWS)
    writer = RawWriter(job.kind, work, folder)
    result: Made | PosttrainError | OSError
    try:
        writer.write(reading.examples(), reading.refuse)
        result = Made(reading.tally, writer.close())
    except (PosttrainError, OSError) as error:
        result = error
    half = folder / f"{RESULT}.half"
    half.write_bytes(pickle.dumps(result))
    half.rename(folder / RESULT)


def _join(job: Job, number: int, reading: Reading, writer: RawWriter) -> int:
    """Join all parts that are there from `number` on, up to the first that is not: returns its number."""
    while (folder := job.aside / str(number) / RESULT).exists():
        result = pickle.loads(folder.read_bytes())
        if isinstance(result, Exception):
            raise result
        writer.take(folder.parent, result.part)
        reading.tally.add(result.tally)
        bad_rows = folder.with_name(BAD_ROWS)
        if bad_rows.exists() and reading.bad_rows is not None:
            with bad_rows.open("rb") as lines, reading.bad_rows.open("ab") as file:
                shutil.copyfileobj(lines, file)
        shutil.rmtree(folder.parent)
        number += 1
    return number


@contextmanager
def _helping(job: Job, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Fresh interpreters, not forks: this process may hold threads of torch and tokenizers, which a fork loses.

    They end when this process does, however it ends: nobody holds the other end of their input any more.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            with (job.aside / f"{number}.log").open("wb") as log:
                command = [sys.executable, "-P", "-c", HELPER]  # no module of the working directory
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=0
                )
            processes.append(process)
            _tell(process, sys.path)
            _tell(process, replace(job, tokenizer=b""))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
        shutil.rmtree(job.aside, ignore_errors=True)


def _tell(process: subprocess.Popen[bytes], message: Any) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, which is noticed when its part is missed
        pickle.dump(message, process.stdin)
        process.stdin.flush()


def _refuse_dead(job: Job, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Raises ProcessDiedError: all have ended, and a part is missing."""
    number = next((i for i, process in enumerate(processes) if process.returncode), 0)
    code = processes[number].returncode
    log = (job.aside / f"{number}.log").read_text(errors="replace").split("\n")
    said = next((line for line in reversed(log) if line.strip()), "it said nothing")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code} ({said[:200]})"
    raise ProcessDiedError(
        f"{job.data}: a process that helped to read it {how}; nothing of its work was kept. Run again, with more memory free if that ran out."
    )


def help_out() -> None:
    """The whole of a helper's life."""
    job: Job = pickle.load(sys.stdin.buffer)
    path: Path = pickle.load(sys.stdin.buffer)
    Thread(target=_end_with_parent, daemon=True).start()
    work = unpack(path.read_bytes())
    while piece := job.pieces.take():
        _make(job, piece, work)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, whose lock a thread must not hold at the end
    os._exit(1)
