"""Information extraction: read a sentence, write what it names as JSON.

python recipes/extraction.py                               # embedded model, packaged notes of a bicycle workshop
python recipes/extraction.py --data notes.jsonl --model Qwen/Qwen3-1.7B --run-dir runs/mine

Rows are {"text", "spans": [{"start", "end", "label"}]}, or {"text", "records": [{...}]} for any fields. The packaged
held-out notes share no wording, no customer, no part and no month with those trained on. The number to look at is f1
of the spans, before and after.
"""

from posttrain import SFT, LoRA, Pipeline
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def extraction(
    model: str = "embedded", data: str | None = None, run_dir: str = "runs/extraction", seed: int = 0
) -> Pipeline:
    """Who asked for what, and for when: the notes of a workshop as JSON."""
    lora = LoRA(r=16)
    return Pipeline(
        [SFT(lora, **packaged("extraction", data), max_steps=8, learning_rate=1e-3)],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(extraction)
