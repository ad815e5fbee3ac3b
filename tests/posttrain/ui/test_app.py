"""What each address answers, and to whom."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.data_formats import sample
from posttrain.pipeline.lock import run_lock
from posttrain.ui.app import Site
from posttrain.web import content_policy
from tests.posttrain.report.runs import rlhf
from tests.posttrain.ui.asking import TOKEN, get, post, request
from tests.posttrain.web.running import running

PAGES = ("/", "/new", "/data", "/chat")
READS = (
    *PAGES,
    "/runs/x",
    "/runs/x/report.html",
    "/api/events",
    "/api/runs/x/events",
    "/api/runs/x/output",
    "/api/schema",
)
ACTS = ("/api/runs/x/stop", "/api/runs/x/resume", "/api/plan", "/api/start", "/api/inspect", "/api/inspect-path", "/api/chat/open", "/api/chat")  # fmt: skip


def test_these_are_all_addresses(site: Site) -> None:
    found = {route.path.replace("{id}", "x"): route.methods for route in site.app().routes}  # type: ignore[attr-defined]
    assert set(found) == {*READS, *ACTS}
    assert all(found[path] == {"POST"} for path in ACTS)


@pytest.mark.parametrize("path", [*READS, *ACTS])
def test_strangers_get_nothing(address: str, path: str) -> None:
    method, body = ("POST", b"{}") if path in ACTS else ("GET", None)
    for refused, headers in (
        (401, {"Authorization": ""}), (401, {"Authorization": f"Bearer {TOKEN}x"}), (401, {"Authorization": "", "Cookie": "posttrain-1=x"}),
        (421, {"Host": "evil.example"}), (421, {"Host": "127.0.0.1.evil.example"}),
        (403, {"Origin": "http://evil.example"}), (403, {"Origin": "null"}), (403, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"}),
    ):  # fmt: skip
        status, _, said = request(address, method, path, body, **headers)
        assert status == refused, (headers, said)
        assert TOKEN.encode() not in said


def test_the_token_is_given_once(address: str) -> None:
    status, headers, _ = request(address, "GET", f"/data?token={TOKEN}", Authorization="")
    assert (status, headers["location"]) == (303, "/data")
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Strict" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert request(address, "GET", "/data", Authorization="", Cookie=cookie)[0] == 200


def test_a_page_allows_only_its_own_scripts(site: Site, address: str) -> None:
    rlhf(site.root / "a")
    for path in (*PAGES, f"/runs/{site.runs.id_of(site.root / 'a')}"):
        _, headers, body = request(address, "GET", path)
        policy = headers["content-security-policy"]
        assert policy == content_policy(body.decode()) and "unsafe" not in policy
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy
        assert not re.search(r"\son\w+=|javascript:|style=", body.decode().partition("<script")[0])


def test_no_torch_in_this_process(tmp_path: Path) -> None:
    rlhf(tmp_path / "a")
    code = f"""
import sys
import time
from collections.abc import Callable
from pathlib import Path
from posttrain.recipe_files.schema import schema
from posttrain.ui import pages, recipes
from posttrain.ui.app import Site
site = Site.of(Path({str(tmp_path)!r}))
site.guarded("t")
(row,) = site.runs.listed()
assert "<h1>" in site._run_page(row["id"], Path({str(tmp_path / "a")!r}))
for name, data in (("runs", [row]), ("new", recipes.offered()), ("data", {{}}), ("chat", [row])):
    pages.render(name, data, root="")
