"""The trained tokens are exactly the trained characters: for any dialogue, and proven row by row."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data_formats import encode, read_examples
from posttrain.errors import DataError
from tests.data_formats.chat_templates import CHATML, LLAMA3, MISTRAL, SPECIAL

CONTENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() and not any(token in text for token in SPECIAL)
)
DIALOGUE = st.tuples(
    st.lists(st.tuples(CONTENT, CONTENT, st.booleans()), min_size=1, max_size=3), st.none() | CONTENT
).filter(lambda drawn: any(loss for _, _, loss in drawn[0]))
RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def rows_of(drawn):
    turns, system = drawn
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answer, loss in turns:
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer, "loss": loss},
        ]
    return [{"messages": messages}]


def encoded(rows, tokenizer, kind="conversation", max_length=10_000):
    return encode(read_examples(rows, kind), tokenizer, max_length=max_length, overlong="error").table


def trained_runs(row):
    """Each unbroken run of trained tokens."""
    runs, before = [], False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        if label == token:
            runs = [*runs, [token]] if not before else [*runs[:-1], [*runs[-1], token]]
        before = label == token
    return runs


def read_back(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@RELAXED
@given(drawn=DIALOGUE)
def test_chatml_trains_the_answers_and_their_stop_tokens(chatml, drawn):
    row = encoded(rows_of(drawn), chatml).row(0)
    runs = [read_back(chatml, run) for run in trained_runs(row)]
    assert runs == [answer + "<|im_end|>" for _, answer, loss in drawn[0] if loss]
    messages = [{k: v for k, v in m.items() if k != "loss"} for m in rows_of(drawn)[0]["messages"]]
    assert read_back(chatml, row["input_ids"]) == chatml.apply_chat_template(messages, tokenize=False)


@RELAXED
@given(drawn=DIALOGUE)
def test_llama3_trains_the_trimmed_answers(make_tokenizer, drawn):
    tokenizer = make_tokenizer(LLAMA3, eos="<|eot_id|>")
    row = encoded(rows_of(drawn), tokenizer).row(0)
    runs = [read_back(tokenizer, run) for run in trained_runs(row)]
    assert runs == [answer.strip() + "<|eot_id|>" for _, answer, loss in drawn[0] if loss]


@RELAXED
@given(drawn=DIALOGUE)
def test_mistral_trains_the_answers_and_their_stop_tokens(make_tokenizer, drawn):
    tokenizer = make_tokenizer(MISTRAL, eos="</s>")
    row = encoded(rows_of((drawn[0], None)), tokenizer).row(0)
    runs = [read_back(tokenizer, run) for run in trained_runs(row)]
    assert runs == [" " + answer + "</s>" for _, answer, loss in drawn[0] if loss]


@RELAXED
@given(asked=CONTENT, chosen=CONTENT, rejected=CONTENT)
def test_prompt_and_answer_of_a_pair_are_the_whole_dialogue(chatml, asked, chosen, rejected):
    if chosen == rejected:
        rejected += "!"
    prompt = [{"role": "user", "content": asked}]
    answers = {"chosen": chosen, "rejected": rejected}
    row = {name: [{"role": "assistant", "content": answer}] for name, answer in answers.items()}
    ids = encoded([{"prompt": prompt, **row}], chatml, "preference").row(0)
    for name, answer in answers.items():
        whole = chatml.apply_chat_template([*prompt, *row[name]], tokenize=False).removesuffix("\n")
        assert ids["prompt_ids"] + ids[f"{name}_ids"] == chatml(whole)["input_ids"]
        assert read_back(chatml, ids[f"{name}_ids"]) == answer + "<|im_end|>"


CHAT = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\nyo"}]}]


def test_exact_labels_of_a_dialogue(untemplated):
    row = encoded([{"prompt": "hi", "completion": "hello world"}], untemplated).row(0)
    prompt, answer = untemplated("hi")["input_ids"], untemplated("hello world<|im_end|>")["input_ids"]
    assert row == {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
    assert answer[-1] == untemplated.convert_tokens_to_ids("<|im_end|>") == 2


def test_a_token_across_the_border_is_an_error_with_its_place(make_tokenizer):
    from tokenizers import Regex, pre_tokenizers

    def join_newlines(backend):
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\n+|[^\n]+"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    # With a token for two newlines, "assistant\n" + "\nyo" has no border where the answer begins.
    tokenizer = make_tokenizer(CHATML, more=("a\n\nb",) * 3, prepare=join_newlines)
    tokenizer.add_tokens(["\n\n"])
    with pytest.raises(DataError) as error:
        encoded(CHAT, tokenizer)
    assert str(error.value).startswith(r"rows[0]: the token '\n\n' crosses the border between")
    assert read_back(tokenizer, tokenizer("\n\n")["input_ids"]) == "\n\n"


def test_a_prompt_that_becomes_other_tokens_before_each_answer_is_an_error(make_tokenizer):
    # GPT-2's rule leaves the last white space to the next word: "\n\n" + "y" splits into \n \n y,
    # "\n\n" + "\ny" into \n\n \n y. Every border is clean, and still the prompts differ.
    tokenizer = make_tokenizer(None, more=("a\n\n\nb",) * 3)
    assert len(tokenizer("\n\n\ny")["input_ids"]) == len(tokenizer("\n\ny")["input_ids"]) == 3
    with pytest.raises(DataError, match=r"rows\[0\]: the prompt becomes other tokens"):
        encoded([{"prompt": "z\n\n", "chosen": "y", "rejected": "\ny"}], tokenizer, "preference")


def test_trimmed_offsets_cannot_hide_a_token_across_the_border(make_tokenizer):
    from tokenizers import processors

    def trim(backend):
        backend.post_processor = processors.ByteLevel(trim_offsets=True)

    tokenizer = make_tokenizer(None, prepare=trim)
    ids = tokenizer("is two", return_offsets_mapping=True)
    # " two" is one token, and its offsets leave the space out: they alone would call the border clean.
    assert (tokenizer.convert_ids_to_tokens(ids["input_ids"])[-1], ids["offset_mapping"][-1]) == (
        "Ġtwo",
        (3, 6),
    )
    with pytest.raises(
        DataError, match=r"rows\[0\]: the trained tokens read ' two<\|im_end\|>' and the answer is 'two"
    ):
        encoded([{"prompt": "the answer is ", "completion": "two"}], tokenizer)


def test_a_special_token_may_swallow_the_white_space_behind_it(make_tokenizer):
    from tokenizers import AddedToken

    tokenizer = make_tokenizer(CHATML)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|end|>", rstrip=True, special=True)]}
    )
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "<|end|>")
    row = encoded(
        [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}], tokenizer
    )
    assert [read_back(tokenizer, run) for run in trained_runs(row.row(0))] == ["yo<|end|>"]


def test_a_tokenizer_that_loses_characters_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "hi": 1, "yo": 2, "</s>": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>")
    # It keeps no white space, which is no harm; a word it does not know is one.
    table = encoded([{"prompt": "hi ", "completion": "yo"}], tokenizer)
    assert table.row(0) == {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}
    with pytest.raises(DataError, match=r"rows\[1\]: the trained tokens read"):
        encoded([{"prompt": "hi ", "completion": "yo"}, {"prompt": "hi ", "completion": "ho"}], tokenizer)


def test_a_tokenizer_that_composes_characters_says_the_same(make_tokenizer):
    from tokenizers import normalizers

    def compose(backend):
        backend.normalizer = normalizers.NFC()

    row = encoded([{"prompt": "hi ", "completion": "cafe\u0301"}], make_tokenizer(None, prepare=compose)).row(
        0
    )
    assert row["labels"][-3:-1] == make_tokenizer()("\u00e9")["input_ids"]


def test_an_end_token_that_the_author_wrote_is_not_doubled(untemplated):
    rows = [{"prompt": "hi ", "completion": answer} for answer in ("yo", "yo<|im_end|>")]
    table = encoded(rows, untemplated)
    assert table.row(0) == table.row(1)


def test_a_tokenizer_without_offsets_is_refused(chatml):
    class Slow:
        is_fast, name_or_path, eos_token = False, "old", "</s>"
        bos_token_id, bos_token, chat_template = None, None, None

        def __call__(self, text, **settings):
            return {"input_ids": [1] if isinstance(text, str) else [[1]]}

    with pytest.raises(DataError, match="'old' gives no offsets"):
        encoded([{"prompt": "hi ", "completion": "yo"}], Slow())


@pytest.mark.parametrize("kind", ["chat", "plain", "text"])
def test_the_start_token_stands_once(make_tokenizer, kind):
    from tokenizers import processors

    def prepend(backend):
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 3)]
        )

    tokenizer = make_tokenizer(
        None if kind == "plain" else LLAMA3, eos="<|eot_id|>", bos="<|begin_of_text|>", prepare=prepend
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id == 3
    rows = {
        "chat": [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}],
        "plain": [
            {"prompt": "hi ", "completion": "yo"},
            {"prompt": "<|begin_of_text|>hi ", "completion": "yo"},
        ],
        "text": [{"text": "hi"}, {"text": "<|begin_of_text|>hi"}],
    }[kind]
    table = encoded(rows, tokenizer, "text" if kind == "text" else "conversation")
    for i in range(len(rows)):
        assert table.row(i)["input_ids"].count(3) == 1
        assert table.row(i)["input_ids"][0] == 3


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_a_tokenizer_that_drops_leading_spaces_is_proven_too(scheme):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # The SentencePiece family (Llama 2, Mistral, Gemma): a space is part of the word behind it.
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.train_from_iterator(
        ["hi yo and no"] * 3,
        trainers.BpeTrainer(special_tokens=SPECIAL, vocab_size=80, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = MISTRAL
    rows = rows_of(([("hi", "yo", True), ("and", "no", True)], None))
    row = encoded(rows, tokenizer).row(0)
    assert [tokenizer.convert_ids_to_tokens(run) for run in trained_runs(row)] == [
        ["▁yo", "</s>"],
        ["▁no", "</s>"],
    ]
