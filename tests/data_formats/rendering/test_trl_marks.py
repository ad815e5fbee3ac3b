"""TRL's own marks as an independent reference for what is trained.

TRL ships the chat templates of many models, and of most a second time with {% generation %} marks around what the
assistant says; transformers renders those marks.
"""

import json
import re

import pytest

from posttrain.data_formats.rendering.render import ChatTemplate
from posttrain.errors import DataError
from tests.data_formats.chat_templates import ADDED, DEEPSEEK, NEMOTRON, VISION, trl_names, trl_template
from tests.data_formats.dialogues import (
    CALL,
    CALLS,
    ONE,
    SAID_AND_CALL,
    THOUGHT_AND_CALL,
    THOUGHTS,
    THREE,
    TOOL,
    WITH_SYSTEM,
    has_calls,
    rendered,
)

PAIRS = [name for name in trl_names() if f"{name}_training" in trl_names() and name not in VISION]
DIALOGUES = {
    "one": ONE, "three": THREE, "system": WITH_SYSTEM, "thoughts": THOUGHTS,
    "call": CALL, "calls": CALLS, "said": SAID_AND_CALL, "thought": THOUGHT_AND_CALL,
}  # fmt: skip
UNPROVEN = "so the answer cannot be told apart"
REFUSED = {
    # The prompt ends with "<think>\n", and no answer in a dialogue begins with it.
    **{(name, dialogue): UNPROVEN for name in DEEPSEEK for dialogue in DIALOGUES},
    # An answer with reasoning does; one without begins with "<think></think>".
    **{(name, dialogue): UNPROVEN for name in NEMOTRON
       for dialogue in ("one", "three", "system", "call", "calls", "said")},
    # The prompt ends with an empty thought, and the answer begins with its own.
    ("qwen3_5_nothink", "thoughts"): UNPROVEN,
    ("qwen3_5_nothink", "thought"): UNPROVEN,
    # What was said or thought before a call goes when the final answer comes.
    ("gptoss", "said"): UNPROVEN,
    ("gptoss", "thought"): UNPROVEN,
    # What is said beside a call stands behind the result, and the next answer goes on in the same turn.
    ("diffusion_gemma", "said"): UNPROVEN,
    ("gptoss", "calls"): "leaves out every call of a turn but the first (2 here)",
    ("muse_glimmer", "said"): "leaves out what is said beside a call ('I look.')",
    ("gemma", "system"): "System role not supported",
}  # fmt: skip
SHOW_REASONING = {
    "diffusion_gemma", "glm4moe", "gptoss", "muse_glimmer", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6",
    "qwen3_8", *NEMOTRON,
}  # fmt: skip
DECLARED = (
    f"You can call these tools:\n<tools>\n{json.dumps(TOOL)}\n</tools>\n"
    "To call one, write its name and arguments as JSON in tags, once for each call:\n"
    '<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>'
)


def as_turns(name, messages):
    """What transformers is given for a dialogue: written down here without the library."""
    turns, waiting, number = [], [], 0
    for message in messages:
        turn = {"role": message.role, "content": message.content}
        if message.reasoning and name in SHOW_REASONING:
            turn["reasoning_content"] = message.reasoning
        elif message.reasoning:
            said = f"\n{message.content}" if message.content else ""
            turn["content"] = f"<think>\n{message.reasoning}\n</think>\n{said}"
        if message.calls:
            waiting = [(f"{number + i:09d}", call) for i, call in enumerate(message.calls)]
            number += len(waiting)
            turn["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for id_, call in waiting
            ]
        if message.role == "tool":
            turn["tool_call_id"], call = waiting.pop(0)
            turn["name"] = call.name
        turns.append(turn)
    return as_plain_turns(name, turns) if name in ADDED and has_calls(messages) else turns


def as_plain_turns(name, turns):
    plain = [{"role": "system", "content": DECLARED}]
    for turn in turns:
        calls = [json.dumps(call["function"]) for call in turn.get("tool_calls", ())]
        texts = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
        parts = [turn["content"], *texts] if turn["content"] else texts
        role, content = turn["role"], "\n".join(parts)
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
            if plain[-1]["role"] == "user":
                content = f"{plain.pop()['content']}\n{content}"
        plain.append({"role": role, "content": content})
    if name == "gemma":  # it refuses system turns
        plain[1]["content"] = f"{DECLARED}\n\n{plain[1]['content']}"
        return plain[1:]
    return plain


def tools_of(name, messages):
    return [TOOL] if has_calls(messages) and name not in ADDED else None


def each_rendering(tokenizer, name):
    """Every rendering of every dialogue that the template can write, with the part of the dialogue it is of."""
    for dialogue, messages in DIALOGUES.items():
        if (name, dialogue) in REFUSED:
            continue
        found = rendered(tokenizer, messages)
        if len(found) == 1:
            yield found[0], messages
        else:
            yield from ((one, messages[: i + 1]) for one, i in zip(found, answers_of(messages), strict=True))


def answers_of(messages):
    return [i for i, message in enumerate(messages) if message.role == "assistant"]


def test_every_pair_of_templates_is_looked_at():
    assert (len(trl_names()), len(PAIRS), len(VISION)) == (72, 28, 3)
    assert {name for name, _ in REFUSED} | ADDED | SHOW_REASONING <= set(PAIRS)
    assert len(REFUSED) == 2 * 8 + 4 * 6 + 8


