"""Good rows of the formats for questions, labels, extraction, translation, function calling and prompts."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posttrain.data_formats import (
    Call,
    Completion,
    Conversation,
    Data,
    DataFormat,
    Kind,
    Labelled,
    Message,
    Pair,
    Prompt,
    classification,
    detect,
    extraction,
    read_examples,
    register,
    translation,
)
from posttrain.data_formats.formats import registry
from posttrain.data_formats.formats.registry import formats
from posttrain.data_formats.questions import Question, judgements
from posttrain.data_formats.scoring.metrics import Answer
from posttrain.errors import SettingError

U, A, S, T = "user", "assistant", "system", "tool"


def score(asked: list[Question], answers: list[Answer]) -> dict[str, float]:
    found: dict[str, float] = {}
    for judgement in judgements(asked, answers):
        found |= judgement.of(range(len(judgement.golds)))[0]
    return found


def read(rows: Any, kind: Kind = "conversation", **settings: Any) -> list[Any]:
    return list(read_examples(Data(rows, **settings), kind).examples)


def said(example: Any) -> list[tuple[str, str]]:
    """What a dialogue says: (role, content)."""
    return [(message.role, message.content) for message in example.messages]


def metric(example: Any, answers: list[str], name: str, stopped: bool = True) -> dict[str, Any]:
    """The numbers of a format's metric for answers to copies of one example."""
    golds = [example.gold] * len(answers)
    (form,) = [form for form in formats() if form.name == name and form.kind == "conversation"]
    assert form.metric is not None
    return dict(form.metric(golds, [Answer(text, stopped) for text in answers]))


# Questions and answers


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answer": "Rome"}, ["Rome"]),
        ({"answers": "Rome"}, ["Rome"]),
        ({"answers": ["Rome", "Roma", "Rome"]}, ["Rome", "Roma"]),
        ({"answer": ["Rome", "Roma"]}, ["Rome", "Roma"]),
        ({"answers": [{"text": "Rome", "answer_start": 0}, {"text": "Roma"}]}, ["Rome", "Roma"]),
        ({"answers": {"text": ["Rome", "Roma"], "answer_start": [0, 9]}}, ["Rome", "Roma"]),
        ({"answers": {"text": "Rome"}}, ["Rome"]),
        ({"answers": '["Rome", "Roma"]'}, ["Rome", "Roma"]),  # a cell of a .csv
        ({"answers": '{"text": ["Rome"]}'}, ["Rome"]),
        ({"answer": '["Rome", 2]'}, ['["Rome", 2]']),  # one answer, which is a text
        ({"answer": "[1, 2) holds 1"}, ["[1, 2) holds 1"]),
        ({"answer": "Rome", "answers": None}, ["Rome"]),  # a column that this row leaves empty
    ],
)
def test_every_way_to_write_answers(row: dict[str, Any], answers: list[str]) -> None:
    (example,) = read([{"question": "Capital?", **row}])
    messages = (Message(U, "Capital?"), Message(A, answers[0]))
    assert example == Conversation("rows[0]", messages, gold={"answers": answers})
    assert detect([{"question": "Capital?", **row}], "conversation").format == "qa"


def test_the_context_stands_before_the_question() -> None:
    row = {"question": "Capital?", "context": "Of Italy.", "system": "Be short.", "answer": "Rome", "id": 7}
    found = read_examples([row], "conversation")
    assert said(found.examples[0]) == [(S, "Be short."), (U, "Of Italy.\n\nCapital?"), (A, "Rome")]
    assert found.notes == ("columns not read: id",)


def test_cells_of_a_table_are_questions(write: Any) -> None:
    path = write("faq.csv", 'Frage,Antwort,context\n"Wann, bitte?","Um ""acht"".",\nWo?,Hier.,Innen.\n')
    first, second = read(path, columns={"question": "Frage", "answer": "Antwort"})
    assert said(first) == [(U, "Wann, bitte?"), (A, 'Um "acht".')]
    assert said(second) == [(U, "Innen.\n\nWo?"), (A, "Hier.")]


