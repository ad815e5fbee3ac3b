from fractions import Fraction
from pathlib import Path

import pytest

from posttrain.data_formats import (
    Completion,
    Conversation,
    Data,
    Document,
    Message,
    Pair,
    Prompt,
    detect,
    read_examples,
    sample,
)
from posttrain.data_formats.formats.registry import formats
from posttrain.errors import DataFileError, RowError

U, A, S = "user", "assistant", "system"


def turns(*pairs, role="role", content="content"):
    return [{role: who, content: what} for who, what in pairs]


def share(*pairs):
    return turns(*pairs, role="from", content="value")


def chat(*pairs):
    return tuple(Message(role, content) for role, content in pairs)


HI = ((U, "hi"), (A, "yo"))
GOOD = [
    ("text", "text", {"text": "once"}, Document("rows[0]", "once")),
    ("conversation", "openai_messages", {"messages": turns(*HI)}, Conversation("rows[0]", chat(*HI))),
    (
        "conversation",
        "openai_messages",
        {
            "messages": [
                {"role": A if i % 2 else U, "content": str(i), **({"loss": 0} if i == 1 else {})}
                for i in range(4)
            ]
        },
        Conversation(
            "rows[0]", (Message(U, "0"), Message(A, "1", trained=False), Message(U, "2"), Message(A, "3"))
        ),
    ),
    (
        "conversation",
        "sharegpt",
        {"conversations": share(("human", "hi"), ("gpt", "yo"), ("user", "a"), ("bot", "b")), "system": "be"},
        Conversation("rows[0]", chat((S, "be"), *HI, (U, "a"), (A, "b"))),
    ),
    (
        "conversation",
        "sharegpt",
        {"conversations": share(("system", "be"), ("human", "hi"), ("model", "yo"))},
        Conversation("rows[0]", chat((S, "be"), *HI)),
    ),
    (
        "conversation",
        "alpaca",
        {"instruction": "add", "input": "1 2", "output": "3", "system": "", "history": None},
        Conversation("rows[0]", chat((U, "add\n1 2"), (A, "3"))),
    ),
    (
        "conversation",
        "alpaca",
        {"instruction": "and", "output": "4", "system": "be", "history": [["hi", "yo"]]},
        Conversation("rows[0]", chat((S, "be"), *HI, (U, "and"), (A, "4"))),
    ),
    (
        "conversation",
        "prompt_completion",
        {"prompt": "2+2=", "completion": "4"},
        Completion("rows[0]", "2+2=", "4"),
    ),
    (
        "conversation",
        "prompt_completion",
        {"prompt": turns(*HI, (U, "a")), "completion": turns((A, "b"))},
        Conversation(
            "rows[0]",
            (Message(U, "hi", False), Message(A, "yo", False), Message(U, "a", False), Message(A, "b")),
        ),
    ),
    (
        "preference",
        "trl_explicit_prompt",
        {"prompt": "2+2=", "chosen": "4", "rejected": "5", "margin": 2},
        Pair("rows[0]", "2+2=", "4", "5", 2.0),
    ),
    (
        "preference",
        "trl_explicit_prompt",
        {"prompt": turns((U, "hi")), "chosen": turns((A, "yo")), "rejected": turns((A, "no"))},
        Pair("rows[0]", chat((U, "hi")), "yo", "no"),
    ),
    (
        "preference",
        "trl_implicit_prompt",
        {"chosen": turns((S, "be"), *HI), "rejected": turns((S, "be"), (U, "hi"), (A, "no"))},
        Pair("rows[0]", chat((S, "be"), (U, "hi")), "yo", "no"),
    ),
    (
        "preference",
        "alpaca_ranking",
        {"instruction": "add", "input": "1 2", "chosen": "3", "rejected": "4"},
        Pair("rows[0]", chat((U, "add\n1 2")), "3", "4"),
    ),
    (
        "preference",
        "sharegpt_ranking",
        {
            "conversations": share(("human", "hi")),
            "chosen": {"from": "gpt", "value": "yo"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        Pair("rows[0]", chat((U, "hi")), "yo", "no"),
    ),
    (
        "preference",
        "swift_ranking",
        {"messages": turns(*HI), "rejected_response": "no", "margin": 0.5},
        Pair("rows[0]", chat((U, "hi")), "yo", "no", 0.5),
    ),
    (
        "prompt",
        "prompt_only",
        {"prompt": "hi", "answer": "yo", "tests": [1, 2]},
        Prompt("rows[0]", "hi", {"answer": "yo", "tests": [1, 2]}),
    ),
    ("prompt", "prompt_only", {"prompt": turns((U, "hi"))}, Prompt("rows[0]", chat((U, "hi")), {})),
    (
        "prompt",
        "prompt_messages",
        {"messages": turns((S, "be"), (U, "hi")), "solution": 3},
        Prompt("rows[0]", chat((S, "be"), (U, "hi")), {"solution": 3}),
    ),
]


@pytest.mark.parametrize(("kind", "name", "row", "example"), GOOD)
def test_a_row_becomes_its_example(kind, name, row, example):
    examples = read_examples([row], kind)
    assert examples.examples == (example,)
    assert examples.detection.format == detect([row], kind).format == name
    assert (examples.source, examples.kind, examples.notes) == ("rows", kind, ())


GOOD_ELSEWHERE = {
    "test_new_formats.py": [
        *(("conversation", name) for name in ("openai_tools", "sharegpt_tools", "rounds", "qa", "squad")),
        *(("conversation", name) for name in ("classification", "extraction", "translation")),
        ("labelled", "classification"),
        *(("prompt", name) for name in ("prompt_sharegpt", "prompt_alpaca", "prompt_question")),
        *(("unpaired", name) for name in ("trl_explicit_prompt", "trl_implicit_prompt", "alpaca_ranking")),
        *(("unpaired", name) for name in ("sharegpt_ranking", "swift_ranking")),
    ],
    "test_bfcl.py": [("conversation", "bfcl")],
    "test_tagging.py": [("tagged", "extraction")],
    "test_unpaired.py": [
        ("unpaired", f"{name}_label")
        for name in ("openai_messages", "sharegpt", "alpaca", "prompt_completion")
    ],
}


def test_every_format_has_a_good_row_here_or_in_a_file_that_is_named():
    here = {(kind, name) for kind, name, _, _ in GOOD}
    elsewhere = [each for listed in GOOD_ELSEWHERE.values() for each in listed]
    assert here.isdisjoint(elsewhere)
    assert len(formats()) == len(here) + len(elsewhere) == 35
    assert {(format_.kind, format_.name) for format_ in formats()} == here | set(elsewhere)
    for file, listed in GOOD_ELSEWHERE.items():
        (found,) = Path(__file__).parents[1].rglob(file)
        text = found.read_text()
        assert [name for _, name in listed if f'"{name}"' not in text] == []


def test_detection_says_why():
    detection = detect([{"messages": turns(*HI)}], "conversation")
    assert (detection.format, detection.why) == ("openai_messages", "rows have 'messages' with 'role'")


def test_detection_reads_the_first_record_only(write):
    assert detect(write("a.jsonl", '{"text": "a"}\nbroken'), "text").format == "text"
    assert detect(write("a.json", '[{"text": "a"}, broken'), "text").format == "text"


BAD_CONVERSATIONS = [
    ({"messages": turns((U, "hi"), (A, ""))}, "messages[1].content: is empty"),
    ({"messages": turns((U, "hi"), (A, " \n"))}, "messages[1].content: is empty"),
    ({"messages": turns((U, "hi"), (A, None))}, "messages[1].content: is null and must be text"),
    ({"messages": turns((U, "hi"), (A, 3))}, "messages[1].content: is a number (3) and must be text"),
    ({"messages": turns((U, "hi"), (A, ["yo"]))}, "messages[1].content[0]: is text and must be an object"),
    ({"messages": turns((U, "hi"), (A, "\ud800"))}, "messages[1].content: holds half a character (U+D800)"),
    (
        {"messages": [{"role": U}, {"role": A, "content": "yo"}]},
        "messages[0].content: is missing; the fields are role",
    ),
    (
        {"messages": [{"who": "human", "value": "hi"}]},
        "messages[0].role: is missing; the fields are who, value",
    ),
    ({"messages": None}, "messages: is null and must be a list"),
    ({"messages": []}, "messages: is an empty list"),
    ({"messages": ["hi"]}, "messages[0]: is text and must be an object"),
    (
        {"messages": turns((U, "hi"), ("narrator", "yo"), (A, "a"))},
        "messages[1].role: is 'narrator', which is no known role; the roles found are assistant, narrator, user, the known ones system, developer, user, human, assistant",
    ),
    ({"messages": turns((U, "hi"), (S, "be"), (A, "yo"))}, "messages[1]: is a system turn; only the first"),
    ({"messages": turns((U, "hi"))}, "messages: has no assistant turn"),
    ({"messages": turns(*HI, (U, "a"))}, "messages: ends with a user turn"),
    (
        {"messages": turns((U, "hi"), (U, "ho"), (A, "a"))},
        "messages[1]: is of the user, where the assistant must speak",
    ),
    ({"messages": turns(*HI, (A, "a"))}, "messages[2]: is of the assistant, where the user must speak"),
    (
        {"messages": turns((A, "yo"), (U, "hi"), (A, "a"))},
        "messages[0]: is of the assistant, where the user must speak",
    ),
    (
        {"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b", "loss": 2}]},
        "messages[1].loss: is a number (2) and must be true, false, 0 or 1",
    ),
    (
        {"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b", "loss": "no"}]},
        "messages[1].loss: is 'no' and must be",
    ),
    (
        {"messages": [{"role": U, "content": "a", "loss": 1}, {"role": A, "content": "b"}]},
        "messages[0].loss: asks to train on a user turn",
    ),
    (
        {"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b", "loss": False}]},
        "messages: has 'loss' 0 on every assistant turn",
    ),
    (
        {"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b", "loss_scale": 2}]},
        "messages[1].loss_scale: is not read",
    ),
    (
        {"messages": turns((U, "hi"), ("tool", "{}"), (A, "a"))},
        "messages[1]: is a tool result with no call before it",
    ),
    (
        {"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b", "tool_calls": [{}]}]},
        "messages[1].tool_calls[0].name: is missing",
    ),
    (
        {"messages": turns(*HI), "label": True},
        "label: is not read by format openai_messages (messages, system, tools, functions); rename or remove",
    ),
    (
        {"conversations": share(("human", "a"), ("function_call", "{}"), ("gpt", "b"))},
        "conversations[1].value.name: is missing",
    ),
    (
        {"conversations": share(("human", "a"), ("gpt", "b"), ("human", "c"))},
        "conversations: ends with a user turn",
    ),
    (
        {"conversations": share(("system", "be"), ("human", "a"), ("gpt", "b")), "system": "do"},
        "system: is there beside a system turn",
    ),
    ({"instruction": "add", "input": "", "output": None}, "output: is null and must be text"),
    ({"instruction": "", "input": "", "output": "3"}, "instruction: is empty, and so is 'input'"),
    ({"instruction": 5, "output": "3"}, "instruction: is a number (5) and must be text"),
    ({"instruction": "a", "output": "b", "history": [["hi"]]}, "history[0]: has 1 texts and must have two"),
    (
        {"instruction": "a", "output": "b", "history": [["hi", None]]},
        "history[0][1]: is null and must be text",
    ),
    (
        {"instruction": "a", "output": "b", "response": "c"},
        "response: is not read by format alpaca (instruction, input, output, system, history); did you mean 'output'? Rename or remove",
    ),
    (
        {"prompt": "a", "completion": "b", "question": "c"},
        "question: is not read by format prompt_completion (prompt, completion, tools); did you mean 'prompt'?",
    ),
    (
        {"prompt": "a", "completion": turns((A, "b"))},
        "completion: is a list while 'prompt' is text; write both",
    ),
    ({"prompt": "", "completion": "b"}, "prompt: is empty"),
    (
        {"prompt": turns(*HI), "completion": turns((A, "b"))},
        "prompt: is a prompt and must end with a user turn",
    ),
]
PAIR = {"prompt": turns((U, "hi")), "chosen": turns((A, "yo")), "rejected": turns((A, "no"))}
BAD_PAIRS = [
    ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt: is empty"),
    (
        {"prompt": None, "chosen": "a", "rejected": "b"},
        "prompt: is null and must be text or a list of messages",
    ),
    ({**PAIR, "prompt": []}, "prompt: is an empty list"),
    ({**PAIR, "rejected": "no"}, "rejected: is text while 'prompt' is a list"),
    (
        {**PAIR, "chosen": turns((A, "a"), (U, "b"), (A, "c"))},
        "chosen: has 3 turns and must be one assistant turn",
    ),
    ({**PAIR, "rejected": turns((U, "no"))}, "rejected[0]: is of the user and must be an assistant turn"),
    ({**PAIR, "margin": "1"}, "margin: is text and must be a number"),
    ({**PAIR, "margin": float("inf")}, "margin: is inf and must be a finite number"),
    ({**PAIR, "margin": True}, "margin: is true or false and must be a number"),
    ({**PAIR, "question": "a"}, "question: is not read by format trl_explicit_prompt"),
    (
        {"chosen": turns(*HI), "rejected": turns((U, "ho"), (A, "no"))},
        "rejected: differs from 'chosen' before the last turn",
    ),
    (
        {"chosen": turns((A, "yo")), "rejected": turns((A, "no"))},
        "chosen: is a prompt and must end with a user turn",
    ),
    ({"instruction": "a", "chosen": "b", "rejected": ""}, "rejected: is empty"),
    (
        {"conversations": share(("human", "a"), ("gpt", "b")), "chosen": {}, "rejected": {}},
        "conversations: is a prompt and must end with a user turn",
    ),
    (
        {"conversations": share(("human", "a")), "chosen": {"from": "human", "value": "b"}, "rejected": {}},
        "chosen: is of the user and must be an assistant turn",
    ),
    (
        {"messages": turns((U, "hi")), "rejected_response": "no"},
        "messages: must end with the preferred answer",
    ),
    ({"messages": turns(*HI), "rejected_response": None}, "rejected_response: is null and must be text"),
]
BAD_TEXTS = [
    ({"text": None}, "text: is null and must be text"),
    ({"text": ["a"]}, "text: is a list and must be text"),
    ({"text": "a", "label": 1}, "label: is not read by format text (text); rename or remove the column"),
    ({"text": "a", "body": "b"}, "body: is not read by format text (text); did you mean 'text'?"),
]


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [("conversation", *bad) for bad in BAD_CONVERSATIONS]
    + [("preference", *bad) for bad in BAD_PAIRS]
    + [("text", *bad) for bad in BAD_TEXTS],
)
def test_a_bad_row_is_named_with_field_and_reason(kind, row, message):
    with pytest.raises(RowError) as error:
        read_examples([row], kind)
    first, line = str(error.value).splitlines()
    assert first.startswith("1 row of 1 cannot be read (")
    assert line.startswith(f"rows[0] {message}")


