"""Reasoning with a reward that can be checked: learn to answer, then find out by practice which way of answering is right.

python recipes/reasoning.py                               # embedded model, packaged questions about days of the week
python recipes/reasoning.py --data problems.jsonl --test problems_test.jsonl --model Qwen/Qwen3-1.7B --run-dir runs/mine

Rows are {"question", "answer"}, with the result behind "####" as GSM8K has it. In one of four packaged answers the days
are counted, the others say the last one at once, as people do, and so does the fine-tuned model: mostly wrong. Practice is
told only whether the result was right. Held out are other days and distances in other words. The number to look at is
exact_match: before and after fine-tuning, and after practice.
"""

from posttrain import GRPO, SFT, Evaluate, LoRA, Pipeline, accuracy_reward
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def reasoning(
    model: str = "embedded", data: str | None = None, test: str | None = None, run_dir: str = "runs/reasoning",
    steps: int = 10, seed: int = 0,
) -> Pipeline:  # fmt: skip
    """On which day of the week something will be ready."""
    lora, rows = LoRA(r=16), packaged("days", data)
    asked = test or packaged("days")["eval_data"]
    return Pipeline(
        [
            SFT(lora, **rows, epochs=2, batch_size=8, learning_rate=1e-3),
            GRPO(
                lora, reward=accuracy_reward, **rows, max_steps=steps, batch_size=32, num_generations=8,
                learning_rate=5e-4, max_new_tokens=32,
            ),
            Evaluate(asked, name="after_practice"),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )  # fmt: skip


if __name__ == "__main__":
    run_recipe(reasoning)
