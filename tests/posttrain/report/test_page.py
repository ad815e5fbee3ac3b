"""The page in a real browser: it draws what the run folder says, runs nothing else, and anyone can use it."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats.inspection_page import visible
from posttrain.errors import ConfigurationError
from posttrain.report import read_report, write_report
from posttrain.report.health import PANEL
from posttrain.report.page import _uplot, as_data, as_page, in_bytes, in_time, number
from posttrain.report.words import TITLES, ZH
from tests.posttrain.report import browser
from tests.posttrain.report.runs import (
    DATA,
    RunFolder,
    break_off,
    lines_of,
    rlhf,
    write_alarm,
    write_proofs,
    write_steps,
)

needs_chromium = pytest.mark.skipif(
    browser.FOUND is None or importlib.util.find_spec("websocket") is None,
    reason="no Chromium here, or no websocket-client: the report's page was not opened",
)

HOSTILE = [
    "<script>document.title='hacked'</script>", "</script><script>document.title='hacked'</script>", "<!--<script>", "-->", "]]>",
    "<img src=x onerror=\"document.title='hacked'\">", "<svg onload=document.title='hacked'>", "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/>", "<iframe src=http://127.0.0.1:9/></iframe>", "<link rel=stylesheet href=http://127.0.0.1:9/a.css>",
    "<style>*{display:none}</style>", "</style><script>document.title='hacked'</script>", "</title><script>document.title='hacked'</script>",
    "</textarea><img src=x>", "<object data=http://127.0.0.1:9/></object>", "<embed src=http://127.0.0.1:9/>", "<form action=http://127.0.0.1:9/><button>x",
    "<a href=javascript:document.title='hacked'>x</a>", "<details open ontoggle=document.title='hacked'>", "<input autofocus onfocus=document.title='hacked'>",
    "\" onmouseover=\"document.title='hacked'", "' onfocus='document.title=1' autofocus='", "`${document.title='hacked'}`", "{{ 7 * 7 }}", "{% raw %}", "{{ ''.__class__.__mro__ }}",
    "${7*7}", "&lt;script&gt;", "&#60;script&#62;", "\u2028\u2029", "\u202eevil", "\x00\x01\x1b[31m", "\ufeff\u200b", "\"}]};document.title='hacked';//", "\\u003c/script>",
    "<math><mtext></mtext><mglyph><svg><mtext><style><path id='</style><img onerror=document.title=1 src>'>", "<template><script>1</script></template>",
    "__proto__", "constructor",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.Browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture
def page(chromium: browser.Browser) -> browser.Browser:
    chromium.errors.clear()
    chromium.requests.clear()
    return chromium


def test_every_word_is_there_in_both_languages(tmp_path: Path) -> None:
    assert set(TITLES.values()) <= set(ZH)
    text = as_page(read_report(rlhf(tmp_path / "run")))  # a word without a translation is a KeyError
    assert '<span class="en">Curves</span><span class="zh" lang="zh-Hans">曲线</span>' in text
    source = Path(write_report.__code__.co_filename).parent
    written = "".join((source / name).read_text("utf-8") for name in ("page.html", "words.py", "page.py"))
    sentences = (source / "attention.py").read_text("utf-8")
    states = ("finished", "running", "stopped", "failed", "unfinished", "waiting", "alarm", "warning", "better", "worse", "noise", "rollout", "scoring", "update")  # fmt: skip
    unused = [
        words
        for words in ZH
        if f'_("{words}")' not in written
        and f'"{words.removeprefix("held out: ")}"' not in sentences
        and words not in (*TITLES.values(), *states)
    ]
    assert unused == []


def test_numbers_in_words() -> None:
    assert [number(x) for x in (0, 1234.0, 0.123456, 1e-5, 12345678.9, None)] == ["0", "1,234", "0.1235", "1e-05", "1.235e+07", "–"]  # fmt: skip
    assert [in_time(x) for x in (5.2, 61, 3661, None)] == ["5.2 s", "1 min 01 s", "1 h 01 min", "–"]
    assert [in_bytes(x) for x in (5e6, 2.5e9, None)] == ["5.0 MB", "2.50 GB", "–"]


def test_data_in_the_page_can_end_nothing() -> None:
    text = as_data(HOSTILE)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == HOSTILE


def test_a_changed_file_of_uplot_reaches_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "uplot.min.css").write_text("* { display: none }")
    spec = importlib.util.spec_from_file_location("youplot", tmp_path / "__init__.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "youplot" else None)
    with pytest.raises(ConfigurationError, match=r"is not uPlot 1\.6\.31's"):
        _uplot("uplot.min.css")


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    run = rlhf(tmp_path / "run", steps=5000, stages=6)
    assert write_report(run).stat().st_size < 2_000_000


@needs_chromium
def test_the_curves_have_the_points_of_the_metrics(tmp_path: Path, page: browser.Browser) -> None:
    run = rlhf(tmp_path / "run", steps=20)
    page.open(write_report(run))
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.run("new Promise(requestAnimationFrame)")
    drawn = page.run(
        "[...document.querySelectorAll('.chart')].filter(f => f.plot).map(f => [f.dataset.metric, f.dataset.stage, [...f.plot.data[0]], [...f.plot.data[1]]])"
    )
    line = ["reward", "kl", "entropy", "learning_rate", "memory_bytes"]
    assert [metric for metric, stage, *_ in drawn if not stage][: len(line)] == line
    losses = [stage for metric, stage, *_ in drawn if metric == "loss"]
    assert losses == ["sft0", "reward_model", "ppo"]  # different quantities have scales of their own
    assert [metric for metric, stage, *_ in drawn if stage == "ppo"][-len(PANEL) :] == [*PANEL]
    folders = {stage["name"]: run / stage["folder"] for stage in read_report(run)["stages"]}
    for metric, only, xs, ys in drawn:
        expected: list[float | None] = []
        for name, folder in folders.items():
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            values = [line[metric] for line in lines if metric in line]
            if values and only in ("", name):
                expected += ([None] if expected else []) + values  # a gap between two stages
        if metric == "memory_bytes":
            expected = [value if value is None else value / 1e9 for value in expected]
        assert ys == expected, metric
        assert xs == sorted(xs)
        if only:
            assert xs == list(range(1, 21))
    assert page.run(
        "[...document.querySelectorAll('.chart')].filter(f => f.plot).every(f => f.plot.ctx.getImageData(0, 0, f.plot.ctx.canvas.width, f.plot.ctx.canvas.height).data.some(v => v))"
    )
    assert page.errors == []
    assert page.requests == [(run / "report.html").as_uri()]


@needs_chromium
def test_zooming_moves_the_whole_time_line(tmp_path: Path, page: browser.Browser) -> None:
    page.open(write_report(rlhf(tmp_path / "run")))
    shown = "[...document.querySelectorAll('.chart')].filter(f => f.plot && !f.dataset.stage).map(f => [f.plot.scales.x.min, f.plot.scales.x.max])"
    whole = page.run(shown)
    assert len(whole) >= 5 and {tuple(one) for one in whole} == {(0, 2.98)}
    page.run("document.querySelector('#zoom [data-stage=reward_model]').click()")
    assert {tuple(one) for one in page.run(shown)} == {(1, 1.98)}
    page.run("document.querySelector('#zoom [data-zoom=all]').click()")
    assert page.run(shown) == whole
    page.run("scrollTo(0, document.querySelector('.chart[data-stage=\"\"]').offsetTop - 50)")
    left, top, width = page.run(
        "(({ left, top, width }) => [left, top, width])(document.querySelector('.chart[data-stage=\"\"] .u-over').getBoundingClientRect())"
    )
    for kind, at in (
        ("mouseMoved", 0.25),
        ("mousePressed", 0.25),
        ("mouseMoved", 0.5),
        ("mouseReleased", 0.5),
    ):
        button = "none" if kind == "mouseMoved" and at == 0.25 else "left"
        page.ask(
            "Input.dispatchMouseEvent",
            type=kind,
            x=left + at * width,
            y=top + 30,
            button=button,
            clickCount=1,
        )
    (dragged,) = {tuple(one) for one in page.run(shown)}
    assert dragged == pytest.approx((0.25 * 2.98, 0.5 * 2.98), abs=0.03)


@needs_chromium
def test_what_is_downloaded_is_what_was_measured(tmp_path: Path, page: browser.Browser) -> None:
    run = rlhf(tmp_path / "run", steps=4)
    page.open(write_report(run))
    page.run(
        "URL.createObjectURL = (blob) => { window.saved = blob; return 'about:blank#saved'; }; HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download; }; 0"
    )
    page.run("document.querySelector('[data-download=csv]').click()")
    lines = page.run("window.saved.text()").splitlines()
    assert page.run("window.savedAs") == "run.csv"
    assert lines[0] == "stage,metric,step,value"
    first = json.loads(next(run.glob("stages/stage-0/metrics.jsonl")).read_text().splitlines()[0])
    assert lines[1].split(",")[:3] == ['"sft0"', '"loss"', "1"]
    assert float(lines[1].split(",")[3]) == first["loss"]
    assert len(lines) == 1 + 4 * (2 * 6 + 4 + 16)
    page.run("document.querySelector('[data-download=json]').click()")
    assert json.loads(page.run("window.saved.text()"))["curves"] == read_report(run)["curves"]


@needs_chromium
def test_hostile_strings_in_every_field_stay_text(tmp_path: Path, page: browser.Browser) -> None:
    assert len(HOSTILE) == 40
    target = write_report(hostile(tmp_path / "run"))
    page.open(target)
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.run("document.title") == "run: failed"
    assert page.run("document.querySelectorAll('script').length") == 3
    assert (
        page.run(
            "document.querySelectorAll('img, iframe, object, embed, link, base, form, input, math, template, textarea, a').length"
        )
        == 0
    )
    assert page.run("document.querySelectorAll('meta').length") == 4
    assert page.run(
        "[...document.querySelectorAll('*')].every(e => [...e.attributes].every(a => !a.name.startsWith('on')))"
    )
    assert page.requests == [target.as_uri()]
    assert page.errors == []
    text = page.run("document.body.textContent")
    for bad in HOSTILE:
        if bad != "\x00\x01\x1b[31m":  # JSON keeps it; the page shows pictures of the characters
            assert text.count(visible(bad)) >= 12, bad
    assert "␀␁␛[31m" in text


def hostile(folder: Path) -> Path:
    """A stage for each string, which has it in every field that a user, a file or a model can fill."""
    run = RunFolder(
        folder, [f"s{i}" for i in range(len(HOSTILE))], model="".join(HOSTILE).replace("\ufeff\u200b", "")
    )
    for i, bad in enumerate(HOSTILE):
        more: dict[str, Any] = {
            "settings": [{"name": bad, "value": bad, "source": bad}, {"name": "b", "value": [bad, {bad: bad}], "source": "given"}],
            "versions": {bad: bad}, "machine": bad, "command": bad,
        }  # fmt: skip
        stage = run.begin(f"s{i}", bad, **more)
        write_steps(stage, [line | {"kl_per_token": 1.0} for line in lines_of(3, ["loss", bad])])
        write_proofs(stage, {bad: 1.0})
        write_alarm(stage, 1, bad)
        if i == len(HOSTILE) - 1:
            break_off(stage, bad, bad)
            continue
        data = DATA | {
            "source": bad, "format": bad, "why": bad, "dropped_reasons": {bad: 1}, "lines": [bad],
            "shown": [{"tokens": 1, "trained": 1, "parts": [[bad, [[bad, True], [bad, False]]]]}],
        }  # fmt: skip
        samples = [{"prompt": f"{i} {bad}", "answer": bad, "before": f"x {bad}"}]
        metrics = {f"{bad}_before": 1.0, f"{bad}_after": 2.0, f"own_{bad}": 1.0}
        run.finish(stage, f"s{i}", bad, data=data, samples=samples, metrics=metrics, proofs={bad: 1.0}, settings=more["settings"])  # fmt: skip
    return run.write()


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (380, True)])
def test_everybody_can_use_it(tmp_path: Path, page: browser.Browser, width: int, dark: bool) -> None:
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe_playwright_python is not installed: accessibility was not checked")
    page.open(write_report(rlhf(tmp_path / "run")), width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.run((Path(spec.origin).parent / "axe.min.js").read_text("utf-8") + "; 0")
    for language in ("en", "zh-Hans"):
        page.run(f"document.documentElement.lang = '{language}'")
        found = page.run(
            "axe.run().then((r) => r.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html).slice(0, 3)]))"
        )
        assert [one for one in found if one[0] in ("serious", "critical")] == []


@needs_chromium
def test_the_language_is_switched_in_the_page(tmp_path: Path, page: browser.Browser) -> None:
    page.open(write_report(rlhf(tmp_path / "run")))
    assert page.run("document.querySelector('h2').innerText") == "Needs attention"
    page.run("document.getElementById('language').click()")
    assert page.run("document.querySelector('h2').innerText") == "需要注意"
    assert page.run("document.documentElement.lang") == "zh-Hans"
