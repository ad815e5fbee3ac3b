"""Small language models with byte-level BPE tokenizers, and stages that leave a random state in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.pipeline import StageContext, StageResult
from posttrain.pipeline.base_models import shared_tokenizer
from posttrain.stages import SFT, RewardModel, TrainingStage
from posttrain.stages.evaluation import logits
from posttrain.stages.handover import Probe, hand_over, load_fresh, save_artifact
from posttrain.stages.strategies import Schedule

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS = {"qwen2": _CASED + r"|\p{N}" + _TAIL, "llama-bpe": _CASED + r"|\p{N}{1,3}" + _TAIL}
_TEXT = [
    "the quick brown fox jumps over a lazy dog while seven green boats drift along quiet river banks",
    "What is the capital of France? Answer in one word. It's 12345 or 678, isn't it? DON'T don't x = [1, 2];",
]


def tokenizer_of(pre: str) -> Any:
    """Trained on a few lines: about 400 tokens, those of the chat template's among them."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS)
    before: list[Any] = []
    if pre in SPLITS:
        before = [pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated")]
    elif pre == "smollm":
        before = [pre_tokenizers.Digits(individual_digits=True)]
    raw.pre_tokenizer = pre_tokenizers.Sequence([*before, level]) if before else level
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        _TEXT * 20, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    )
    if pre == "llama-bpe":
        special = [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ]
        names, template = {"bos_token": special[0], "eos_token": special[1]}, LLAMA3
    else:
        special, names, template = (
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            {"eos_token": "<|im_end|>"},
            CHATML,
        )
    raw.add_special_tokens(special)
    raw.add_tokens([AddedToken("<think>", normalized=False)])  # added, and not special
    if pre == "llama-bpe":
        bos = raw.token_to_id(special[0])
        raw.post_processor = processors.TemplateProcessing(
            single=[special[0], "$A"], pair=[special[0], "$A", "$B"], special_tokens=[(special[0], bos)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|endoftext|>" if pre != "llama-bpe" else "<|end_header_id|>",
        **names,
    )
    made.chat_template = template
    return made


def language_model(folder: Path, kind: str = "Llama", pre: str = "gpt-2", **settings: Any) -> Path:
    """A random one of 2 layers in a folder; kind: Llama, Qwen2, Qwen3, Mistral, as transformers calls them."""
    import torch
    import transformers

    tokenizer = tokenizer_of(pre)
    config = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "tie_word_embeddings": False, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id, **settings,
    }  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**config))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, so that each is missed where it is lost
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class _Shaken(TrainingStage):
    """What the strategy trains is moved at random instead of trained; saved and proven as always."""

    def plan(self, inputs: Any) -> Any:
        return None

    def run(self, context: StageContext) -> StageResult:
        import torch

        source = context.inputs["policy"]
        tokenizer = shared_tokenizer(source.find().folder)
        rows = [tokenizer(text)["input_ids"][:24] for text in _TEXT]
        model = load_fresh(self, source, torch.float32, context.seed, None)
        hooks = self.strategy.hooks(model, Schedule(10, 10))
        torch.manual_seed(context.seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    scale = 0.02 if "vera" in name or "boft" in name or "oft" in name else 0.1
                    parameter += scale * torch.randn_like(parameter)
        pad = int(tokenizer.pad_token_id)
        probe = Probe(rows, pad, logits(model, rows, pad))
        artifact = save_artifact(model, tokenizer, self, source, context.folder, hooks)
        made, _ = hand_over(self, source, artifact, probe, context.events.prove)
        prompts = [
            {"prompt": tokenizer.apply_chat_template([{"role": "user", "content": _TEXT[1]}], tokenize=False)}
        ]
        return StageResult(
            models={self.makes: made},
            samples=prompts if self.makes == "policy" else (),
            proofs=context.events.proofs,
        )


class ShakenSFT(_Shaken, SFT):
    pass


class ShakenReward(_Shaken, RewardModel):
    pass
