"""Your own files: fine-tune on chats, then learn which of two answers is the better one.

python recipes/sft_dpo.py                                  # embedded model, packaged sample data
python recipes/sft_dpo.py --data chats.jsonl --pairs pairs.jsonl --model Qwen/Qwen3-1.7B --run-dir runs/mine

`posttrain inspect chats.jsonl` says beforehand which format a file has and what of it would be trained.
"""

from posttrain import DPO, SFT, LoRA, Pipeline
from posttrain.cli import run_recipe


def sft_dpo(
    model: str = "embedded", data: str | None = None, pairs: str | None = None, run_dir: str = "runs/sft_dpo",
    seed: int = 0,
) -> Pipeline:  # fmt: skip
    """Supervised fine-tuning and preferences, with every setting at its default."""
    lora = LoRA(r=16)
    return Pipeline([SFT(lora, data=data), DPO(lora, data=pairs)], model=model, run_dir=run_dir, seed=seed)


if __name__ == "__main__":
    run_recipe(sft_dpo)