def test_bad_rows_are_listed_three_of_a_reason_and_counted_by_kind(write):
    rows = [{"text": "a"}] + [{"text": None}] * 21 + [{"body": "b"}] * 3 + [["no object"]]
    with pytest.raises(RowError) as error:
        read_examples(write("corpus.jsonl", rows), "text")
    lines = str(error.value).splitlines()
    # row 1 is good, rows 2-22 have null, rows 23-25 a column that looks like the text, row 26 is a list
    assert lines[0] == "25 rows of 26 cannot be read (wrong type 22, unread column 3):"
    assert lines[1] == "corpus.jsonl:2 text: is null and must be text"
    assert [line.split()[0] for line in lines[1:]] == [f"corpus.jsonl:{n}" for n in (2, 3, 4, 23, 24, 25)] + [
        "corpus.jsonl:26:",
        "...",
    ]
    assert lines[-1] == "... and 18 more"


def test_a_message_lists_twenty_bad_rows_at_most():
    rows = [{"text": "a"}] + [{f"column {i}": "b"} for i in range(30)]
    with pytest.raises(RowError) as error:
        read_examples(rows, "text")
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "... and 10 more"


def test_a_record_that_is_no_object_is_a_bad_row():
    with pytest.raises(RowError, match=r"rows\[1\]: the record is a list and must be an object"):
        read_examples([{"text": "a"}, ["b"]], "text")