def test_a_file_of_squad_becomes_one_row_for_each_question(write: Any) -> None:
    def asked(question: str, *answers: str) -> dict[str, Any]:
        found = [{"text": answer, "answer_start": 0} for answer in answers]
        return {"id": "x", "question": question, "answers": found, "is_impossible": False}

    articles = [
        {"title": "Italy", "paragraphs": [
            {"context": "Rome.", "qas": [asked("Capital?", "Rome", "Rome"), asked("City?", "Rome", "Roma")]},
            {"context": "Po.", "qas": [asked("River?", "Po")]}]},
        {"title": "France", "paragraphs": [{"context": "Paris.", "qas": [asked("Capital?", "Paris")]}]},
    ]  # fmt: skip
    path = write("squad.json", json.dumps({"version": "1.1", "data": articles}))
    examples = read_examples(path, "conversation")
    assert examples.detection.format == "squad"
    assert [(one.place, said(one)[0][1], one.gold) for one in examples.examples] == [  # type: ignore[union-attr]
        ("squad.json data[0].paragraphs[0].qas[0]", "Rome.\n\nCapital?", {"answers": ["Rome"]}),
        ("squad.json data[0].paragraphs[0].qas[1]", "Rome.\n\nCity?", {"answers": ["Rome", "Roma"]}),
        ("squad.json data[0].paragraphs[1].qas[0]", "Po.\n\nRiver?", {"answers": ["Po"]}),
        ("squad.json data[1].paragraphs[0].qas[0]", "Paris.\n\nCapital?", {"answers": ["Paris"]}),
    ]
    assert len(read(path, limit=3)) == 3  # questions, not articles
    assert len(read(path, format="qa")) == 4  # the family's name


def test_questions_are_judged_by_the_best_reference() -> None:
    (example,) = read([{"question": "Who?", "answers": ["Ada Lovelace", "Countess of Lovelace"]}])
    # "lady lovelace": 1 of 2 words of "ada lovelace" (F1 2*1/4), 1 of 3 of "countess of lovelace" (2*1/5)
    assert metric(example, ["the ADA Lovelace!"], "qa") == {"exact_match": 1, "token_f1": 1, "stop_rate": 1}
    assert metric(example, ["Lady Lovelace"], "qa")["token_f1"] == pytest.approx(0.5)
    assert metric(example, ["Countess of Lovelace", "Bob"], "qa")["exact_match"] == 0.5
    assert metric(example, ["Bob"], "qa", stopped=False) == {"exact_match": 0, "token_f1": 0, "stop_rate": 0}


def test_the_way_to_a_number_is_not_judged() -> None:
    (example,) = read([{"question": "6 * 7?", "answer": "6 * 7 is 42.\n#### 42"}])
    assert said(example)[1] == (A, "6 * 7 is 42.\n#### 42")
    assert metric(example, ["Forty-two.\n#### 42", "42", "#### 41"], "qa")["exact_match"] == pytest.approx(
        2 / 3
    )


# Labels


def test_names_are_collected_from_the_whole_file(write: Any) -> None:
    path = write("a.csv", "sentence,label\nfine,good\nawful,bad\nso so,mixed\nok,good\n")
    examples = read(path)
    assert said(examples[0]) == [
        (U, "Which label fits the text? Answer with one of: bad, good, mixed.\n\nfine"),
        (A, "good"),
    ]
    assert examples[1].gold == {"label": ["bad"], "labels": ["bad", "good", "mixed"], "several": False}
    assert detect(path, "conversation").why == "rows have 'text' and 'label'"


@pytest.mark.parametrize(
    ("labels", "settings", "names", "first"),
    [
        ([2, 0, 10], {}, ["0", "2", "10"], "2"),  # whole numbers in their order
        ([2, 0, 1], {"labels": ["bad", "mixed", "good"]}, ["bad", "mixed", "good"], "good"),
        (["2", "0", "1"], {"labels": ["bad", "mixed", "good"]}, ["bad", "mixed", "good"], "good"),
        ([3, 1, 2], {"labels": ["3", "2", "1"]}, ["3", "2", "1"], "3"),  # they are the names themselves
        ([True, False, True], {}, ["false", "true"], "true"),
        (["b", "a", 1, "1"], {}, ["1", "a", "b"], "b"),
        ([" good ", "bad"], {}, ["bad", "good"], "good"),
    ],
)
def test_integers_count_in_the_names_that_are_given(
    labels: Any, settings: Any, names: Any, first: str
) -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    example = read(rows, format=classification(**settings))[0]
    assert example.gold == {"label": [first], "labels": names, "several": False}
    assert said(example)[1] == (A, first)


def test_any_number_of_labels(write: Any) -> None:
    rows = [
        {"text": "a", "labels": ["sad", "loud"]},
        {"text": "b", "labels": []},
        {"text": "c", "labels": ["sad"]},
    ]
    table = 'text,labels\na,"[""sad"", ""loud""]"\nb,[]\nc,"[""sad""]"\n'
    for source in (rows, write("a.csv", table)):
        examples = read(source)
        assert [said(one)[1][1] for one in examples] == ["loud, sad", "none", "sad"]
        assert said(examples[0])[0][1] == (
            "Which labels fit the text? Answer with some of: loud, sad; or with: none.\n\na"
        )
        assert examples[1].gold == {"label": [], "labels": ["loud", "sad"], "several": True}


