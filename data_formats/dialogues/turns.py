"""Reading the turns of a dialogue, however its file names roles and fields, and the rules about their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..examples import Message, Role, Row, Tool
from ..fields import (
    check_characters,
    check_list,
    check_object,
    check_text,
    given,
    is_empty,
    listed,
    quoted,
    text,
)
from ..format import BadRow
from .content import Content, read_content, read_result
from .tools import check_call, read_call_text, read_calls

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "observations": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_PLAIN = ("user", "assistant", "system")
CALLING = frozenset(("function_call", "tool_call"))  # roles of turns that are nothing but calls, as JSON text
KNOWN_ROLES = (*ROLES, *sorted(CALLING))
# Keys that change what a message says or how it is trained; other unread ones ("name", "id") do not.
MEANINGFUL_KEYS = frozenset(("loss_scale", "images", "videos", "audios", "audio"))
CALLS = ("tool_calls", "function_call")  # OpenAI's keys, today's and the first
REASONING = ("reasoning_content", "reasoning", "thinking")
TRAINED = ("loss", "weight")  # ms-swift's and OpenAI's name


class Turn(NamedTuple):
    """A message, and what only the reading of its dialogue needs."""

    message: Message
    place: str  # where the row says it: "messages[2]"
    ids: tuple[str, ...] = ()  # of its calls
    called: tuple[str, ...] = ()  # the places of its calls: "messages[2]", or the turn after it
    answers: str = ""  # the id of the call that this tool result answers
    joins: bool = False  # nothing but calls: part of the assistant's turn before it


def read_turns(value: Any, field: str) -> tuple[Turn, ...]:
    """The turns of one list, in canonical roles; their order is not yet checked.

    Takes {"role", "content"} and {"from", "value"}. Turns that only call tools join the assistant's turn before
    them, and the results of parallel calls stand in the order of the calls.
    """
    if plain := _plain_turns(value, field):
        return plain
    items = check_list(value, field)
    if not items:
        raise BadRow(field, "empty", "is an empty list; remove the row")
    rows = [check_object(turn, f"{field}[{i}]") for i, turn in enumerate(items)]
    turns: list[Turn] = []
    for i, row in enumerate(rows):
        for turn in _read_turn(row, f"{field}[{i}]", rows):
            if turn.joins and turns and turns[-1].message.role == "assistant":
                turns[-1] = _joined(turns[-1], turn)
            else:
                turns.append(turn)
    return tuple(_in_order_of_calls(turns))


def _plain_turns(value: Any, field: str) -> tuple[Turn, ...]:
    """Of what most dialogues are, texts under known roles and nothing else; empty for what needs a second look."""
    if type(value) is not list:
        return ()
    turns = []
    for i, row in enumerate(value):
        role, said = (
            (row.get("role"), row.get("content")) if type(row) is dict and len(row) == 2 else ("", "")
        )
        if role not in _PLAIN or type(said) is not str or not said or said.isspace():
            return ()
        if not said.isascii():
            check_characters(said, f"{field}[{i}].content")
        turns.append(Turn(Message(ROLES[role], said), f"{field}[{i}]"))
    return tuple(turns)


def read_answer(value: Any, field: str) -> str:
    """One assistant turn that stands alone, as the answers of a ranking row do."""
    row = check_object(value, field)
    (turn, *more) = _read_turn(row, field, [row])
    if more:
        raise BadRow(field, "order of turns", "holds several turns and must be an assistant turn of text")
    return answer_of(turn)


def answer_of(turn: Turn) -> str:
    """The text of a turn that is an answer to be compared or judged."""
    message = turn.message
    if message.role != "assistant" or message.calls:
        what = "calls tools" if message.calls else f"is of the {message.role}"
        raise BadRow(turn.place, "order of turns", f"{what} and must be an assistant turn of text")
    if message.reasoning:
        reason = (
            "has reasoning, which is not read here; write it into the answer, in <think> tags, or remove it"
        )
        raise BadRow(turn.place, "unread column", reason)
    return message.content


def _read_turn(row: Row, place: str, rows: Sequence[Row]) -> Iterator[Turn]:
    shares = "role" not in row and any("from" in other for other in rows)
    role_key, content_key = ("from", "value") if shares else ("role", "content")
    name = text(row, role_key, inside=place)
    if name not in ROLES and name not in CALLING:
        found = listed(sorted({str(other.get(role_key)) for other in rows}))
        reason = f"is {quoted(name)}, which is no known role; the roles found are {found}, the known ones {', '.join(KNOWN_ROLES)}"
        raise BadRow(f"{place}.{role_key}", "unknown role", reason)
    role = ROLES.get(name, "assistant")
    _refuse_unread(row, place, role)
    trained = _is_trained(row, place, role)
    if name in CALLING:
        reasoning, said, calls = read_call_text(
            given(row, content_key, inside=place), f"{place}.{content_key}"
        )
        message = Message(role, said, trained, tuple(calls), reasoning)
        yield Turn(message, place, called=(place,) * len(calls), joins=not said and not reasoning)
    elif role == "assistant":
        yield _read_assistant(row, place, content_key, trained)
    elif role == "tool":
        result = read_result(given(row, content_key, inside=place), f"{place}.{content_key}")
        yield Turn(Message(role, result), place, answers=str(row.get("tool_call_id") or ""))
    else:
        yield from _read_other(row, place, content_key, role)


def _refuse_unread(row: Row, place: str, role: Role) -> None:
    for key in MEANINGFUL_KEYS.intersection(row):
        if not is_empty(row[key]):
            reason = "is not read; per turn there is only 'loss': 0 or 1"
            raise BadRow(f"{place}.{key}", "unread column", reason)
    for key in CALLS if role != "assistant" else ():
        if not is_empty(row.get(key)):
            reason = f"is there on a {role} turn, and only assistants call tools; fix the role or remove it"
            raise BadRow(f"{place}.{key}", "unread column", reason)


def _read_assistant(row: Row, place: str, content_key: str, trained: bool) -> Turn:
    content = read_content(row.get(content_key), f"{place}.{content_key}", "assistant")
    calls, ids = content.calls, content.ids
    for key in CALLS:
        if not is_empty(row.get(key)):
            found, found_ids = read_calls(row[key], f"{place}.{key}")
            if calls and list(calls) != found:
                reason = "holds other calls than the turn makes elsewhere; write all calls in one place"
                raise BadRow(f"{place}.{key}", "unread column", reason)
            calls, ids = tuple(found), tuple(found_ids)
    reasoning = next((row[key] for key in REASONING if not is_empty(row.get(key))), content.reasoning)
    if reasoning:
        reasoning = check_text(reasoning, f"{place}.reasoning_content")
    said = "" if calls and _is_silent(row, content_key, content) else _said(row, place, content_key, content)
    message = Message("assistant", said, trained, calls, reasoning)
    joins = bool(calls) and not said and not reasoning
    return Turn(message, place, ids, (place,) * len(calls), joins=joins)


def _is_silent(row: Row, content_key: str, content: Content) -> bool:
    """Whether the turn says nothing, as turns that call tools may."""
    value = row.get(content_key)
    return value is None or (isinstance(value, (str, list, tuple)) and not content.text.strip())


def _said(row: Row, place: str, content_key: str, content: Content) -> str:
    if content.plain:
        return text(row, content_key, inside=place)
    return check_text(content.text, f"{place}.{content_key}")


def _read_other(row: Row, place: str, content_key: str, role: Role) -> Iterator[Turn]:
    """A user or system turn; Anthropic puts the results of tools into the user's."""
    content = read_content(row.get(content_key), f"{place}.{content_key}", role)
    for call_id, result in content.results:
        yield Turn(Message("tool", result), place, answers=call_id)
    if content.text or not content.results:
        yield Turn(Message(role, _said(row, place, content_key, content)), place)