def test_a_row_of_another_format_is_a_bad_row():
    with pytest.raises(RowError, match=r"rows\[1\] instruction: "):
        read_examples([{"messages": turns(*HI)}, {"instruction": "a", "output": "b"}], "conversation")


@pytest.mark.parametrize(
    ("row", "kind", "parts"),
    [
        (
            {"a": 1, "b": 2},
            "text",
            ["rows[0]: no known format of kind 'text'", "fields: a, b.", 'takes text {"text"}'],
        ),
        ({}, "text", ["these fields: none."]),
        ({"content": "a"}, "text", ["Did you mean 'content' -> 'text'?"]),
        (
            {"question": "a", "chosen": "b", "rejected": "c"},
            "preference",
            ["'question' -> 'prompt' or 'instruction'", "`posttrain formats` lists the "],
        ),
        (
            {"text": "a"},
            "conversation",
            ["They are text, which is of kind 'text'", "`posttrain formats` lists the "],
        ),
        (PAIR, "conversation", ["They are trl_explicit_prompt, which is of kind 'preference'"]),
        (
            {"query": "a", "reply": "b"},
            "conversation",
            ["'query' -> 'instruction'", "'reply' -> 'output' or 'completion'"],
        ),
    ],
)
def test_an_unknown_format_lists_what_was_found_and_what_is_taken(row, kind, parts):
    for ask in (detect, read_examples):
        with pytest.raises(DataFileError) as error:
            ask([row], kind)
        for part in parts:
            assert part in str(error.value)


