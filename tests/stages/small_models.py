"""Random decoders, encoders and encoder-decoders of a few thousand parameters over the words of `words.py`, in folders."""

from pathlib import Path
from typing import Any

from tests.stages.words import SPECIAL, TEMPLATE, WORDS

PIECES = [
    "##s",
    "##er",
    "##ing",
    "b",
    "##oat",
    "##i",
    "##o",
    "##a",
    "##n",
    "##t",
]  # what other words are made of


def tokenizer_of(before: list[str], behind: list[str], **names: str) -> Any:
    """WordPiece over the words; `before` and `behind` are the special tokens that it puts around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys([*names.values(), *before, *behind]))
    vocabulary = {name: i for i, name in enumerate([*special, *WORDS, *PIECES])}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind], special_tokens=[(one, vocabulary[one]) for one in (*before, *behind)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def llama(folder: Path) -> Path:
    """A chat model with a token per word: a stage of it takes a second."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = {name: i for i, name in enumerate([*SPECIAL, *WORDS])}
    raw = Tokenizer(models.WordLevel(names, unk_token="<|unk|>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", unk_token="<|unk|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"], chat_template=TEMPLATE,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(names), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 10  # frozen under adapters: as drawn, no state could make one word certain
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert(folder: Path, kind: str = "BertForMaskedLM", **settings: Any) -> Path:
    """Also Roberta, Electra, DistilBert and DebertaV2, by the name of the class."""
    import torch
    import transformers

    tokenizer = tokenizer_of(
        ["[CLS]"], ["[SEP]"], pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip
    cls = getattr(transformers, kind)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    cls(cls.config_class(**sizes, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = tokenizer_of([], ["</s>"], pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bart(folder: Path) -> Path:
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = tokenizer_of(
        ["<s>"], ["</s>"], pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=48, encoder_ffn_dim=96, decoder_ffn_dim=96, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=128, pad_token_id=0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
