"""What can be made again is made once, whoever asks, and never read when damaged."""

import multiprocessing
from pathlib import Path

from posttrain.pipeline.cache import keep_folder


def make(folder: str, log: str) -> None:
    def fill(aside: Path) -> None:
        with Path(log).open("a") as file:
            file.write("made\n")
        (aside / "content").write_text("whole")

    keep_folder(Path(folder), fill)


def test_many_processes_make_a_folder_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    for round_ in range(5):
        folder = tmp_path / f"cache/entry {round_}"
        processes = [context.Process(target=make, args=(str(folder), str(log))) for _ in range(8)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 8
        assert (folder / "content").read_text() == "whole"
    assert log.read_text() == "made\n" * 5


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".entry.123.tmp", ".another.123.tmp"):
        (tmp_path / name).mkdir()
    make(str(tmp_path / "entry"), str(tmp_path / "log"))
    assert not (tmp_path / ".entry.123.tmp").exists()
    assert (tmp_path / ".another.123.tmp").exists()  # somebody may be making it


def test_a_damaged_folder_is_put_aside_and_made_again(tmp_path: Path) -> None:
    folder, log = tmp_path / "entry", tmp_path / "log"
    make(str(folder), str(log))
    (folder / "content").write_text("whale")
    make(str(folder), str(log))
    assert (folder / "content").read_text() == "whole"
    assert log.read_text() == "made\n" * 2
    assert list(tmp_path.glob("*.corrupt-*"))