def test_what_an_unknown_format_says_to_write_is_read():
    rows = [{"问题": "一加一？", "答案": "二"}]
    with pytest.raises(DataFileError) as error:
        detect(rows, "conversation")
    said = "format='qa', columns={'question': '问题', 'answer': '答案'}"
    assert f"Say which column holds what, as in Data(..., {said}). " in str(error.value)
    data = Data(rows, format="qa", columns={"question": "问题", "answer": "答案"})
    (example,) = read_examples(data, "conversation").examples
    assert [message.content for message in example.messages] == ["一加一？", "二"]
    with pytest.raises(DataFileError) as error:
        detect([PAIR], "conversation")  # what it is, is said already
    assert "Say which column" not in str(error.value)


def test_a_source_without_records_is_refused(write):
    for source in (write("a.jsonl", ""), write("a.json", "[]"), write("a.txt", "\n"), []):
        for ask in (detect, read_examples):
            with pytest.raises(DataFileError, match="there is no record in it"):
                ask(source, "text")


def test_a_first_record_that_is_no_object_is_refused():
    with pytest.raises(DataFileError, match=r"rows\[0\]: the record is a number \(3\) and must be an object"):
        detect([3], "text")


def test_columns_without_meaning_are_left_alone_and_named():
    rows = [{"text": "a", "url": "x"}, {"text": "b", "id": 3, "label": None, "tools": "[]"}]
    assert read_examples(rows, "text").notes == ("columns not read: id, url",)