def test_rows_for_a_head_hold_positions() -> None:
    rows = [{"text": "fine", "label": "good"}, {"text": "awful", "label": "bad"}]
    assert read(rows, "labelled") == [Labelled("rows[0]", "fine", (1,)), Labelled("rows[1]", "awful", (0,))]
    several = [{"text": "a", "labels": [2, 7]}, {"text": "b", "labels": []}]
    assert read(several, "labelled") == [
        Labelled("rows[0]", "a", (0, 1), several=True),
        Labelled("rows[1]", "b", (), several=True),
    ]


def test_an_instruction_of_ones_own() -> None:
    form = classification(["no", "yes"], instruction="{labels}?")
    (example,) = read([{"text": "Is it?", "label": 1, "system": "Be short."}], format=form)
    assert said(example) == [(S, "Be short."), (U, "no, yes?\n\nIs it?"), (A, "yes")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a", "b", "a"]}, "name each label once"),
        ({"labels": "ab"}, "labels must be a list of names"),
        ({"labels": ["a", 1]}, "labels must be a list of names"),
        ({"labels": [" "]}, "labels must be a list of names"),
        ({"instruction": 7}, "instruction must be text"),
    ],
)
def test_settings_of_labels_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        classification(**settings)


def test_labels_are_judged_with_what_is_no_label() -> None:
    (example, _) = read([{"text": "a", "label": "Yes"}, {"text": "b", "label": "no"}])
    # of 4 answers two are "Yes"; "Yes" said 2 of 4 wanted: F1 2*2/(2+4); "no" said once, never wanted: F1 0
    numbers = metric(example, ["yes.", "Yes", "No", "perhaps"], "classification")
    assert numbers.pop("confusion") == {
        "columns": ["Yes", "no", "unknown"],
        "rows": {"Yes": [2, 1, 1], "no": [0, 0, 0]},
    }
    assert numbers == pytest.approx({"accuracy": 0.5, "macro_f1": (2 / 3 + 0) / 2, "unknown": 0.25})


def test_labels_that_differ_by_case_are_two_labels() -> None:
    (example, _) = read([{"text": "a", "label": "us"}, {"text": "b", "label": "US"}])
    assert metric(example, ["us"], "classification")["accuracy"] == 1
    assert metric(example, ["US"], "classification")["accuracy"] == 0


def test_sets_of_labels_are_judged() -> None:
    example, empty = read([{"text": "a", "labels": ["loud", "sad"]}, {"text": "b", "labels": []}])
    # wanted 2 + 2, said "sad, loud" and "sad": 3 of 3 right, F1 2*3/(3+4)
    numbers = metric(example, ["sad, loud", "sad"], "classification")
    assert (numbers["accuracy"], numbers["micro_f1"]) == (0.5, pytest.approx(6 / 7))
    assert metric(empty, ["none"], "classification")["accuracy"] == 1


def test_held_out_rows_are_asked_with_the_labels_of_the_trained_ones(chatml: Any, tmp_path: Path) -> None:
    from posttrain.data_formats import Limits, encode_data

    train = Data([{"text": f"t{i}", "label": ("bad", "good", "mixed")[i % 3]} for i in range(6)])
    held = Data([{"text": "other", "label": "good"}])
    made = encode_data(train, held, "conversation", chatml, Limits(200, "error"), tmp_path)
    text = chatml.decode(made["held_out"].table.row(0)["input_ids"])
    assert "one of: bad, good, mixed." in text


# Extraction


def test_spans_become_labels_and_texts() -> None:
    rows = [
        {"text": "Ada in Rome", "spans": [
            {"start": 0, "end": 3, "label": "who"},
            {"start": 7, "end": 11, "label": "where", "text": "Rome"}]},
        {"text": "né à Köln", "spans": [{"start": 5, "end": 9, "label": "where"}]},
        {"text": "nothing", "spans": []},
    ]  # fmt: skip
    examples = read(rows)
    assert said(examples[0]) == [
        (
            U,
            'List what the text names as JSON: [{"label": ..., "text": ...}]. Labels: where, who.\n\nAda in Rome',
        ),
        (A, '[{"label": "who", "text": "Ada"}, {"label": "where", "text": "Rome"}]'),
    ]
    assert [json.loads(said(one)[1][1]) for one in examples[1:]] == [[{"label": "where", "text": "Köln"}], []]
    assert examples[0].gold["objects"] == json.loads(said(examples[0])[1][1])