schema()
print([name for name in ("torch", "transformers", "trl", "peft", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_run_is_found_by_its_own_address_only(site: Site, address: str) -> None:
    rlhf(site.root / "a")
    (site.root.parent / "secret.txt").write_text("secret")
    rlhf(site.root.parent / "outside")
    assert "<title>a: finished</title>" in get(address, f"/runs/{site.runs.id_of(site.root / 'a')}")
    for id in (
        "../outside",
        "..%2Foutside",
        "%2e%2e%2foutside",
        "a",
        "000000000000",
        "..%00",
        site.runs.id_of(site.root.parent / "outside"),
    ):
        assert request(address, "GET", f"/runs/{id}")[0] == 404


def test_the_saved_report_is_the_file(site: Site, address: str) -> None:
    folder = rlhf(site.root / "a")
    _, headers, body = request(address, "GET", f"/runs/{site.runs.id_of(folder)}/report.html")
    assert headers["content-disposition"] == 'attachment; filename="report.html"'
    assert b"<nav" not in body and b"connect-src" not in body


def test_what_cannot_be_started_is_said(site: Site, address: str) -> None:
    rlhf(site.root / "taken")
    recipe = "stages:\n  - SFT\n"
    for name, why in (
        ("../out", "cannot be the name"), ("", "cannot be the name"), (".hidden", "cannot be the name"), ("a b", "cannot be the name"),
        ("x" * 65, "cannot be the name"), ("<b>", "cannot be the name"), ("taken", "There is a taken"),
    ):  # fmt: skip
        for path in ("/api/plan", "/api/start"):
            status, said = post(address, path, {"name": name, "yaml": recipe})
            assert status == 400 and why in said["error"]["message"]
    for value in (
        {},
        [],
        {"name": 1},
        {"name": "a"},
        {"name": "a", "yaml": 7},
        {"name": "a", "script": "nothing"},
        {"name": "a", "script": "extraction", "flags": {"x": "1"}},
    ):
        assert post(address, "/api/start", value)[0] == 400
    assert {path.name for path in site.root.iterdir()} == {"taken"}


def test_a_wrong_recipe_is_a_sentence_with_its_line(address: str) -> None:
    status, said = post(
        address, "/api/plan", {"name": "a", "yaml": "model: tiny-random\nstages:\n  - SFT:\n      epoch: 1\n"}
    )
    assert status == 400
    assert "recipe.yaml:4" in said["error"]["message"] and "epochs" in said["error"]["message"]


def test_only_a_run_at_work_is_stopped(site: Site, address: str) -> None:
    id = site.runs.id_of(rlhf(site.root / "a"))
    assert post(address, f"/api/runs/{id}/stop", {}) == (
        400,
        {"error": {"message": "RunFolderError: a is not at work.", "type": "RunFolderError"}},
    )
    with run_lock(site.root / "a"):
        status, said = post(address, f"/api/runs/{id}/resume", {})
    assert status == 400 and "at work already" in said["error"]["message"]


def test_an_upload_is_inspected_as_the_command_does(address: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in sample("preference").read_text().splitlines()[:9]]
    lines = [json.dumps(row) for row in rows] + ['{"prompt": 1}']
    body = "\n".join(lines).encode()
    given = {"Content_Type": "application/octet-stream"}
    status, _, said = request(
        address, "POST", "/api/inspect?name=..%2F..%2Fpairs%3Cb%3E.jsonl&kind=preference", body, **given
    )
    assert status == 200, said
    found = json.loads(said)
    assert (found["rows"], found["bad_rows"], found["source"]) == (10, 1, "pairs_b_.jsonl")
    (tmp_path / "pairs_b_.jsonl").write_bytes(body)
    words = [sys.executable, "-m", "posttrain", "inspect", "pairs_b_.jsonl", "--json", "--kind=preference"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout) == found and done.returncode == 1


def test_an_upload_is_bounded(site: Site) -> None:
    with running(site.guarded(TOKEN, most_bytes=1000)) as address:
        for body, chunked in ((b"x" * 1001, False), (iter([b"x" * 600] * 3), True)):
            given = {"Content_Type": "application/octet-stream"} | (
                {"Transfer_Encoding": "chunked"} if chunked else {}
            )
            assert request(address, "POST", "/api/inspect?name=a.txt", body, **given)[0] == 413  # type: ignore[arg-type]
        assert request(address, "POST", "/api/plan", b'"' + b"x" * (1 << 20) + b'"')[0] == 413


def test_a_file_that_cannot_be_read_is_a_sentence(address: str) -> None:
    status, said = post(address, "/api/inspect-path", {"name": "--help"})
    assert status == 400 and "help" in said["error"]["message"]
    assert "Usage" not in said["error"]["message"]


def test_a_question_that_nobody_waits_for_ends(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    code = f"import os, pathlib, time; pathlib.Path({str(begun)!r}).write_text(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr("posttrain.ui.commands.PROGRAM", (sys.executable, "-c", code))
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request("POST", "/api/inspect-path", b'{"name": "a.jsonl"}', given)
    wait_until(lambda: begun.is_file() and begun.read_text() != "")
    connection.close()
    wait_until(lambda: not Path("/proc", begun.read_text()).exists())


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)