def _is_trained(row: Row, place: str, role: Role) -> bool:
    name = next((key for key in TRAINED if row.get(key) is not None), None)
    if name is None:
        return True
    loss = row[name]
    if loss not in (0, 1):
        raise BadRow(f"{place}.{name}", "wrong type", f"is {quoted(loss)} and must be true, false, 0 or 1")
    if loss and role != "assistant":
        raise BadRow(
            f"{place}.{name}",
            "wrong type",
            f"asks to train on a {role} turn; only assistant turns are trained",
        )
    return bool(loss)


def _joined(turn: Turn, more: Turn) -> Turn:
    """One assistant turn; its first part says whether it is trained."""
    message = replace(turn.message, calls=(*turn.message.calls, *more.message.calls))
    called, ids = (*turn.called, *more.called), (*turn.ids, *more.ids)
    return turn._replace(message=message, ids=ids, called=called)


def _in_order_of_calls(turns: Sequence[Turn]) -> Iterator[Turn]:
    at = 0
    while at < len(turns):
        end = at
        while end < len(turns) and turns[end].message.role == "tool":
            end += 1
        yield from (
            _ordered(turns[at:end], turns[at - 1].ids if at else ()) if end > at else turns[at : at + 1]
        )
        at = max(end, at + 1)


def _ordered(results: Sequence[Turn], ids: Sequence[str]) -> Sequence[Turn]:
    """Results come in any order in files with call ids; a template writes none, so their order must say it."""
    named = [result.answers for result in results if result.answers]
    if not named or not any(ids):
        return results
    for result in results:
        if result.answers and result.answers not in ids:
            reason = f"answers the call {quoted(result.answers)}, which the turn before did not make ({listed(ids)}); fix the id"
            raise BadRow(result.place, "result without a call", reason)
        if result.answers and named.count(result.answers) > ids.count(result.answers):
            reason = f"answers the call {quoted(result.answers)}, which has another result, too; remove one"
            raise BadRow(result.place, "result without a call", reason)
    left = [at for at, call_id in enumerate(ids) if call_id not in named]
    if len(results) < len(ids):
        reason = f"is the last result, and call {left[0]} ({quoted(ids[left[0]])}) has none; add it or remove the call"
        raise BadRow(results[-1].place, "call without a result", reason)
    free = iter(left)
    return sorted(results, key=lambda one: ids.index(one.answers) if one.answers else next(free, len(ids)))


