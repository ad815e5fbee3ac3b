"""Nothing is lost by going through us: the same losses as plain TRL on the same rows, seed and settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain import SFT, LoRA, Pipeline
from posttrain.pipeline.pipeline import stage_seed


def test_sft_losses_equal_plain_trl(
    tiny: Callable[..., Pipeline], rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The reference knows nothing of our tables: it renders, tokenises and masks the same rows in three lines.

    (TRL's own masking of chat rows trains the newline behind the stop token too; we do not. Dropout would be drawn for
    other shapes, because ours computes no padding.)
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    eval_rows, train_rows = rows["chat"][:4], rows["chat"][4:]
    stage = SFT(
        LoRA(r=4, alpha=8, target_modules=("q_proj", "v_proj")), data=train_rows, eval_data=eval_rows,
        epochs=2, batch_size=4, gradient_accumulation=2, learning_rate=1e-3, trainer_args={"warmup_steps": 2},
    )  # fmt: skip
    run = tiny([stage], seed=7).run()
    ours = [line["loss"] for line in run["sft"].history]

    folder = run.start.find().folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = []
    for row in train_rows:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        prompt = tokenizer.apply_chat_template(
            row["messages"][:-1], tokenize=False, add_generation_prompt=True
        )
        head, answer, tail = (tokenizer(part)["input_ids"] for part in (prompt, text[len(prompt) : -1], "\n"))
        ids = head + answer + tail
        tokens.append({"input_ids": ids, "labels": [-100] * len(head) + answer + [-100]})
    dataset = Dataset.from_list(tokens)
    config = SFTConfig(
        output_dir=str(tmp_path / "plain"), seed=stage_seed(7, "sft"), num_train_epochs=2, learning_rate=1e-3,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, warmup_steps=2, logging_steps=1, bf16=False,
        use_cpu=True, gradient_checkpointing=False, report_to="none", save_strategy="no", max_length=1024,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder), args=config, train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(ours) == len(theirs) == 8
    worst = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    assert worst <= 1e-5, (ours, theirs)
