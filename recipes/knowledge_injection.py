"""New knowledge: read documents until they are known by heart, then learn to answer questions about them.

python recipes/knowledge_injection.py                               # embedded model, packaged facts about ten bikes
python recipes/knowledge_injection.py --data handbook.txt --questions faq.csv --model Qwen/Qwen3-1.7B --run-dir runs/mine

The packaged documents say four invented facts about each of ten bikes, every fact in several wordings: a fact that is
read in one wording alone is not found again by another. The questions are about eight of the bikes. Held out are other
wordings of the questions, about all ten: what is right about the last two was learned from the documents alone.
The number to look at is exact_match, before and after.
"""

from posttrain import CPT, SFT, LoRA, Pipeline
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def knowledge_injection(
    model: str = "embedded",
    data: str | None = None,
    questions: str | None = None,
    run_dir: str = "runs/knowledge_injection",
    seed: int = 0,
) -> Pipeline:
    """Colour, year, home town and keeper of the bikes that a workshop has given names."""
    lora = LoRA(r=32)
    return Pipeline(
        [
            CPT(lora, **packaged("knowledge_texts", data), epochs=3, learning_rate=1e-3),
            SFT(lora, **packaged("knowledge_questions", questions), epochs=2, learning_rate=5e-4),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(knowledge_injection)