@pytest.mark.parametrize(
    "span",
    [
        {"text": "Ada", "type": "who"},
        {"text": "Ada", "entity": "who"},
        {"text": "Ada", "label": "who", "type": None, "start": None, "end": None},  # as Arrow pads it
        {"start": 0, "end": 3, "label": "who", "text": None},
    ],
)
def test_entities_in_other_words(span: dict[str, Any], write: Any) -> None:
    (example,) = read([{"text": "Ada in Rome", "entities": [span]}])
    assert json.loads(said(example)[1][1]) == [{"label": "who", "text": "Ada"}]
    cell = json.dumps([span]).replace('"', '""')
    (example,) = read(write("a.csv", f'text,entities\nAda in Rome,"{cell}"\n'))
    assert json.loads(said(example)[1][1]) == [{"label": "who", "text": "Ada"}]


def test_records_are_written_as_they_are() -> None:
    rows = [
        {"text": "Ada, 36", "records": [{"name": "Ada", "age": 36}]},
        {"text": "é", "records": [{"tags": ["x"]}]},
    ]
    first, second = read(rows)
    assert said(first) == [
        (
            U,
            "Extract the records from the text as a JSON list of objects with the fields: age, name, tags.\n\nAda, 36",
        ),
        (A, '[{"name": "Ada", "age": 36}]'),
    ]
    assert said(second)[1] == (A, '[{"tags": ["x"]}]')
    (example,) = read(rows[:1], format=extraction(instruction="Fields {labels}:"))
    assert said(example)[0] == (U, "Fields age, name:\n\nAda, 36")


def test_spans_are_judged_by_label_and_text() -> None:
    (example,) = read([{"text": "Ada in Rome", "entities": [{"text": "Ada", "label": "who"}, {"text": "Rome", "label": "where"}]}])  # fmt: skip
    right, half = '[{"label": "who", "text": "Ada"}, {"label": "where", "text": "Rome"}]', '[{"label": "who", "text": "Ada"}, {"label": "who", "text": "Rome"}]'  # fmt: skip
    assert metric(example, [right], "extraction") == {"precision": 1, "recall": 1, "f1": 1, "valid_json": 1}
    # right: 2 of 2; half: 1 of 2; no JSON: says nothing. Said 4, wanted 6, hits 3
    numbers = metric(example, [right, half, "Ada"], "extraction")
    assert numbers == pytest.approx({"precision": 3 / 4, "recall": 3 / 6, "f1": 0.6, "valid_json": 2 / 3})
    # an object with another key counts by its fields and leaves the others as they are
    odd = '[{"label": "who", "text": "Ada"}, {"label": "where", "text": "Rome", "sure": true}]'
    assert metric(example, [odd], "extraction")["recall"] == 0.5


def test_records_are_judged_by_their_fields() -> None:
    (example,) = read([{"text": "Ada, 36", "records": [{"name": "Ada", "age": 36}]}])
    numbers = metric(example, ['[{"age": 36, "name": "Eva"}]', '{"name": "Ada"}'], "extraction")
    # the first says 2 fields of which 1 is right; the second is no list; wanted 4
    assert numbers == pytest.approx({"precision": 1 / 2, "recall": 1 / 4, "f1": 1 / 3, "valid_json": 1 / 2})


# Translation


@pytest.mark.parametrize(
    ("row", "settings", "asked", "answer"),
    [
        ({"source": "yes", "target": "ja"}, {}, "Translate the text.\n\nyes", "ja"),
        ({"source": "yes", "target": "ja"}, {"source": "English", "target": "German"},
         "Translate the text from English to German.\n\nyes", "ja"),
        ({"translation": {"en": "yes", "de": "ja"}}, {}, "Translate the text from en to de.\n\nyes", "ja"),
        ({"translation": {"en": "yes", "de": "ja"}}, {"source": "de"}, "Translate the text from de to en.\n\nja", "yes"),
        ({"translation": {"en": "yes", "de": "ja"}}, {"target": "en"}, "Translate the text from de to en.\n\nja", "yes"),
        ({"translation": {"en": "yes", "de": "ja", "fr": "oui"}}, {"source": "fr", "target": "de"},
         "Translate the text from fr to de.\n\noui", "ja"),
        ({"translation": {"en": "yes", "de": "ja"}}, {"instruction": "{target}:"}, "de:\n\nyes", "ja"),
    ],
)  # fmt: skip
def test_translations_and_their_languages(row: Any, settings: Any, asked: str, answer: str) -> None:
    (example,) = read([row], format=translation(**settings))
    assert example == Conversation(
        "rows[0]", (Message(U, asked), Message(A, answer)), gold={"answers": [answer]}
    )
    assert detect([row], "conversation").format == "translation"


def test_settings_of_translation_are_checked() -> None:
    with pytest.raises(SettingError, match="these must be two languages"):
        translation("de", "de")
    with pytest.raises(SettingError, match="source must be text"):
        translation(source=7)  # type: ignore[arg-type]


