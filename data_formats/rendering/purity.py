"""Whether a chat template only writes its contents down, looked up in its syntax tree.

Of such a template, one render of a sequence of roles says what it writes for all dialogues of these roles: nothing
that it does depends on what is said. Whatever is not understood here counts as no.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jinja2 import nodes

# What an expression is: the list of messages, one message, a content (or text with one in it), or none of these.
What = Literal["list", "turn", "text", "other"]
# Tests with one outcome for every text; contents are never empty.
_OF_TYPE = frozenset(("string", "none", "defined", "undefined", "mapping", "number", "iterable", "sequence"))
_ROUNDS = 8  # names are bound by names; templates need two or three


class _DependsOnContent(Exception):
    pass


def only_writes(tree: nodes.Template) -> bool:
    """tree: of the template as jinja2 parses it; the dialogue is its variable `messages`, other turns' keys unset."""
    checker = _Checker()
    try:
        for _ in range(_ROUNDS):
            known = dict(checker.names)
            checker.statements(tree.body)
            if checker.names == known:
                return True
    except _DependsOnContent:
        pass
    return False


class _Checker:
    def __init__(self) -> None:
        self.names: dict[str, What] = {"messages": "list"}

    def statements(self, body: Iterable[nodes.Node]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, node: nodes.Node) -> None:
        from jinja2 import nodes

        match node:
            case nodes.Output():
                for part in node.nodes:
                    self._written(part)
            case nodes.If():
                self._decides(node.test)
                self.statements([*node.body, *node.elif_, *node.else_])
            case nodes.For():
                self._bind(node.target, "turn" if self.what(node.iter) == "list" else self._other(node.iter))
                if node.test is not None:
                    self._decides(node.test)
                self.statements([*node.body, *node.else_])
            case nodes.Assign():
                self._bind(node.target, self.what(node.node))
            case nodes.CallBlock(call=nodes.Call(node=nodes.ExtensionAttribute())):
                self.statements(
                    node.body
                )  # {% generation %} of transformers: marks, and writes what is in it
            case nodes.Break() | nodes.Continue():
                pass
            case _:
                raise _DependsOnContent

    def what(self, node: nodes.Node | None) -> What:
        """Raises _DependsOnContent for what is more than writing."""
        from jinja2 import nodes

        match node:
            case None | nodes.Const() | nodes.TemplateData():
                return "other"
            case nodes.Name():
                return self.names.get(node.name, "other")
            case nodes.Getattr(node=nodes.Name(name="loop"), attr="nextitem" | "previtem"):
                return "turn"
            case nodes.Getattr(node=nodes.Name() as owner) if f"{owner.name}.{node.attr}" in self.names:
                return self.names[f"{owner.name}.{node.attr}"]
            case nodes.Getattr():
                return self._part(node.node, node.attr)
            case nodes.Getitem(node=owner, arg=nodes.Slice() as part):
                self._all_other((part.start, part.stop, part.step))
                return "list" if self.what(owner) == "list" else self._other(owner)
            case nodes.Getitem(node=owner, arg=nodes.Const(value=str() as key)):
                return self._part(owner, key)
            case nodes.Getitem():
                self._other(node.arg)
                return "turn" if self.what(node.node) == "list" else self._other(node.node)
            case nodes.Filter():
                return self._filtered(node)
            case nodes.Test():
                self._all_other(node.args)
                if self.what(node.node) == "other" or node.name in _OF_TYPE:
                    return "other"
                raise _DependsOnContent
            case nodes.Not():
                self._decides(node.node)
                return "other"
            case nodes.Add():
                return self._joined((node.left, node.right))
            case nodes.Concat():
                return self._joined(node.nodes)
            case nodes.CondExpr():
                self._decides(node.test)
                return self._joined((node.expr1, node.expr2))
            case nodes.Call(node=nodes.Getattr(node=said, attr="strip"), args=[]) if (
                self.what(said) == "text"
            ):
                return "text"
            case nodes.Call():
                keywords = [keyword.value for keyword in node.kwargs]
                self._all_other((node.node, *node.args, *keywords, node.dyn_args, node.dyn_kwargs))
                return "other"
            case nodes.Expr():
                self._all_other(node.iter_child_nodes())
                return "other"
            case nodes.Operand() | nodes.Pair() | nodes.Keyword():
                self._all_other(node.iter_child_nodes())
                return "other"
            case _:
                raise _DependsOnContent

    def _part(self, owner: nodes.Node, key: str) -> What:
        match self.what(owner):
            case "turn" if key not in dir(dict):  # m.items is a method
                return "text" if key == "content" else "other"
            case "other":
                return "other"
            case _:
                raise _DependsOnContent

    def _filtered(self, node: nodes.Filter) -> What:
        self._all_other((*node.args, *(keyword.value for keyword in node.kwargs)))
        of = self.what(node.node)
        if of == "list" and node.name in ("length", "count"):
            return "other"
        if of == "text" and node.name in ("trim", "string") and not node.args:
            return "text"
        return self._other(node.node)

    def _joined(self, parts: Iterable[nodes.Node | None]) -> What:
        found = [self.what(part) for part in parts]
        if "list" in found or "turn" in found:
            raise _DependsOnContent
        return "text" if "text" in found else "other"

    def _written(self, node: nodes.Node) -> None:
        self._joined([node])

    def _decides(self, node: nodes.Node) -> None:
        """A content decides nothing when it is asked for alone: it is never empty."""
        if self.what(node) in ("turn", "list"):
            return
        self._joined([node])

    def _other(self, node: nodes.Node | None) -> What:
        if self.what(node) != "other":
            raise _DependsOnContent
        return "other"

    def _all_other(self, parts: Iterable[nodes.Node | None]) -> None:
        for part in parts:
            self._other(part)

    def _bind(self, target: nodes.Node, what: What) -> None:
        from jinja2 import nodes

        match target:
            case nodes.Name():
                name = target.name
            case nodes.NSRef():
                name = f"{target.name}.{target.attr}"
            case nodes.Tuple() if what == "other":
                for part in target.items:
                    self._bind(part, "other")
                return
            case _:
                raise _DependsOnContent
        before = self.names.get(name)
        if before is not None and {before, what} == {"other", "text"}:
            what = "text"  # a text here, a fixed one there
        elif before is not None and before != what:
            raise _DependsOnContent
        self.names[name] = what
