"""Versions that let a prepared file run code are refused before anything is read."""

from collections.abc import Iterator

import pytest

from posttrain.errors import ConfigurationError
from posttrain.pipeline import floors
from posttrain.pipeline.base_models import find_base


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    floors.check_floors.cache_clear()
    yield
    floors.check_floors.cache_clear()


OLD = [("torch", "2.9.1"), ("torch", "2.9.1+cu128"), ("torch", "1.13"), ("transformers", "4.57.3"), ("jinja2", "3.1.5"), ("jinja2", "3.0"), ("jinja2", "3.1")]  # fmt: skip
NEW = [("torch", "2.10.0"), ("torch", "2.10"), ("torch", "2.13.0+cpu"), ("torch", "10.0"), ("transformers", "5.0.0"), ("transformers", "5.0.0rc3"), ("jinja2", "3.1.6"), ("jinja2", "3.2"), ("torch", "2.11.0.dev20260101")]  # fmt: skip


def install(monkeypatch: pytest.MonkeyPatch, package: str, version: str) -> None:
    real = floors.version
    monkeypatch.setattr(floors, "version", lambda name: version if name == package else real(name))


@pytest.mark.parametrize(("package", "version"), OLD)
def test_an_old_one_is_refused(monkeypatch: pytest.MonkeyPatch, package: str, version: str) -> None:
    install(monkeypatch, package, version)
    with pytest.raises(ConfigurationError, match=rf"pip install '{package}>=") as caught:
        find_base("tiny-random")
    assert "\n" not in str(caught.value) and version in str(caught.value)


@pytest.mark.parametrize(("package", "version"), NEW)
def test_a_new_one_is_taken(monkeypatch: pytest.MonkeyPatch, package: str, version: str) -> None:
    install(monkeypatch, package, version)
    floors.check_floors()
