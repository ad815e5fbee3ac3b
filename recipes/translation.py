"""Translation: short German sentences in English.

python recipes/translation.py                               # embedded model, packaged sentences of a bicycle shop
python recipes/translation.py --data sentences.jsonl --model Qwen/Qwen3-1.7B --run-dir runs/mine

Rows are {"translation": {"German": ..., "English": ...}}, any two languages, or {"source", "target"}. The packaged
held-out sentences are built in ways that training has not seen, of words that it has: nobody translates a word that
nobody taught. The number to look at is chrf (0 to 100), before and after; it needs `pip install sacrebleu`.
"""

from posttrain import SFT, LoRA, Pipeline
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def translation(
    model: str = "embedded", data: str | None = None, run_dir: str = "runs/translation", seed: int = 0
) -> Pipeline:
    """What customers from Germany say at the counter of a bicycle shop."""
    lora = LoRA(r=16)
    return Pipeline(
        [SFT(lora, **packaged("translation", data), max_steps=16, learning_rate=1e-3)],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(translation)
