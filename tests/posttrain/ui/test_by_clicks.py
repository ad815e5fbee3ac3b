"""A run from the form to the chat in a real browser, by clicks: planned, started, watched, stopped, gone on with."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.pipeline.run_list import read_state
from posttrain.ui.app import Site
from tests.posttrain.report.browser import Browser


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "runs").mkdir()
    return Site.of(tmp_path / "runs")


@pytest.mark.slow
def test_a_run_from_the_form_to_the_chat(
    site: Site, address: str, page: Browser, keep: Callable[[str], None]
) -> None:
    page.open(f"{address}/new")
    page.choose("#recipe", "")
    page.write("#name", "by-clicks")
    page.run(
        "[...document.querySelectorAll('#settings label')].find((one) => one.textContent === 'model').control.id = 'the-model'"
    )
    page.write("#the-model", "tiny-random")
    more = "#settings fieldset:nth-of-type(2) .more select"
    for name, value in (("max_steps", "60"), ("batch_size", "2")):
        page.choose(more, name)
        page.run(f"document.activeElement.id = 'the-{name}'")
        page.write(f"#the-{name}", value)
    text = page.run("document.getElementById('text').value")
    assert (
        text
        == "model: tiny-random\nseed: 0\n\nstrategy: # of every stage that names none\n  LoRA: {}\n\nstages:\n  - SFT:\n      max_steps: 60\n      batch_size: 2\n"
    )
    assert page.run("document.getElementById('start-button').disabled")
    page.click("#plan-button")
    page.wait_for("document.querySelector('#plan tbody td')", 120)
    cells = page.run("[...document.querySelectorAll('#plan tbody td')].map((one) => one.textContent)")
    assert cells[5] == "60" and cells[0] == "240"
    keep("new")
    page.click("#start-button")
    page.wait_for(
        "location.pathname.startsWith('/runs/') && document.documentElement.dataset.ready === ''", 60
    )
    page.wait_for(
        "document.querySelector('.chart')?.plot?.data[0].length > 3", 180
    )  # it draws while it trains
    keep("running")
    folder = site.root / "by-clicks"
    assert read_state(folder).status == "running"
    assert os.getsid(int(json.loads((folder / ".lock").read_text())["pid"])) != os.getsid(0)
    page.click("[data-action=stop]")
    page.wait_for("document.querySelector('[data-action=resume]')", 120)
    assert read_state(folder).status == "stopped"
    stopped = steps_in(folder)
    assert 3 < len(stopped) < 60
    keep("stopped")
    page.click("[data-action=resume]")
    page.wait_for("document.querySelector('h1 .state.finished')", 240)
    assert read_state(folder).status == "finished"
    page.wait_for("document.querySelector('.chart[data-metric=loss]').plot.data[1].length === 60")
    lines = steps_in(folder)
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert page.run("[...document.querySelector('.chart[data-metric=loss]').plot.data[1]]") == [
        line["loss"] for line in lines
    ]
    assert page.run("document.querySelector('#output pre').textContent") == ""  # it is closed
    page.click("#output summary")
    page.wait_for("document.querySelector('#output pre').textContent.includes('SIGTERM')")
    page.click("#runbar a[href^='/chat']")
    page.wait_for(
        "document.querySelectorAll('#model0 option').length", 180
    )  # the real server, with the run's model
    page.choose("#model0", "sft")
    page.click("#two")
    page.wait_for("document.querySelectorAll('#model1 option').length", 60)
    page.choose("#model1", "sft")
    page.write("#longest", "12")
    page.write("#message", "Which lock is good?")
    page.click("#send")
    page.wait_for(
        "document.querySelectorAll('.said.assistant pre').length === 2 && !document.getElementById('send').disabled",
        120,
    )
    said = page.run("[...document.querySelectorAll('.said.assistant pre')].map((one) => one.textContent)")
    assert said[0] and said[0] == said[1]  # greedy, of the same stage
    keep("chat")
    page.click("#over")
    page.wait_for("document.querySelectorAll('.said').length === 0")
    assert page.errors == []


def steps_in(folder: Path) -> list[dict[str, float]]:
    (path,) = folder.glob("stages/*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
