"""A tone of voice: learn how a customer service speaks, then to prefer that to curt and rude answers.

python recipes/style_tuning.py                               # embedded model, packaged dialogues of a bicycle shop
python recipes/style_tuning.py --data chats.jsonl --pairs pairs.jsonl --prompts asked.jsonl --model Qwen/Qwen3-1.7B

The packaged held-out prompts are about other things than those trained on. The number to look at is `courteous`, the share
of their answers that thank the customer first and offer more help last, before the training and after each stage; and
`neutral_kl_base` of the last stage: what the tone cost the model. Change the rule with the tone that you want.
"""

from posttrain import DPO, SFT, Evaluate, LoRA, Pipeline
from posttrain.cli import run_recipe
from posttrain.recipes import packaged

THANKS, OFFERS = ("thank", "glad", "welcome"), ("anything else", "help", "just ask", "let us know")


def courteous(prompts: list, completions: list[str], **_: object) -> list[float]:
    """1.0 for an answer that begins with thanks and ends with an offer."""
    ends = [(text.lower()[:60], text.lower()[-70:]) for text in completions]
    return [float(any(t in first for t in THANKS) and any(o in last for o in OFFERS)) for first, last in ends]


def style_tuning(
    model: str = "embedded", data: str | None = None, pairs: str | None = None, prompts: str | None = None,
    run_dir: str = "runs/style_tuning", seed: int = 0,
) -> Pipeline:  # fmt: skip
    """The tone of Harbour Lane Cycles: thanks first, then the answer, then an offer of more help."""
    lora = LoRA(r=16)
    held_out = prompts or packaged("tone_prompts")["eval_data"]
    before, between, after = (
        Evaluate(judge=courteous, prompts=held_out, name=f"tone_{when}") for when in ("before", "sft", "dpo")
    )
    sft = SFT(lora, **packaged("tone", data), max_steps=14, learning_rate=1e-3)
    dpo = DPO(
        lora,
        **packaged("tone_pairs", pairs),
        max_steps=4,
        batch_size=4,
        learning_rate=2e-4,
        max_forgetting=0.2,
    )
    return Pipeline([before, sft, between, dpo, after], model=model, run_dir=run_dir, seed=seed)


if __name__ == "__main__":
    run_recipe(style_tuning)
