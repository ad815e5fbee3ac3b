"""A page over a folder of the test's own, the browser that opens it, and where its screenshots go."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from posttrain.ui.app import Site
from tests.posttrain.report import browser
from tests.posttrain.ui.asking import TOKEN, servers
from tests.posttrain.web.running import running

SCREENSHOTS = Path(__file__).resolve().parents[3] / "build" / "screenshots"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    root = tmp_path / "runs"
    root.mkdir()
    return Site.of(root, servers(root))


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    with running(site.guarded(TOKEN)) as at:
        yield at


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    if browser.FOUND is None or importlib.util.find_spec("websocket") is None:
        pytest.skip("no Chromium here, or no websocket-client: the page was not opened")
    with browser.Browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture
def page(chromium: browser.Browser, address: str) -> Iterator[browser.Browser]:
    """With the token given once, as the address that is printed has it."""
    chromium.open(f"{address}/?token={TOKEN}")
    chromium.errors.clear()
    chromium.requests.clear()  # those of the server of another test
    yield chromium
    chromium.ask("Page.navigate", url="about:blank")  # so that no stream keeps the server


@pytest.fixture
def keep(page: browser.Browser) -> Callable[[str], None]:
    """Keep a screenshot of the page under a name."""

    def shoot(name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(SCREENSHOTS / f"ui-{name}.png", whole=True)

    return shoot