def test_translations_are_judged_by_chrf() -> None:
    (example,) = read([{"source": "yes", "target": "ja, gern"}])
    assert metric(example, ["ja, gern"], "translation") == {"chrf": pytest.approx(100), "stop_rate": 1}
    assert metric(example, ["nö"], "translation")["chrf"] < 10


# Function calling

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA},
}
ROME, OSLO = Call("weather", {"city": "Rome"}), Call("weather", {"city": "Oslo"})
ASKED = Conversation(
    "rows[0]",
    (
        Message(U, "Rome and Oslo?"),
        Message(A, "", calls=(ROME, OSLO)),
        Message(T, "sunny"),
        Message(T, '{"sky": "grey"}'),
        Message(A, "Sunny, grey."),
    ),
    (TOOL,),
)


def openai_call(call_id: str, city: str, as_text: bool) -> dict[str, Any]:
    arguments = {"city": city}
    function = {"name": "weather", "arguments": json.dumps(arguments) if as_text else arguments}
    return {"id": call_id, "type": "function", "function": function}


def openai(as_text: bool, results: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        "messages": [
            {"role": U, "content": "Rome and Oslo?"},
            {"role": A, "content": None, "tool_calls": [openai_call("a", "Rome", as_text), openai_call("b", "Oslo", as_text)]},
            *({"role": T, "tool_call_id": call_id, "content": content} for call_id, content in results),
            {"role": A, "content": "Sunny, grey."},
        ],
        "tools": [TOOL],
    }  # fmt: skip


IN_ORDER: list[tuple[str, Any]] = [("a", "sunny"), ("b", {"sky": "grey"})]
BARE = {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}
TOOL_ROWS = {
    "OpenAI, arguments as text": openai(True, IN_ORDER),
    "OpenAI, arguments as objects": openai(False, IN_ORDER),
    "OpenAI, results in another order": openai(True, IN_ORDER[::-1]),
    "OpenAI, results without ids": openai(True, [("", "sunny"), ("", {"sky": "grey"})]),
    "OpenAI, one result without an id": openai(True, [("b", {"sky": "grey"}), ("", "sunny")]),
    "OpenAI, tools as text": {**openai(True, IN_ORDER), "tools": json.dumps([TOOL])},
    "OpenAI, bare tools": {**openai(True, IN_ORDER), "tools": [BARE]},
    "OpenAI, functions": {**openai(True, IN_ORDER), "tools": None, "functions": [BARE]},
    "OpenAI, padded by Arrow": {
        **openai(False, IN_ORDER),
        "tools": [{**TOOL, "function": {**TOOL["function"], "parameters": {**SCHEMA, "enum": None} | {"properties": {"city": {"type": "string", "items": None}}}}}],  # type: ignore[dict-item]
    },
    "ShareGPT, parallel calls": {
        "conversations": [
            {"from": "human", "value": "Rome and Oslo?"},
            {"from": "function_call", "value": json.dumps([ROME.as_dict(), OSLO.as_dict()])},
            {"from": "observation", "value": "sunny"},
            {"from": "observation", "value": '{"sky": "grey"}'},
            {"from": "gpt", "value": "Sunny, grey."},
        ],
        "tools": json.dumps([BARE]),
    },
    "ms-swift, calls as turns": {
        "messages": [
            {"role": U, "content": "Rome and Oslo?"},
            {"role": "tool_call", "content": json.dumps(ROME.as_dict())},
            {"role": "tool_call", "content": OSLO.as_dict()},
            {"role": "tool_response", "content": "sunny"},
            {"role": "tool_response", "content": '{"sky": "grey"}'},
            {"role": A, "content": "Sunny, grey."},
        ],
        "tools": [BARE],
    },
    "Anthropic, blocks": {
        "messages": [
            {"role": U, "content": "Rome and Oslo?"},
            {"role": A, "content": [
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {"city": "Oslo"}}]},
            {"role": U, "content": [
                {"type": "tool_result", "tool_use_id": "b", "content": '{"sky": "grey"}'},
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sunny"}]}]},
            {"role": A, "content": [{"type": "text", "text": "Sunny, grey."}]},
        ],
        "tools": [{"name": "weather", "description": "Of a city.", "input_schema": SCHEMA}],
    },
}  # fmt: skip


@pytest.mark.parametrize("row", TOOL_ROWS.values(), ids=TOOL_ROWS.keys())
def test_calls_in_every_form_are_one_dialogue(row: dict[str, Any]) -> None:
    assert read([row]) == [ASKED]
    assert detect([row], "conversation").format == (
        "sharegpt_tools" if "conversations" in row else "openai_tools"
    )
    assert read([row], format="function_calling") == [ASKED]


def test_what_an_assistant_thinks_and_says_beside_its_call() -> None:
    call = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}}
    blocks = [{"type": "thinking", "thinking": "Look."}, {"type": "text", "text": "I look."}, call]
    forms = [
        {"role": A, "content": blocks},
        {"role": A, "content": "I look.", "reasoning_content": "Look.", "tool_calls": [openai_call("a", "Rome", True)]},
        {"role": "tool_call", "content": f"<think>Look.</think>I look.<tool_call>{json.dumps(ROME.as_dict())}</tool_call>"},
    ]  # fmt: skip
    for form in forms:
        row = {"messages": [{"role": U, "content": "Rome?"}, form], "tools": [TOOL]}
        (example,) = read([row])
        assert example.messages[1] == Message(A, "I look.", calls=(ROME,), reasoning="Look.")


