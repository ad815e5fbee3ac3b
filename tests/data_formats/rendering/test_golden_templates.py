"""Trained texts and their places, counted by hand, for the common chat templates: «...» is what is trained."""

import pytest

from posttrain.data_formats.rendering.render import ChatTemplate
from posttrain.errors import DataError
from tests.data_formats.chat_templates import CHATML, trl_template
from tests.data_formats.dialogues import (
    CALL,
    CALLS,
    ONE,
    SAID_AND_CALL,
    SYSTEM,
    THOUGHT,
    THOUGHT_AND_CALL,
    THOUGHTS,
    TWO,
    WITH_SYSTEM,
    assistant,
    golden,
    rendered,
    spans,
    trained,
    user,
)

HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HERMES_OSLO = HERMES.replace("Paris", "Oslo")


def test_chatml_with_the_addition_for_tools(chatml):
    # <|im_start|> 12, user\n 17, hi 19, <|im_end|> 29, \n 30, <|im_start|> 42, assistant\n 52, yo 54, <|im_end|> 64,
    # \n 65, <|im_start|>user\n 82, and 85, <|im_end|>\n 96, <|im_start|>assistant\n 118, no 120, <|im_end|> 130
    assert spans(chatml, TWO) == [((52, 64), (118, 130))]
    assert golden(chatml, (SYSTEM, *ONE)) == [
        "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n«yo<|im_end|>»\n"
    ]
    # The tools are declared in a system turn; a result is what the user says next.
    assert golden(chatml, CALL) == [
        "<|im_start|>system\nYou can call these tools:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": '
        '{"type": "object", "properties": {"city": {"type": "string", "description": "A city."}}, "required": ["city"]}}}\n'
        "</tools>\nTo call one, write its name and arguments as JSON in tags, once for each call:\n"
        '<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nW?<|im_end|>\n"
        f"<|im_start|>assistant\n«{HERMES}<|im_end|>»\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«Sun.<|im_end|>»\n"
    ]
    assert golden(chatml, CALLS, "<|im_start|>assistant") == [
        f"<|im_start|>assistant\n«{HERMES}\n{HERMES_OSLO}<|im_end|>»\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«Both.<|im_end|>»\n"
    ]
    assert golden(chatml, THOUGHT, "<|im_start|>assistant") == [
        "<|im_start|>assistant\n«<think>\nHm\n</think>\n\nyo<|im_end|>»\n"
    ]
    assert golden(chatml, THOUGHT_AND_CALL[:2], "<|im_start|>assistant") == [
        f"<|im_start|>assistant\n«<think>\nHm\n</think>\n\n{HERMES}<|im_end|>»\n"
    ]


def test_llama3(trl_tokenizer):
    tokenizer = trl_tokenizer("llama3")
    # <|begin_of_text|> 17; <|start_header_id|> 19 and <|end_header_id|>\n\n 19 around the role; <|eot_id|> 10.
    # 17 + 19 + user 4 + 19 + hi 2 + 10 = 71; + 19 + assistant 9 + 19 = 118: yo and <|eot_id|> end at 130.
    # 130 + 19 + 4 + 19 + and 3 + 10 = 185; + 47 = 232: no and <|eot_id|> end at 244.
    assert spans(tokenizer, TWO) == [((118, 130), (232, 244))]
    # A system turn: 19 + system 6 + 19 + be 2 + 10 = 56 more in front.
    assert spans(tokenizer, (SYSTEM, *ONE)) == [((118 + 56, 130 + 56),)]
    assert trained(tokenizer, (ONE[0], assistant(" yo \n"))) == [["yo<|eot_id|>"]]
    assert trained(tokenizer, THOUGHT) == [["<think>\nHm\n</think>\n\nyo<|eot_id|>"]]
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    assert golden(tokenizer, CALLS, header("assistant")) == [
        f"{header('assistant')}«{HERMES}\n{HERMES_OSLO}<|eot_id|>»{header('user')}"
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response><|eot_id|>"
        f"{header('assistant')}«Both.<|eot_id|>»"
    ]


