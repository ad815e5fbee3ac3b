"""Reasoning with a reward that can be checked: learn to show the way, then practise until the results are right.

python recipes/reasoning.py                               # embedded model, packaged word problems
python recipes/reasoning.py --data problems.jsonl --test problems_test.jsonl --model Qwen/Qwen3-1.7B --run-dir runs/mine

Rows are {"question", "answer"}, with the result behind "####" as GSM8K has it. Fine-tuning sees few of them, once;
practice answers them all, and is told only whether the result was right. The packaged held-out problems are worded in
other ways. The number to look at is exact_match: before and after fine-tuning, and after practice.
"""

from posttrain import GRPO, SFT, Evaluate, LoRA, Pipeline, accuracy_reward
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def reasoning(
    model: str = "embedded", data: str | None = None, test: str | None = None, run_dir: str = "runs/reasoning",
    sft_steps: int = 12, steps: int = 20, seed: int = 0,
) -> Pipeline:  # fmt: skip
    """Additions and subtractions at the counter of a bicycle shop."""
    lora, rows = LoRA(r=16), packaged("sums", data)
    asked = test or packaged("sums")["eval_data"]
    return Pipeline(
        [
            SFT(lora, **rows, max_steps=sft_steps, learning_rate=1e-3),
            GRPO(
                lora, reward=accuracy_reward, **rows, max_steps=steps, batch_size=32, num_generations=8,
                learning_rate=3e-4, max_new_tokens=24,
            ),
            Evaluate(asked, name="after_practice"),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )  # fmt: skip


if __name__ == "__main__":
    run_recipe(reasoning)