def test_calls_behind_the_words_of_a_turn_belong_to_it() -> None:
    row = {
        "messages": [
            {"role": U, "content": "Rome?"},
            {"role": A, "content": "I look.", "loss": 0},
            {"role": "tool_call", "content": ROME.as_dict(), "loss": 1},
            {"role": "tool_response", "content": ""},  # a tool may return nothing
            {"role": A, "content": "Sunny."},
        ],
        "tools": [TOOL],
    }
    (example,) = read([row])
    assert example.messages[1:3] == (Message(A, "I look.", False, (ROME,)), Message(T, ""))


def test_openais_first_functions() -> None:
    row = {
        "messages": [
            {"role": U, "content": "Rome?"},
            {"role": A, "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
            {"role": "function", "name": "weather", "content": "sunny"},
            {"role": A, "content": "Sunny."},
        ],
        "functions": [BARE],
    }  # fmt: skip
    (example,) = read([row])
    assert [message.role for message in example.messages] == [U, A, T, A]
    assert (example.messages[1].calls, example.tools) == ((ROME,), (TOOL,))


def test_a_tool_without_parameters_and_a_call_without_arguments() -> None:
    for tool in (
        {"name": "now"},
        {"name": "now", "parameters": {}},
        {"name": "now", "parameters": {"properties": []}},
    ):
        for arguments in ("", "{}", {}, None):
            calls = [{"function": {"name": "now", "arguments": arguments}}]
            row = {
                "messages": [{"role": U, "content": "Time?"}, {"role": A, "tool_calls": calls}],
                "tools": [tool],
            }
            (example,) = read([row])
            empty = {"type": "object", "properties": {}}
            assert example.messages[1].calls == (Call("now", {}),)
            assert example.tools[0]["function"] == {"name": "now", "description": "", "parameters": empty}


def test_arguments_keep_their_types_and_lose_only_the_padding() -> None:
    given = {
        "city": "Rome",
        "days": 2,
        "exact": True,
        "at": None,
        "of_another_tool": None,
        "list": [1, {"a": None}],
    }
    schema = {
        "properties": {name: {} for name in ("city", "days", "exact", "at", "list")},
        "additionalProperties": False,
    }
    row = {
        "messages": [{"role": U, "content": "?"}, {"role": A, "tool_calls": [{"function": {"name": "f", "arguments": given}}]}],
        "tools": [{"name": "f", "parameters": schema}],
    }  # fmt: skip
    (example,) = read([row])
    kept = {name: value for name, value in given.items() if name != "of_another_tool"}
    assert example.messages[1].calls == (Call("f", kept),)


def test_one_result_may_answer_parallel_calls_that_have_no_ids() -> None:
    # LLaMA-Factory's turns alternate, so one observation holds what both calls returned
    row = TOOL_ROWS["ShareGPT, parallel calls"]
    turns = [turn for i, turn in enumerate(row["conversations"]) if i != 3]
    (example,) = read([{**row, "conversations": turns}])
    assert [message.role for message in example.messages] == [U, A, T, A]


def test_calls_are_judged_by_name_and_arguments() -> None:
    example = replace(ASKED, messages=ASKED.messages[:2])
    from posttrain.data_formats.dialogues.dialogue import dialogue_metric, gold_of

    gold = gold_of(example.messages)
    assert gold == {"calls": [ROME.as_dict(), OSLO.as_dict()], "answer": ""}

    def tagged(*calls: Call) -> str:
        return "".join(f"<tool_call>{json.dumps(call.as_dict())}</tool_call>" for call in calls)

    answers = [
        tagged(OSLO, ROME),
        tagged(ROME, ROME),
        tagged(ROME),
        '<tool_call>{"name": "weather"</tool_call>',
    ]
    numbers = dialogue_metric([gold] * 4, [Answer(text, True) for text in answers])
    # both calls in any order; the right names with a wrong city; one call of two; one that is no call
    assert numbers == pytest.approx(
        {"stop_rate": 1, "call_match": 1 / 4, "call_name_match": 2 / 4, "valid_calls": 3 / 4}
    )
    # rows that call nothing are judged by their end alone
    plain = gold_of((Message(U, "hi"), Message(A, "yo")))
    assert dialogue_metric([plain], [Answer("whatever", False)]) == {"stop_rate": 0}


def test_a_mixture_of_formats_is_judged_by_the_metric_of_each() -> None:
    def question(name: str, gold: Any) -> Question:
        return Question(name, [1], 2, 3, gold)

    asked = [
        question("qa", {"answers": ["Rome"]}),
        question("openai_messages", {"calls": [], "answer": "yo"}),
    ]
    answers = [Answer("rome", True), Answer("hi", False)]
    assert score(asked, answers) == {
        "qa.exact_match": 1, "qa.token_f1": 1, "qa.stop_rate": 1, "openai_messages.stop_rate": 0,
    }  # fmt: skip
    assert score(asked[:1], answers[:1])["exact_match"] == 1


# Rounds


def test_rounds_are_turns() -> None:
    row = {
        "conversation": [{"human": "hi", "assistant": "yo"}, {"human": "a", "assistant": "b"}],
        "system": "be",
    }
    (example,) = read([row])
    assert said(example) == [(S, "be"), (U, "hi"), (A, "yo"), (U, "a"), (A, "b")]
    assert detect([row], "conversation").format == "rounds"


# Prompts


@pytest.mark.parametrize(
    ("name", "row", "prompt", "columns"),
    [
        ("prompt_only", {"prompt": "hi", "answer": "yo"}, "hi", {"answer": "yo"}),
        ("prompt_only", {"prompt": [{"role": U, "content": "hi"}], "tools": "[]"}, ((U, "hi"),), {}),
        ("prompt_messages", {"messages": [{"role": U, "content": "hi"}, {"role": A, "content": "yo"}], "solution": 3},
         ((U, "hi"),), {"answer": "yo", "solution": 3}),
        ("prompt_messages", {"messages": [{"role": U, "content": "hi"}, {"role": A, "content": "yo"}], "answer": 3},
         ((U, "hi"),), {"answer": 3}),
        ("prompt_messages", {"messages": [{"role": U, "content": "hi"}], "system": "be"}, ((S, "be"), (U, "hi")), {}),
        ("prompt_sharegpt", {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], "id": 1},
         ((U, "hi"),), {"answer": "yo", "id": 1}),
        ("prompt_alpaca", {"instruction": "add", "input": "1 2", "output": "3", "history": [["hi", "yo"]]},
         ((U, "hi"), (A, "yo"), (U, "add\n1 2")), {"output": "3"}),
        ("prompt_question", {"question": "Capital?", "context": "Italy.", "answer": ["Rome"], "level": None},
         ((U, "Italy.\n\nCapital?"),), {"answer": ["Rome"], "level": None}),
        ("prompt_question", {"system": "be", "question": "Capital?"}, ((S, "be"), (U, "Capital?")), {}),
    ],
)  # fmt: skip
def test_a_prompt_of_every_layout(name: str, row: Any, prompt: Any, columns: dict[str, Any]) -> None:
    asked = prompt if isinstance(prompt, str) else tuple(Message(role, text) for role, text in prompt)
    assert read([row], "prompt") == [Prompt("rows[0]", asked, columns)]
    assert detect([row], "prompt").format == name
    assert read([row], "prompt", format="prompts") == [Prompt("rows[0]", asked, columns)]


