"""What can be written in a recipe file: the stages, strategies and data settings of the public facade, and their fields."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import posttrain
from posttrain.pipeline import CheckedSettings, Pipeline, Stage
from posttrain.stages import Strategy


@dataclass(frozen=True)
class Setting:
    """One field of a form."""

    name: str
    hint: Any  # its type
    default: Any  # MISSING where it must be given
    description: str


@dataclass(frozen=True)
class Form:
    """Something that is built from named settings: a stage, a strategy, Data, the Pipeline."""

    name: str
    build: Callable[..., Any]
    settings: Mapping[str, Setting]
    description: str

    @classmethod
    @cache
    def of(cls, build: Callable[..., Any]) -> Form:
        """Of a dataclass by its fields, else by the signature."""
        if isinstance(build, type) and is_dataclass(build):
            hints = get_type_hints(build, include_extras=True)
            given = {field.name: _default_of(field) for field in fields(build) if field.init}
        else:
            target = build.__init__ if isinstance(build, type) else build  # type: ignore[misc]
            hints = get_type_hints(target, include_extras=True)
            named = inspect.signature(build).parameters.values()
            given = {
                p.name: MISSING if p.default is p.empty else p.default
                for p in named
                if p.kind is not p.VAR_KEYWORD
            }
        first, of_settings = describe(build, given)
        settings = {
            name: Setting(name, hints[name], default, of_settings.get(name, ""))
            for name, default in given.items()
        }
        return cls(build.__name__, build, settings, first)

    @property
    def required(self) -> list[str]:
        return [setting.name for setting in self.settings.values() if setting.default is MISSING]


def _default_of(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def forms_of(kind: type) -> Mapping[str, Form]:
    """Every public class below `kind` by its name; of strategies `auto`, too."""
    public = [getattr(posttrain, name) for name in posttrain.__all__]
    found = [one for one in public if isinstance(one, type) and issubclass(one, kind)]
    written: list[Callable[..., Any]] = [one for one in found if one not in (Stage, Strategy)]
    if kind is Strategy:
        written.append(posttrain.auto)
    return {one.__name__: Form.of(one) for one in written}


def kinds_in_recipes() -> list[type]:
    """The types whose values are written by name, in the order in which the settings of a recipe first ask for them."""
    found: list[type] = []
    left: list[Callable[..., Any]] = [Pipeline]
    while left:
        for setting in Form.of(left.pop(0)).settings.values():
            for kind in _kinds_in(setting.hint):
                if kind not in found:
                    found.append(kind)
                    left += [form.build for form in forms_of(kind).values()]
    return found


def _kinds_in(hint: Any) -> Iterator[type]:
    for arm in arms(hint):
        if is_form(arm):
            yield arm
        for inner in get_args(arm):
            yield from _kinds_in(inner)


def arms(hint: Any) -> tuple[Any, ...]:
    """The types that a union is of."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(arm for one in get_args(hint) for arm in arms(one))
    return (hint,)


def is_form(hint: Any) -> bool:
    """Whether values of this type are written as a name with settings."""
    return isinstance(hint, type) and issubclass(hint, CheckedSettings)


def describe(owner: Any, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The first sentence of a docstring, and what it and its bases say about each setting.

    A setting is described where a sentence begins with its name and a colon: `r: rank, usually 4 to 64.`
    """
    known = "|".join(map(re.escape, names)) or "(?!)"
    begins = re.compile(rf"(?:^|(?<=[.;)] ))((?:{known})(?:, (?:{known}))*): ")
    found: dict[str, str] = {}
    for one in inspect.getmro(owner) if isinstance(owner, type) else (owner,):
        if not one.__module__.startswith("posttrain"):
            continue
        lines = [line for line in (one.__doc__ or "").splitlines() if not line.lstrip().startswith(">>>")]
        text = " ".join(" ".join(lines).split()).partition(" Raises ")[0]
        # names, sentence, names, sentence ...
        _, *parts = begins.split(text)
        for named, sentence in zip(parts[::2], parts[1::2], strict=True):
            for name in named.split(", "):
                found.setdefault(name, sentence.strip())
    first = " ".join((inspect.getdoc(owner) or "").partition("\n\n")[0].split())
    return first, found
