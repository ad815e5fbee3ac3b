"""Function calls judged against possible answers, as the Berkeley Function Calling Leaderboard has them.

A possible answer names a function and, for each of its parameters, the values that are right; "" among them means that
the parameter may be left out. Agrees with `ast_checker` of the package bfcl-eval on its Python items.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Possible = Mapping[str, Mapping[str, Sequence[Any]]]  # {"weather": {"city": ["Paris"], "unit": ["C", ""]}}

TYPES: Mapping[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict, "any": str,
    "number": float, "object": dict,
}  # fmt: skip
_IGNORED = re.compile(r"[ ,./\-_*^]")


def are_possible(
    calls: Sequence[Mapping[str, Any]], functions: Sequence[Mapping[str, Any]], possible: Sequence[Possible]
) -> bool:
    """Whether the calls, {"name", "arguments"} in any order, are the possible ones, each once and no other.

    functions: {"name", "parameters": {"properties", "required"}}, types named as in Python.
    """
    if len(calls) != len(possible):
        return False
    described = {function["name"]: function for function in functions}
    left = dict(enumerate(calls))
    for wanted in possible:
        ((name, allowed),) = wanted.items()
        fitting = (
            i for i, call in left.items() if call["name"] == name and _fits(call, described[name], allowed)
        )
        if (found := next(fitting, None)) is None:
            return False
        del left[found]
    return True


def _fits(call: Mapping[str, Any], function: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> bool:
    given, parameters = call["arguments"], function.get("parameters") or {}
    if not all(name in given for name in parameters.get("required", ())):
        return False
    known = parameters.get("properties") or {}
    return all(
        name in known and name in allowed and _is_allowed(value, allowed[name], known[name])
        for name, value in given.items()
    ) and all(name in given or "" in values for name, values in allowed.items())


def _is_allowed(value: Any, allowed: Sequence[Any], parameter: Mapping[str, Any]) -> bool:
    wanted: Any = TYPES[parameter["type"]]
    inner = TYPES[parameter["items"]["type"]] if parameter["type"] in ("array", "tuple") else None
    if isinstance(value, tuple):
        value = list(value)
    if wanted is float and type(value) is int:
        value = float(value)
    other = _type_of(allowed)  # where it is not the parameter's, the right answer is the name of a variable
    if type(value) is wanted:
        if inner is not None and not _items_fit(value, allowed, inner):
            return False
        variable = other is not None and other is not wanted
    elif type(value) is other:
        variable = True
    else:
        return False
    if variable or wanted in (int, float, bool):
        return value in allowed
    if wanted is dict:
        return any(one != "" and _same_object(value, one) for one in allowed)
    if inner is dict:
        return any(_same_objects(value, one) for one in allowed)
    # A list that may be left out may be empty.
    return _plain(value) in [_plain(wanted(one)) for one in allowed if wanted is list or isinstance(one, str)]


def _type_of(allowed: Sequence[Any]) -> type | None:
    return next((type(one) for one in allowed if one != ""), None)


def _items_fit(value: Sequence[Any], allowed: Sequence[Any], inner: type) -> bool:
    """Whether the items of a list have the type of the parameter's, or of those of some right list."""
    return any(
        not isinstance(one, list) or all(type(item) in (inner, _type_of(one)) for item in value)
        for one in allowed
    )


def _same_object(value: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> bool:
    """Of an object, each field has its own right values."""
    return all(
        name in allowed and _plain(one) in [_plain(right) for right in allowed[name]]
        for name, one in value.items()
    ) and all(name in value or "" in rights for name, rights in allowed.items())


def _same_objects(value: Sequence[Any], allowed: Any) -> bool:
    return len(value) == len(allowed) and all(
        right != "" and _same_object(one, right) for one, right in zip(value, allowed, strict=True)
    )


def _plain(value: Any) -> Any:
    """Texts without case, spaces and signs, in a list too."""
    if isinstance(value, str):
        return _IGNORED.sub("", value).lower().replace("'", '"')
    return (
        [_plain(one) if isinstance(one, str) else one for one in value] if isinstance(value, list) else value
    )