def test_a_prompt_with_tools_keeps_what_was_called() -> None:
    messages = TOOL_ROWS["OpenAI, arguments as text"]["messages"]
    (example,) = read([{"messages": messages, "tools": [TOOL]}], "prompt")
    assert example == Prompt("rows[0]", ASKED.messages[:-1], {"answer": "Sunny, grey."}, (TOOL,))
    (example,) = read([{"messages": messages[:2], "tools": [TOOL]}], "prompt")
    assert example.columns == {"calls": [call.as_dict() for call in ASKED.messages[1].calls]}
    (example,) = read([{"prompt": messages[:1], "tools": [TOOL], "answer": 4}], "prompt")
    assert example == Prompt("rows[0]", ASKED.messages[:1], {"answer": 4}, (TOOL,))


def test_the_system_prompt_of_data_is_put_before_prompts_and_questions() -> None:
    (prompt,) = read([{"question": "Capital?"}], "prompt", system="Be short.")
    assert prompt.prompt == (Message(S, "Be short."), Message(U, "Capital?"))
    (question,) = read([{"question": "Capital?", "answer": "Rome"}], system="Be short.")
    assert said(question)[0] == (S, "Be short.")


# Pairs as single answers

PAIRS = {
    "trl_explicit_prompt": {"prompt": "hi", "chosen": "yo", "rejected": "no"},
    "trl_implicit_prompt": {
        "chosen": [{"role": U, "content": "hi"}, {"role": A, "content": "yo"}],
        "rejected": [{"role": U, "content": "hi"}, {"role": A, "content": "no"}],
    },
    "alpaca_ranking": {"instruction": "hi", "chosen": "yo", "rejected": "no"},
    "sharegpt_ranking": {
        "conversations": [{"from": "human", "value": "hi"}],
        "chosen": {"from": "gpt", "value": "yo"},
        "rejected": {"from": "gpt", "value": "no"},
    },
    "swift_ranking": {
        "messages": [{"role": U, "content": "hi"}, {"role": A, "content": "yo"}],
        "rejected_response": "no",
    },
}