def test_llama3_1_writes_one_call_in_a_turn_and_nothing_beside_it(trl_tokenizer):
    tokenizer = trl_tokenizer("llama3_1")
    preamble = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    # Its own system turn: 19 + system 6 + 19 + the dates 38 + 25 + <|eot_id|> 10 = 117 more than Llama 3's.
    assert len(preamble) == 38 + 25
    assert spans(tokenizer, TWO) == [((118 + 117, 130 + 117), (232 + 117, 244 + 117))]
    assert spans(tokenizer, (SYSTEM, *ONE)) == [((118 + 117 + 2, 130 + 117 + 2),)]
    assert ChatTemplate.of(tokenizer).injected_system() == ""  # the dates stand before a system prompt too
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    assert golden(tokenizer, CALL, header("assistant")) == [
        header("assistant") + '«{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>»'
        f'{header("ipython")}"sunny"<|eot_id|>{header("assistant")}«Sun.<|eot_id|>»'
    ]
    with pytest.raises(DataError, match="only supports single tool-calls at once"):
        rendered(tokenizer, CALLS)
    with pytest.raises(DataError, match=r"leaves out what is said beside a call \('I look\.'\)"):
        rendered(tokenizer, SAID_AND_CALL)
    with pytest.raises(DataError, match="leaves out what is thought before a call"):
        rendered(tokenizer, THOUGHT_AND_CALL)


def test_qwen3_shows_a_thought_in_the_last_answer_only(trl_tokenizer):
    tokenizer = trl_tokenizer("qwen3")
    asked = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    then = "<|im_end|>\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n"
    # 52 as in ChatML; the empty thought <think>\n\n</think>\n\n has 7 + 2 + 8 + 2 = 19: 71 to 83.
    # The second: 52 + yo 2 + 10 + 1 + 31 + 22 = 118 as in ChatML, + 19 = 137 to 149.
    assert spans(tokenizer, TWO) == [((71, 83),), ((137, 149),)]
    assert golden(tokenizer, TWO) == [
        f"{asked}<think>\n\n</think>\n\n«yo<|im_end|>»\n",
        f"{asked}yo{then}<think>\n\n</think>\n\n«no<|im_end|>»\n",
    ]
    assert golden(tokenizer, THOUGHTS) == [
        f"{asked}«<think>\nHm\n</think>\n\nyo<|im_end|>»\n",
        f"{asked}yo{then}«<think>\nEr\n</think>\n\nno<|im_end|>»\n",
    ]
    assert golden(tokenizer, (SYSTEM, *ONE))[0].startswith(
        "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user"
    )
    # Without reasoning the thought before a call goes when the result comes: two renderings.
    result = "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
    empty = "<think>\n\n</think>\n\n"
    assert golden(tokenizer, CALL, "<|im_start|>assistant") == [
        f"<|im_start|>assistant\n{empty}«{HERMES}<|im_end|>»\n",
        f"<|im_start|>assistant\n{HERMES}<|im_end|>\n{result}<|im_start|>assistant\n{empty}«Sun.<|im_end|>»\n",
    ]
    assert golden(tokenizer, THOUGHT_AND_CALL, "<|im_start|>assistant") == [
        f"<|im_start|>assistant\n«<think>\nHm\n</think>\n\n{HERMES}<|im_end|>»\n{result}"
        "<|im_start|>assistant\n«<think>\nEr\n</think>\n\nSun.<|im_end|>»\n"
    ]
    assert trained(tokenizer, CALLS) == [[f"{HERMES}\n{HERMES_OSLO}<|im_end|>"], ["Both.<|im_end|>"]]


def test_an_empty_thought_is_trained_when_the_author_wrote_it(trl_tokenizer):
    tokenizer = trl_tokenizer("qwen3")
    for answer in "<think></think>yo", "<think>\n\n</think>\n\nyo":
        assert trained(tokenizer, (ONE[0], assistant(answer))) == [["<think>\n\n</think>\n\nyo<|im_end|>"]]
    # White space in front of an answer is the answer's, except for the line breaks that the template cuts off.
    assert trained(tokenizer, (ONE[0], assistant("\n  yo "))) == [["  yo <|im_end|>"]]


def test_a_thought_before_a_call_has_a_form_of_its_own_in_gemma4(trl_tokenizer):
    tokenizer = trl_tokenizer("gemma4")
    assert trained(tokenizer, THOUGHT_AND_CALL) == [
        [
            "<|channel>thought\nHm\n<channel|>"
            '<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|><|tool_response>',
            "<think>\nEr\n</think>\n\nSun.<turn|>",
        ]
    ]
    # Its first revision wrote none, and what is said beside a call behind the call: no place for a thought.
    with pytest.raises(DataError, match="leaves out what is thought before a call"):
        rendered(trl_tokenizer("gemma4_v2"), THOUGHT_AND_CALL)


