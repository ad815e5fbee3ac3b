"""YAML without surprises: plain values, each with the place it stands in; no tags, no anchors, no key twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import RecipeError
from posttrain.pipeline.secrets import holds_secret
from posttrain.pipeline.stage import title_of

Value = None | bool | int | float | str | list["Node"] | dict[str, "Node"]

_MOST_BYTES = 2**20
_MOST_DEPTH = 20
_NAMED: Mapping[str, Value] = {
    "": None, "~": None, "null": None, "true": True, "True": True, "false": False, "False": False,
}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+")
# YAML 1.2's: PyYAML's own rule takes 1e-3 for a text.
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Node:
    """One value, and where it was written: "recipe.yaml:7", of a value in a mapping the line of its key."""

    value: Value
    place: str

    def plain(self) -> Any:
        """The value as Python has it, without places."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value


def read_yaml(source: Path | str, name: str) -> Node:
    """A file, or a text that was read before, as values with places.

    name: of the file, for messages. Raises RecipeError for what is no YAML or uses what a recipe has no need of: tags,
    anchors, several documents, a key twice, a secret.
    """
    text = _text_of(source) if isinstance(source, Path) else source
    return _Reader(text, name).read()


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RecipeError(
                f"{path} has {path.stat().st_size:,} bytes; a recipe has at most {_MOST_BYTES:,}."
            )
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise RecipeError(f"The recipe {path} cannot be read ({why}).") from error


class _Reader:
    """Builds nodes from PyYAML's events, so that nothing is ever constructed by a tag or expanded by an anchor."""

    def __init__(self, text: str, name: str) -> None:
        self._text, self._name = text, name

    def read(self) -> Node:
        import yaml

        try:
            self._events: Iterator[Any] = iter(yaml.parse(self._text, Loader=yaml.SafeLoader))
            next(self._events)  # the stream's start
            if isinstance(next(self._events), yaml.StreamEndEvent):
                raise RecipeError(f"{self._name} is empty; a recipe has at least 'stages:'.")
            root = self._node(next(self._events), 0, "")
            next(self._events)  # the document's end
            if not isinstance(event := next(self._events), yaml.StreamEndEvent):
                raise RecipeError(f"{self._place(event)} a second document begins; a recipe is one.")
            return root
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""  # not PyYAML's own text, which quotes the line
            raise RecipeError(
                f"{self._name}{line} is no YAML: {getattr(error, 'problem', None) or 'it has a character that YAML forbids'}."
            ) from None

    def _place(self, event: Any) -> str:
        return f"{self._name}:{event.start_mark.line + 1}"

    def _node(self, event: Any, depth: int, key: str, place: str | None = None) -> Node:
        import yaml

        here = place or self._place(event)
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise RecipeError(
                f"{here} uses an anchor (& or *); write the value out, or give 'strategy:' once at the top."
            )
        if event.tag:
            raise RecipeError(f"{here} has the tag {event.tag}; a recipe has plain values only.")
        if depth > _MOST_DEPTH:
            raise RecipeError(f"{here} is nested more than {_MOST_DEPTH} deep.")
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(list(self._items(yaml.SequenceEndEvent, depth, key)), here)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(dict(self._pairs(depth)), here)
        value = event.value if event.style else _scalar(event.value)
        if holds_secret(key, value):
            raise RecipeError(
                f"{here} {key}: this looks like a secret, and a recipe is copied into the run folder; set it in the "
                "environment instead, such as HF_TOKEN or WANDB_API_KEY."
            )
        return Node(value, here)

    def _items(self, end: type, depth: int, key: str) -> Iterator[Node]:
        while not isinstance(event := next(self._events), end):
            yield self._node(event, depth + 1, key)

    def _pairs(self, depth: int) -> Iterator[tuple[str, Node]]:
        import yaml

        seen: set[str] = set()
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            here = self._place(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise RecipeError(f"{here} has a key that is no text.")
            if event.value in seen:
                raise RecipeError(f"{here} {event.value}: this key is here twice.")
            seen.add(event.value)
            yield event.value, self._node(next(self._events), depth + 1, event.value, here)


def _scalar(text: str) -> Value:
    """A value without quotes, as YAML 1.2 has it: yes, no, on, off and dates stay texts."""
    if text in _NAMED:
        return _NAMED[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def changed(root: Node, changes: Sequence[str]) -> Node:
    """With `path=value` for each change: `model=tiny-random`, `sft.epochs=3`, `sft.strategy.LoRA.r=8`.

    A path begins with a key of the recipe or with the name of a stage. Raises RecipeError for one that leads nowhere.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        place = f"--set {path}:"
        if not equals or not all(path.split(".")):
            raise RecipeError(f"--set {path}: write it as path=value, such as sft.epochs=3.")
        leaf = read_yaml(text or "null", f"--set {path}")
        if holds_secret(path.rsplit(".", 1)[-1], leaf.value):
            raise RecipeError(f"{place} this looks like a secret; set it in the environment instead.")
        root = _with(root, path.split("."), _at(leaf, place), top=True)
    return root


def _at(node: Node, place: str) -> Node:
    """The same value, everywhere in one place."""
    if isinstance(node.value, list):
        return Node([_at(item, place) for item in node.value], place)
    if isinstance(node.value, dict):
        return Node({key: _at(item, place) for key, item in node.value.items()}, place)
    return Node(node.value, place)


def _with(node: Node, path: Sequence[str], leaf: Node, top: bool = False) -> Node:
    if not path:
        return leaf
    first, rest = path[0], path[1:]
    if isinstance(node.value, str) and node.value == first:  # "LoRA" stands for "LoRA: {}"
        node = Node({first: Node({}, node.place)}, node.place)
    below = {} if node.value is None else node.value
    if not isinstance(below, dict):
        raise RecipeError(
            f"{leaf.place} {first!r} leads nowhere: there is a value at {node.place}, no mapping."
        )
    if top and rest and first not in below and first != "strategy":
        titles = _titles(below)
        if first not in titles:
            raise RecipeError(f"{leaf.place} no stage is called {first!r}; there are {', '.join(titles)}.")
        place, stages = titles.index(first), _stages(below)
        kind, settings = next(iter(as_pair(stages[place]).items()))
        stages[place] = Node({kind: _with(settings, rest, leaf)}, stages[place].place)
        return Node(below | {"stages": Node(stages, below["stages"].place)}, node.place)
    return Node(below | {first: _with(below.get(first, Node(None, leaf.place)), rest, leaf)}, node.place)


def as_pair(stage: Node) -> dict[str, Node]:
    """`SFT: {...}` as it is, and a name alone as one without settings."""
    return stage.value if isinstance(stage.value, dict) else {str(stage.value): Node(None, stage.place)}


def _titles(recipe: Mapping[str, Node]) -> list[str]:
    """The names of the stages, as the Pipeline will name them."""
    found = []
    for stage in _stages(recipe):
        kind, settings = next(iter(as_pair(stage).items()), ("", stage))
        given = settings.value.get("name") if isinstance(settings.value, dict) else None
        found.append(str(given.value) if given and given.value else title_of(kind))
    return found


def _stages(recipe: Mapping[str, Node]) -> list[Node]:
    stages = recipe["stages"].value if "stages" in recipe else None
    return list(stages) if isinstance(stages, list) else []