@pytest.mark.parametrize(("name", "row"), PAIRS.items())
def test_pairs_of_every_layout_are_judged_answers_too(name: str, row: dict[str, Any]) -> None:
    for kind in ("preference", "unpaired"):
        found = read_examples([row], kind)  # type: ignore[arg-type]
        asked = "hi" if name == "trl_explicit_prompt" else (Message(U, "hi"),)
        assert found.examples == (Pair("rows[0]", asked, "yo", "no"),)
        assert found.detection.format == name


# A format of one's own


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(registry, "_FORMATS", list(registry._FORMATS))


def documented() -> DataFormat:
    """The example of docs/extending.md, run."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "extending.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page.partition("## A data format")[2], flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert len([line for line in block.splitlines() if line.strip()]) <= 25
    form = names["MULTIPLE_CHOICE"]
    assert isinstance(form, DataFormat)
    return form


def test_the_format_of_the_docs_is_read_and_judged(own_registry: None, write: Any) -> None:
    form = documented()
    assert formats()[0] is form
    row = {"question": "Capital of Italy?", "choices": ["Oslo", "Rome"], "correct": 1, "id": "x"}
    found = read_examples(write("a.jsonl", [row]), "conversation")
    assert found.detection.format == "multiple_choice"
    messages = (Message(U, "Capital of Italy?\nA. Oslo\nB. Rome"), Message(A, "B"))
    assert found.examples == (Conversation("a.jsonl:1", messages, gold={"letter": "B"}),)
    assert found.notes == ("columns not read: id",)
    golds, answers = [{"letter": "B"}] * 4, [Answer(text, True) for text in ("B", " B. Rome", "A", "")]
    assert form.metric is not None and form.metric(golds, answers) == {"accuracy": 0.5}
    question = Question("multiple_choice", [1], 2, 3, {"letter": "B"})
    assert score([question], [Answer("B", True)]) == {"accuracy": 1}


@pytest.mark.parametrize("correct", [2, -1, "B", None, True, 1.0])
def test_the_format_of_the_docs_refuses_what_is_no_choice(own_registry: None, correct: Any) -> None:
    from posttrain.errors import RowError

    documented()
    row = {"question": "Capital?", "choices": ["Oslo", "Rome"], "correct": correct}
    with pytest.raises(RowError, match=r"rows\[0\] correct: is .* and must be a number from 0 to 1"):
        read([row])


def test_a_format_needs_no_registration_to_be_used(own_registry: None) -> None:
    form = replace(documented(), name="unregistered", detect=lambda row: False)
    row = {"question": "Capital?", "choices": ["Oslo", "Rome"], "correct": 0}
    assert said(read([row], format=form)[0])[1] == (A, "A")


def test_a_taken_name_is_refused(own_registry: None) -> None:
    form = documented()
    for name in ("multiple_choice", "qa", "chat", ""):  # registered, ours, a family, none
        with pytest.raises(
            SettingError, match=f"There is a data format '{name}' of kind 'conversation' already"
        ):
            register(replace(form, name=name))
    with pytest.raises(SettingError, match="kind must be one of text, conversation"):
        register(replace(form, name="other", kind="dialogue"))  # type: ignore[arg-type]
    assert register(replace(form, name="other", family="qa")) is formats()[0]  # a family takes more formats
    assert register(replace(form, kind="prompt")) is formats()[0]  # another kind, another name space


def test_a_registered_format_comes_before_ours(own_registry: None) -> None:
    register(
        DataFormat(
            name="shouting",
            kind="conversation",
            shape='{"prompt", "completion"}',
            columns=("prompt", "completion"),
            detect=lambda row: "prompt" in row and str(row["prompt"]).isupper(),
            why="rows shout",
            to_example=lambda row, place: Completion(place, row["prompt"].lower(), row["completion"]),
        )
    )
    assert read([{"prompt": "HI", "completion": "yo"}]) == [Completion("rows[0]", "hi", "yo")]
    assert detect([{"prompt": "hi", "completion": "yo"}], "conversation").format == "prompt_completion"