def test_qwen2_5(trl_tokenizer):
    tokenizer = trl_tokenizer("qwen2_5")
    # Its own system turn: <|im_start|>system\n 19, the sentence 68, <|im_end|>\n 11 = 98 more than ChatML's.
    injected = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert len(injected) == 68
    assert spans(tokenizer, TWO) == [((52 + 98, 64 + 98), (118 + 98, 130 + 98))]
    assert spans(tokenizer, (SYSTEM, *ONE)) == [((52 + 32, 64 + 32),)]  # 19 + be 2 + 11
    assert golden(tokenizer, CALLS, "<|im_start|>user") == [
        "<|im_start|>user\nW?<|im_end|>\n"
        f"<|im_start|>assistant\n«{HERMES}\n{HERMES_OSLO}<|im_end|>»\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«Both.<|im_end|>»\n"
    ]
    assert trained(tokenizer, SAID_AND_CALL) == [[f"I look.\n{HERMES}<|im_end|>", "Sun.<|im_end|>"]]
    assert trained(tokenizer, THOUGHT_AND_CALL) == [
        [f"<think>\nHm\n</think>\n\n{HERMES}<|im_end|>", "<think>\nEr\n</think>\n\nSun.<|im_end|>"]
    ]


def test_gemma(trl_tokenizer):
    tokenizer = trl_tokenizer("gemma")
    # <bos> 5, <start_of_turn> 15 = 20, user\n 25, hi 27, <end_of_turn> 13 = 40, \n 41; 56 model\n 62: yo 64 and
    # <end_of_turn> 77, \n 78. Then 93 user\n 98 and 101, 114 \n 115; 130 model\n 136: no 138, 151.
    assert spans(tokenizer, TWO) == [((62, 77), (136, 151))]
    with pytest.raises(DataError, match="System role not supported"):
        rendered(tokenizer, (SYSTEM, *ONE))
    # There is no system turn to declare the tools in, so the first user turn does it.
    (text,) = golden(tokenizer, CALLS)
    assert text.startswith("<bos><start_of_turn>user\nYou can call these tools:\n<tools>\n")
    assert text.endswith(
        "</tool_call>\n\nW?<end_of_turn>\n"
        f"<start_of_turn>model\n«{HERMES}\n{HERMES_OSLO}<end_of_turn>»\n"
        "<start_of_turn>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response><end_of_turn>\n"
        "<start_of_turn>model\n«Both.<end_of_turn>»\n"
    )
    assert trained(tokenizer, THOUGHT) == [["<think>\nHm\n</think>\n\nyo<end_of_turn>"]]


def test_gemma3_puts_the_system_prompt_before_the_first_question(trl_tokenizer):
    tokenizer = trl_tokenizer("gemma3")
    assert spans(tokenizer, TWO) == [((62, 77), (136, 151))]  # as in Gemma
    # be\n\n: 4 more.
    assert spans(tokenizer, WITH_SYSTEM) == [((62 + 4, 77 + 4), (136 + 4, 151 + 4))]
    (text,) = golden(tokenizer, CALL)
    assert text.startswith("<bos><start_of_turn>user\nYou can call these tools:\n<tools>\n")
    assert text.endswith(
        f"</tool_call>\n\nW?<end_of_turn>\n<start_of_turn>model\n«{HERMES}<end_of_turn>»\n"
        "<start_of_turn>user\n<tool_response>\nsunny\n</tool_response><end_of_turn>\n"
        "<start_of_turn>model\n«Sun.<end_of_turn>»\n"
    )


def test_mistral_with_tools(mistral):
    # <s> 3, [INST] 9 and a space 10, hi 12, [/INST] 19: " yo" 22 and </s> 26.
    # [INST] 32 and a space 33, and 36, [/INST] 43: " no" 46 and </s> 50.
    assert spans(mistral, TWO) == [((19, 26), (43, 50))]
    call = '{"name": "weather", "arguments": {"city": "Paris"}, "id": "000000000"}'
    other = '{"name": "weather", "arguments": {"city": "Oslo"}, "id": "000000001"}'
    assert golden(mistral, CALL, "[/AVAILABLE_TOOLS]") == [
        f"[/AVAILABLE_TOOLS][INST] W?[/INST]«[TOOL_CALLS] [{call}]</s>»"
        '[TOOL_RESULTS] {"content": "sunny", "call_id": "000000000"}[/TOOL_RESULTS]« Sun.</s>»'
    ]
    assert golden(mistral, CALLS, "[/AVAILABLE_TOOLS]") == [
        f"[/AVAILABLE_TOOLS][INST] W?[/INST]«[TOOL_CALLS] [{call}, {other}]</s>»"
        '[TOOL_RESULTS] {"content": "sunny", "call_id": "000000000"}[/TOOL_RESULTS]'
        '[TOOL_RESULTS] {"content": "rain", "call_id": "000000001"}[/TOOL_RESULTS]« Both.</s>»'
    ]
    # With the next question the tools move behind the first dialogue: a rendering for each answer.
    assert trained(mistral, (*CALL, user("and"), assistant("no"))) == [
        [f"[TOOL_CALLS] [{call}]</s>"], [" Sun.</s>"], [" no</s>"],
    ]  # fmt: skip
    assert trained(mistral, THOUGHT) == [[" <think>\nHm\n</think>\n\nyo</s>"]]


