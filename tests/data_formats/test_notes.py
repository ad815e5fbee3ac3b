"""The report says what was done about a chat template that cannot write what the rows hold."""

from typing import Any

import pytest

from posttrain.data_formats import encode, read_examples
from tests.data_formats.chat_templates import CHATML, LLAMA3

PLAIN = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
THOUGHT = {"messages": [PLAIN["messages"][0], {**PLAIN["messages"][1], "reasoning_content": "hm"}]}
CALL = {
    "tools": [{"name": "look", "parameters": {"properties": {"at": {}}}}],
    "messages": [
        PLAIN["messages"][0],
        {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": '{"at": "it"}'}}]},
    ],
}


@pytest.mark.parametrize(
    ("rows", "said"),
    [([PLAIN], []), ([PLAIN, THOUGHT], ["shows no reasoning"]), ([CALL], ["knows no tools"])],
)
@pytest.mark.parametrize("template", [CHATML, LLAMA3])
def test_only_what_was_asked_for_is_noted(
    make_tokenizer: Any, template: str, rows: list[Any], said: list[str]
) -> None:
    tokenizer = make_tokenizer(template, eos="<|eot_id|>" if template == LLAMA3 else "<|im_end|>")
    report = encode(
        read_examples(rows, "conversation"), tokenizer, max_length=10_000, overlong="error"
    ).report
    notes = [note for note in report.notes if "chat template" in note]
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))