@pytest.mark.parametrize("name", sorted({name for name, _ in REFUSED}))
def test_what_a_template_cannot_write_is_refused_with_the_reason(trl_tokenizer, name):
    for (other, dialogue), reason in REFUSED.items():
        if other == name:
            with pytest.raises(DataError, match=re.escape(reason)):
                rendered(trl_tokenizer(name), DIALOGUES[dialogue])


@pytest.mark.parametrize("name", sorted(VISION))
def test_templates_that_take_only_lists_of_parts_are_refused(trl_tokenizer, name):
    with pytest.raises(DataError, match=r"leaves out what is said|refuses a dialogue of user, assistant"):
        rendered(trl_tokenizer(name), ONE)


@pytest.mark.parametrize("name", PAIRS)
def test_the_text_is_what_transformers_writes(trl_tokenizer, name):
    tokenizer = trl_tokenizer(name)
    for one, messages in each_rendering(tokenizer, name):
        text = tokenizer.apply_chat_template(
            as_turns(name, messages), tools=tools_of(name, messages), tokenize=False
        )
        # GLM ends no turn, so the end token is put there.
        assert one.stop_added == (name == "glm4moe")
        assert one.text == (f"{text.rstrip()}<|endoftext|>" if one.stop_added else text)


def marked(tokenizer, name, messages):
    """(the text, which of its characters stand between {% generation %} marks)."""
    template, turns = trl_template(f"{name}_training"), as_turns(name, messages)
    encoded = tokenizer.apply_chat_template(
        turns, tools=tools_of(name, messages), chat_template=template, return_dict=True,
        return_assistant_tokens_mask=True, tokenizer_kwargs={"return_offsets_mapping": True},
    )  # fmt: skip
    text = tokenizer.decode(encoded["input_ids"], clean_up_tokenization_spaces=False)
    offsets = zip(encoded["offset_mapping"], encoded["assistant_masks"], strict=True)
    return text, {at for (start, end), mark in offsets if mark for at in range(start, end)}


def runs(numbers):
    """{1, 2, 5} -> [(1, 3), (5, 6)]."""
    found = []
    for number in sorted(numbers):
        start = found.pop()[0] if found and found[-1][1] == number else number
        found.append((start, number + 1))
    return found


def why_left(text, run, one, prompts, end_token):
    """Why marked characters are not trained."""
    start, end = run
    said = text[start:end]
    if said.isspace():
        return "white space"
    if any(end == len(prompt) and prompt.endswith(said) for prompt in prompts):
        return "in the prompt"
    if any(start == len(prompt) for prompt in prompts) and re.fullmatch(r"\s*<think>\s*</think>\s*", said):
        return "empty thought"
    if end <= one.spans[0][0]:
        return "another rendering's"
    if said.strip() == end_token and end == len(text):
        return "end of the text"
    return "next turn" if one.stop_added and end == len(text) else f"UNEXPLAINED {said!r}"


# What TRL marks and the library does not train, with the templates where that is so.
WHITE_SPACE = {
    "diffusion_gemma", "gemma", "gemma3", "lfm2", "lfm2_v2", "phi3", "phi3_5", "qwen2_5", "qwen2_5_vl", "qwen3",
    "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8", "qwen3_instruct_2507", "qwen3_vl", *NEMOTRON,
}  # fmt: skip
IN_THE_PROMPT = {  # "<|start|>assistant", "<think>\n": the model is asked with it
    "gptoss", "muse_glimmer", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8", *NEMOTRON,
}  # fmt: skip
LEFT = {
    "white space": WHITE_SPACE,  # behind the stop token; Qwen 2.5's marks begin before the header's line break
    "in the prompt": IN_THE_PROMPT,
    "empty thought": {"glm4moe", "qwen3"},
    "end of the text": {"phi3", "phi3_5"},  # <|endoftext|> behind the stop token <|end|>
    "next turn": {"glm4moe"},  # TRL's has the next turn's first token as stop token; ours the end token
}
# What the library trains outside of the marks. DiffusionGemma's marks leave out where the model stops for the result;
# and its prompt behind a result has no header, so the model has to write it.
OUTSIDE = {"diffusion_gemma": {"<|tool_response>", "<|turn>model\n"}}


@pytest.mark.parametrize("name", sorted({*PAIRS} - {*DEEPSEEK}))
def test_what_is_trained_stands_between_trls_marks(trl_tokenizer, name):
    tokenizer, left, outside = trl_tokenizer(name), set(), set()
    for one, messages in each_rendering(tokenizer, name):
        text, inside = marked(tokenizer, name, messages)
        own = one.text.removesuffix(tokenizer.eos_token) if one.stop_added else one.text
        if not text.startswith(own):  # the training template keeps the thoughts of earlier turns
            assert len(one.spans) == 1
            last = own.rindex("<|im_start|>assistant")
            moved = len(text) - len(own)
            assert text[last + moved :] == own[last:]
            text, inside = own, {at - moved for at in inside if at >= last + moved}
        ours = {at for start, end in one.spans for at in range(start, min(end, len(own)))}
        outside |= {text[start:end] for start, end in runs(ours - inside)}
        asker = ChatTemplate.of(tokenizer, [TOOL] if has_calls(messages) else ())
        prompts = [asker.prompt(messages[:i]) for i in answers_of(messages)]
        left |= {why_left(text, run, one, prompts, tokenizer.eos_token) for run in runs(inside - ours)}
    assert outside == OUTSIDE.get(name, set())
    assert left - {"another rendering's"} == {why for why, names in LEFT.items() if name in names}
