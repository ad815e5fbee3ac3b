"""The pages in a real browser: strangers' strings stay text, numbers are those of the files, anyone can use them."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats.inspection_page import ROLES, VERDICTS, visible
from posttrain.pipeline.launch import Launch, Started
from posttrain.pipeline.lock import run_lock
from posttrain.report.words import TITLES
from posttrain.report.words import ZH as OF_REPORT
from posttrain.ui.app import Site
from posttrain.ui.words import ZH
from tests.posttrain.report.browser import Browser
from tests.posttrain.report.runs import RunFolder, lines_of, rlhf, write_steps
from tests.posttrain.report.test_page import HOSTILE, hostile

PAGE = Path(__file__).resolve().parents[3] / "posttrain" / "ui" / "page"
FIGURES = {"kind", "format", "rows", "bad rows", "duplicates", "chosen = rejected", "scripts", "note", "training stops",
           "none", "messages of a dialogue"}  # fmt: skip
NOTHING_RAN = """(() => {
  const foreign = document.querySelectorAll('img, iframe, object, embed, link, base, math, template, style:not(head *)').length;
  const handlers = [...document.querySelectorAll('*')].some((e) => [...e.attributes].some((a) => a.name.startsWith('on')));
  return [foreign, handlers, document.title === 'hacked', window.hacked ?? 0];
})()"""


def test_every_word_is_there_in_both_languages() -> None:
    source = "".join(path.read_text("utf-8") for path in PAGE.iterdir())
    used = set(re.findall(r'(?:_|say|button)\("([^"]+)"', source))
    spoken = {"run", "state", "stages", "loss", "changed", "size", "stage", "rows", "held out", "cut", "dropped", "tokens", "steps",
              "trained parameters", "peak memory", "disk", "half up to", "95 % up to", "longest", "finished", "running", "stopped",
              "failed", "damaged", "starting", "stopping"}  # fmt: skip
    assert all(f'"{word}"' in source or word in ("finished", "failed", "damaged") for word in spoken)
    told = {*VERDICTS, *(f"characters of {role}" for role in ROLES), *FIGURES}  # by what inspects
    assert used | spoken | told <= set(ZH)
    assert set(ZH) - set(OF_REPORT) <= used | spoken | told
    assert set(TITLES.values()) <= set(ZH)


def test_hostile_runs_stay_text(site: Site, address: str, page: Browser) -> None:
    names = [bad.replace("/", "∕").replace("\x00", "") for bad in HOSTILE]
    for i, name in enumerate(names):
        folder = RunFolder(site.root / f"{i} {name}", [name]).write()
        Launch((name,), Started(str(site.root)), 1.0, "failed", 2.0, f"PosttrainError: {name}").write(folder)
    page.open(f"{address}/")
    text = page.run("document.body.textContent")
    assert [name for name in names if text.count(visible(name)) < 3] == []
    assert page.run("document.querySelectorAll('#list tbody tr').length") == 40
    assert page.run(NOTHING_RAN) == [0, False, False, 0]
    worst = hostile(site.root / "worst" / names[0])
    page.open(f"{address}/runs/{site.runs.id_of(worst)}")
    write_steps(worst / "stages" / "stage-39", [{"step": 9, "loss": 1.0}])  # the page renews itself
    page.wait_for(
        "JSON.parse(document.getElementById('report').textContent).curves.some((c) => c.steps.includes(9))"
    )
    assert page.run(NOTHING_RAN) == [0, False, False, 0]
    assert page.errors == []
    assert {one.partition("?")[0].split("/")[2] for one in page.requests if one.startswith("http")} == {
        address.split("/")[2]
    }


def test_hostile_answers_stay_text(
    site: Site, address: str, page: Browser, keep: Callable[[str], None]
) -> None:
    folder = rlhf(site.root / "a")
    page.open(f"{address}/chat?run={site.runs.id_of(folder)}")
    page.wait_for("document.querySelectorAll('#model0 option').length === 3")
    page.choose("#model0", "sft")
    shown = [bad for bad in HOSTILE if bad.strip("\ufeff\u200b\u2028\u2029")]
    page.write("#message", "\n".join(shown))
    page.click("#send")
    page.wait_for(
        "document.querySelector('.said.assistant pre')?.textContent.length && !document.getElementById('send').disabled"
    )
    said = page.run("[...document.querySelectorAll('.said pre')].map((one) => one.textContent)")
    asked = page.run("document.querySelector('.said.user pre').textContent")
    assert said == [asked, f"sft: {asked}"]
    assert all(
        bad.replace("\x00\x01\x1b", "").strip()[-9:] in asked.replace("\x00\x01\x1b", "") for bad in shown
    )
    assert page.run(NOTHING_RAN) == [0, False, False, 0]
    assert page.errors == []


def test_hostile_rows_and_settings_stay_text(
    address: str, page: Browser, tmp_path: Path, keep: Callable[[str], None]
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": bad}, {"role": "assistant", "content": f"ok {bad}"}]}
        for bad in HOSTILE
    ]
    bad_rows = [{"messages": [{"role": bad, "content": bad}]} for bad in HOSTILE[:6]]
    file = tmp_path / "rows<b>.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows + bad_rows))
    page.open(f"{address}/data")
    page.write("#model", "tiny-random")
    page.choose("#kind", "conversation")
    page.write("#path", str(file))
    page.click("#form button")
    page.wait_for("document.getElementById('verdict')", 120)
    assert page.run("document.getElementById('verdict').textContent").startswith("7 of 46 rows are bad")
    text = page.run("document.getElementById('found').textContent")
    assert "rows<b>.jsonl" in text and visible(HOSTILE[0]) in text
    assert page.run("document.querySelectorAll('.row mark').length") == 10
    assert page.run("document.querySelector('.row mark').textContent") == f"ok {HOSTILE[0]}<|im_end|>"
    assert "[object" not in text
    assert page.run(NOTHING_RAN) == [0, False, False, 0]
    bar, label = page.run(
        "[...document.querySelectorAll('.bars tr:not(.limit)')].map((row) => [row.querySelector('progress'), row.querySelector('th')]"
        ".map((one) => { const { top, bottom, width } = one.getBoundingClientRect(); return [(top + bottom) / 2, width]; }))[0]"
    )
    assert abs(bar[0] - label[0]) < 3  # a bar stands in the line of its label
    assert page.run("document.querySelector('.bars .limit').textContent") == "max_length 1,024"
    keep("data")
    assert page.errors == []


def test_a_number_that_is_none_is_not_sent(site: Site, address: str, page: Browser) -> None:
    rlhf(site.root / "a")
    page.open(f"{address}/chat")
    for field, wrong in (
        ("temperature", "abc"),
        ("temperature", ""),
        ("temperature", "2.5"),
        ("longest", "0"),
    ):
        page.write(f"#{field}", wrong)
        page.write("#message", "Hi")
        page.click("#send")
        page.wait_for(f"!document.getElementById('{field}-wrong').hidden")
        assert page.run(f"document.getElementById('{field}').getAttribute('aria-invalid')") == "true"
        assert page.run("document.getElementById('message').value") == "Hi"
        page.write(f"#{field}", "1")
        assert page.run(f"document.getElementById('{field}-wrong').hidden")
    assert page.run("document.querySelector('.said')") is None
    assert page.errors == []


SET_ALL = """(() => {
  const left = () => [...document.querySelectorAll('.more option')].find((one) => one.value && one.value !== 'strategy');
  for (let one = left(); one; one = left()) {
    const more = one.parentElement;
    more.value = one.value;
    more.dispatchEvent(new Event('change', { bubbles: true }));
  }
})()"""
FILL = """(bad) => {
  const fields = [...document.querySelectorAll('#form input:not([type=checkbox])')];
  for (const field of fields) { field.value = bad; field.dispatchEvent(new Event('input', { bubbles: true })); }
  return fields.length;
}"""


def test_hostile_settings_stay_text(address: str, page: Browser) -> None:
    """Every field of the form with every setting that a stage has, and a refusal that repeats what was typed."""
    page.open(f"{address}/new")
    for recipe, least in (("rlhf", 50), ("extraction", 3)):
        page.choose("#recipe", recipe)
        page.run(SET_ALL)
        for bad in HOSTILE:
            assert page.run(f"({FILL})({json.dumps(bad)})") >= least
            if recipe == "rlhf" and bad == HOSTILE[1]:
                assert f"model: {json.dumps(bad)}" in page.run("document.getElementById('text').value")
            assert page.run(NOTHING_RAN) == [0, False, False, 0]
        for bad in HOSTILE[::8]:
            page.run(f"({FILL})({json.dumps(bad)})")
            page.click("#plan-button")
            page.wait_for(
                "!document.getElementById('failure').hidden && !document.getElementById('plan-button').disabled"
            )
            assert page.run(NOTHING_RAN) == [0, False, False, 0]
    assert [one for one in page.errors if "status of 4" not in one] == []


def test_the_page_follows_the_run(site: Site, address: str, page: Browser) -> None:
    run = RunFolder(site.root / "a", ["sft", "dpo"])
    stage = run.begin("sft")
    lines = lines_of(9, ["loss", "grad_norm"])
    write_steps(stage, lines[:3])
    folder = run.write()
    drawn = "[...document.querySelector('.chart[data-metric=loss]').plot.data[1]]"
    with run_lock(folder):
        page.open(f"{address}/")
        page.wait_for("document.querySelector('tbody .faint')?.innerText === 'step 3 of 10'")
        page.open(f"{address}/runs/{site.runs.id_of(folder)}")
        assert page.run(drawn) == [line["loss"] for line in lines[:3]]
        page.run("document.querySelector('#zoom button').focus()")
        page.run(
            "document.querySelector('details:has(.chart)').open = true; document.querySelector('#stages').kept = 1"
        )
        write_steps(stage, lines)
        page.wait_for(f"{drawn}.length === 9")
        assert page.run(drawn) == [line["loss"] for line in lines]
        assert page.run("document.activeElement.dataset.zoom") == "all"  # nothing was taken from who uses it
        assert page.run(
            "[document.querySelector('details:has(.chart)').open, document.querySelector('#stages').kept]"
        ) == [True, 1]
        assert page.run(
            "[document.querySelector('#zoom').hidden, document.querySelector('h1 .state').className]"
        ) == [False, "state running"]
    page.wait_for("document.querySelector('h1 .state').className === 'state unfinished'")
    assert page.errors == []


def test_the_form_writes_what_recipes_say(address: str, page: Browser) -> None:
    page.open(f"{address}/new")
    from posttrain.packaged_recipes import find_recipe
    from posttrain.recipe_files import read_yaml

    for name in ("quickstart", "rlhf"):
        page.choose("#recipe", name)
        kept = read_yaml(
            next(file for file in find_recipe(name).files if file.suffix == ".yaml"), name
        ).plain()
        made = read_yaml(page.run("document.getElementById('text').value"), name).plain()
        assert made == {key: value for key, value in kept.items() if key != "run_dir"}
    page.choose("#recipe", "extraction")
    assert (
        page.run("document.getElementById('text').value")
        == "posttrain run extraction.py --model=embedded --seed=0"
    )
    page.choose("#recipe", "quickstart")
    page.run(
        "[...document.querySelectorAll('#settings fieldset:nth-of-type(3) label')].find((one) => one.textContent === 'data').control.id = 'the-data'"
    )
    for typed, meant in (
        ("chat.jsonl", "chat.jsonl"),
        ("[a.jsonl, b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("a: #1 'x'", "a: #1 'x'"),
        ("007", "007"),
        ("数据.jsonl", "数据.jsonl"),
        ("null", "null"),
    ):
        page.write("#the-data", typed)
        made = read_yaml(page.run("document.getElementById('text').value"), "form").plain()
        assert made["stages"][1]["SFT"]["data"] == meant
    page.click("#by-hand")
    assert page.run(
        "[document.getElementById('text').readOnly, document.getElementById('settings').hidden]"
    ) == [False, True]
    assert page.errors == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (380, True)])
def test_everybody_can_use_it(
    site: Site, address: str, page: Browser, keep: Callable[[str], None], width: int, dark: bool
) -> None:
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe_playwright_python is not installed: accessibility was not checked")
    axe = (Path(spec.origin).parent / "axe.min.js").read_text("utf-8") + "; 0"
    folder = rlhf(site.root / "finished")
    run = RunFolder(site.root / "at-work", ["cpt", "sft", "dpo"])
    write_steps(run.begin("cpt"), lines_of(7, ["loss"]))
    broken = RunFolder(site.root / "broken", ["sft"]).write()
    Launch(
        ("sft",),
        Started(str(site.root), recipe="x"),
        1.0,
        "failed",
        2.0,
        "DataFileError: chat.jsonl is empty.",
    ).write(broken)
    with run_lock(run.write()):
        for name, path in (
            ("runs", "/"),
            ("run", f"/runs/{site.runs.id_of(folder)}"),
            ("form", "/new"),
            ("inspector", "/data"),
            ("chat-empty", f"/chat?run={site.runs.id_of(folder)}"),
        ):
            page.open(f"{address}{path}", width=width, dark=dark)
            if name == "chat-empty":
                page.click("#two")
            page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), (
                f"{name} is wider than the screen"
            )
            page.run(axe)
            for language in ("en", "zh-Hans"):
                page.run(f"document.documentElement.lang = '{language}'")
                found: Any = page.run(
                    "axe.run().then((r) => r.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html).slice(0, 3)]))"
                )
                assert [one for one in found if one[0] in ("serious", "critical")] == [], name
            page.run("document.documentElement.lang = 'en'")
            keep(f"{name}-{width}")
    assert page.errors == []


def test_the_language_stays_from_page_to_page(address: str, page: Browser) -> None:
    page.click("#language")
    page.wait_for("localStorage.getItem('posttrain-language') === 'zh-Hans'")
    page.open(f"{address}/data")
    assert page.run("[document.querySelector('h1').innerText, document.title]") == [
        "数据",
        "数据 · posttrain",
    ]
    page.run("localStorage.clear()")