def test_all_pairs_have_a_margin_or_none_has():
    with pytest.raises(RowError, match=r"rows\[1\] margin: is missing and rows\[0\] has one"):
        read_examples([{**PAIR, "margin": 1}, PAIR], "preference")
    with pytest.raises(RowError, match=r"rows\[2\] margin: is given and rows\[0\] has none"):
        read_examples([PAIR, PAIR, {**PAIR, "margin": 1}], "preference")


@pytest.mark.parametrize(("same", "refused"), [(2, False), (3, True)])
def test_more_than_a_fifth_of_identical_pairs_is_refused(same, refused):
    rows = [{**PAIR, "rejected": PAIR["chosen"]}] * same + [PAIR] * (10 - same)
    assert (Fraction(same, 10) > Fraction(1, 5)) == refused
    if not refused:
        assert len(read_examples(rows, "preference")) == 10
        return
    with pytest.raises(RowError, match="3 of 10 pairs have chosen equal to rejected"):
        read_examples(rows, "preference")


@pytest.mark.parametrize("kind", ["text", "conversation", "preference"])
@pytest.mark.parametrize("held_out", [False, True])
def test_the_packaged_samples_are_readable(kind, held_out):
    path = sample(kind, held_out=held_out)
    assert path.name == {"text": "text", "conversation": "chat", "preference": "preference"}[kind] + (
        "_heldout.jsonl" if held_out else ".jsonl"
    )
    assert len(read_examples(path, kind)) >= 16