def check_conversation(turns: Sequence[Turn], field: str, tools: Sequence[Tool] = ()) -> tuple[Message, ...]:
    """A dialogue to learn from: turns alternate, it ends with an answer, and its calls are of declared tools."""
    spoken = [turn.message for turn in turns if turn.message.role == "assistant"]
    if not spoken:
        raise BadRow(field, "order of turns", "has no assistant turn, so there is nothing to learn from it")
    _check_order(turns)
    if turns[-1].message.role != "assistant":
        reason = f"ends with a {turns[-1].message.role} turn; add the answer or remove the turn"
        raise BadRow(field, "order of turns", reason)
    if not any(message.trained for message in spoken):
        raise BadRow(field, "nothing trained", "has 'loss' 0 on every assistant turn; remove the row")
    return _with_checked_calls(turns, tools)


def check_prompt(turns: Sequence[Turn], field: str, tools: Sequence[Tool] = ()) -> tuple[Message, ...]:
    """The part of a dialogue that waits for an answer."""
    _check_order(turns)
    if not turns or turns[-1].message.role not in ("user", "tool"):
        raise BadRow(
            field, "order of turns", "is a prompt and must end with a user turn; fix or remove the row"
        )
    return _with_checked_calls(turns, tools)


def _with_checked_calls(turns: Sequence[Turn], tools: Sequence[Tool]) -> tuple[Message, ...]:
    return tuple(
        replace(
            turn.message,
            calls=tuple(
                check_call(call, tools, place)
                for call, place in zip(turn.message.calls, turn.called, strict=True)
            ),
        )
        if turn.message.calls
        else turn.message
        for turn in turns
    )


def _check_order(turns: Sequence[Turn]) -> None:
    expected, open_calls = "user", 0
    for i, turn in enumerate(turns):
        message = turn.message
        if message.role == "system":
            if i > 0:
                reason = "is a system turn; only the first turn can be one"
                raise BadRow(turn.place, "order of turns", reason)
            continue
        if message.role == "tool" and open_calls:
            expected, open_calls = "assistant", open_calls - 1
            continue
        if message.role == "tool":
            more = i and turns[i - 1].message.role == "tool"
            before = "more results than calls" if more else "no call before it"
            raise BadRow(turn.place, "result without a call", f"is a tool result with {before}; fix the row")
        if message.role != expected:
            raise BadRow(turn.place, "order of turns", _wrong_turn(message.role, expected))
        open_calls = len(message.calls)
        expected = "user" if message.role == "assistant" else "assistant"
        if open_calls:
            expected = "tool"


def _wrong_turn(role: str, expected: str) -> str:
    if expected == "tool":
        return f"is of the {role}, where the result of the tool call must stand; add it or remove the call"
    return (
        f"is of the {role}, where the {expected} must speak; users and assistants take turns, the user first"
    )
