"""The places where strangers' strings reach a page beside runs, forms, rows and chats: output, refusals, damaged runs."""

from pathlib import Path

from posttrain.ui.app import Site
from tests.posttrain.report.browser import Browser
from tests.posttrain.report.runs import RunFolder, rlhf
from tests.posttrain.report.test_page import HOSTILE
from tests.posttrain.ui.test_pages import NOTHING_RAN


def test_what_a_run_prints_stays_text(site: Site, address: str, page: Browser) -> None:
    folder = rlhf(site.root / "a")
    (folder / "output.log").write_text("\n".join(HOSTILE))
    page.open(f"{address}/runs/{site.runs.id_of(folder)}")
    page.click("#output summary")
    page.wait_for("document.querySelector('#output pre').textContent.includes('constructor')")
    shown = page.run("document.querySelector('#output pre').textContent")
    assert [bad for bad in HOSTILE if bad not in shown] == []
    assert page.run(NOTHING_RAN) == [0, False, False, 0]
    assert page.errors == []


def test_refusals_that_repeat_a_path_stay_text(address: str, page: Browser) -> None:
    page.open(f"{address}/data")
    failure = "document.getElementById('failure')"
    for bad in HOSTILE[::8]:
        page.run(f"{failure}.hidden = true")
        page.write("#path", f"/nowhere/{bad}.jsonl")
        page.click("#form button")
        page.wait_for(f"!{failure}.hidden && {failure}.textContent.includes('nowhere')", 120)
        assert page.run(NOTHING_RAN) == [0, False, False, 0]
    assert [one for one in page.errors if "status of 4" not in one] == []


def test_a_damaged_run_of_a_hostile_name_stays_text(site: Site, address: str, page: Browser) -> None:
    for number, bad in enumerate(HOSTILE[:8]):
        run = RunFolder(site.root / f"{number} {bad.replace('/', '∕')}", ["sft"])
        Path(run.write() / "run.json").write_text(f'{{"stages": {bad!r}')
        page.open(f"{address}/runs/{site.runs.id_of(run.folder)}")
        assert page.run(NOTHING_RAN) == [0, False, False, 0]
    assert page.errors == []