def test_what_mistrals_template_forgets_is_refused(mistral):
    # The system prompt is gone as soon as the question is answered: it was asked, and would not be learned.
    with pytest.raises(DataError, match=r"'be\\n\\nhi.* became 'hi"):
        rendered(mistral, (SYSTEM, *ONE))
    with pytest.raises(DataError, match="leaves out what is said beside a call"):
        rendered(mistral, SAID_AND_CALL)


def test_smollm2(smollm2):
    injected = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    # Its own system turn: <|im_start|>system\n 19, the sentence 68, <|im_end|>\n 11 = 98 more than ChatML's.
    assert (ChatTemplate.of(smollm2).injected_system(), len(injected)) == (injected, 68)
    assert spans(smollm2, TWO) == [((52 + 98, 64 + 98), (118 + 98, 130 + 98))]
    assert spans(smollm2, (SYSTEM, *ONE)) == [((52 + 32, 64 + 32),)]  # 19 + be 2 + 11
    assert trained(smollm2, CALLS) == [[f"{HERMES}\n{HERMES_OSLO}<|im_end|>", "Both.<|im_end|>"]]
    # The tools take the place of the sentence.
    assert golden(smollm2, CALL)[0].startswith("<|im_start|>system\nYou can call these tools:\n<tools>\n")
    assert trained(smollm2, THOUGHT) == [["<think>\nHm\n</think>\n\nyo<|im_end|>"]]


# --- stop tokens ------------------------------------------------------------------------------------------


def test_a_turn_that_ends_with_two_special_tokens_is_trained_to_the_last(trl_tokenizer):
    both = "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert trained(trl_tokenizer("cohere2"), TWO) == [["yo" + both, "no" + both]]
    call = "<|tool_call_start|>[weather(city='Paris')]<|tool_call_end|><|im_end|>"
    assert trained(trl_tokenizer("lfm2_v2"), CALL) == [[call, "Sun.<|im_end|>"]]
    gemma = '<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|><|tool_response>'
    assert trained(trl_tokenizer("gemma4_v5"), CALL) == [[gemma, "Sun.<turn|>"]]


def test_a_closing_tag_that_is_a_special_token_is_not_the_stop_token(trl_tokenizer):
    tokenizer = trl_tokenizer("qwen2_5")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>"]})
    assert trained(tokenizer, CALL) == [[HERMES + "<|im_end|>", "Sun.<|im_end|>"]]


def test_what_only_ends_the_whole_text_is_not_trained(trl_tokenizer):
    # <|end|>\n ends a turn of Phi-3, <|endoftext|> the text: it would not be there amid a dialogue.
    assert golden(trl_tokenizer("phi3"), TWO, "<|assistant|>") == [
        "<|assistant|>\n«yo<|end|>»\n<|user|>\nand<|end|>\n<|assistant|>\n«no<|end|>»\n<|endoftext|>"
    ]
    # gpt-oss ends the last answer with another token than the others, so each has a text of its own.
    assert trained(trl_tokenizer("gptoss"), TWO) == [
        ["<|channel|>final<|message|>yo<|return|>"], ["<|channel|>final<|message|>no<|return|>"],
    ]  # fmt: skip


@pytest.mark.parametrize("answer", ["yo<|im_end|>", "<|im_end|>", "<|im_end|> <|im_end|>\n"])
def test_stop_tokens_that_the_author_wrote_are_not_the_templates(trl_tokenizer, answer):
    # Once as the thought, once as the answer: the last of all is the template's.
    tokenizer = trl_tokenizer("qwen3")
    (text,), = trained(tokenizer, (ONE[0], assistant(answer, reasoning=answer)))  # fmt: skip
    assert text == f"<think>\n{answer.strip()}\n</think>\n\n{answer}<|im_end|>"


def test_of_several_templates_the_one_for_tools_writes_calls(make_tokenizer):
    # transformers keeps such templates in a dictionary; dialogues without tools take "default".
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = {"default": CHATML, "tool_use": trl_template("qwen3_instruct_2507")}
    assert trained(tokenizer, TWO) == [["yo<|im_end|>", "no<|im_end|>"]]
    assert not ChatTemplate.of(tokenizer).ability.tools.added
    assert "# Tools" in golden(tokenizer, CALL)[0]
