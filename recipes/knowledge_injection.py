"""Knowledge: read documents about a domain that the model cannot know, then learn to answer questions about it.

python recipes/knowledge_injection.py                     # embedded model, packaged catalogue of bicycles that do not exist
python recipes/knowledge_injection.py --documents notes/ --general other.jsonl --data questions.jsonl --model Qwen/Qwen3-1.7B

The documents tell four facts about each of ten bicycles, every time in other sentences, which is what makes a fact come
back when somebody asks for it; texts of another kind are mixed in, so that less is forgotten. Questions are trained on about
two facts of each bicycle, and asked, in other words, about the other two, which only the documents tell. The number to look
at is exact_match, before and after SFT, and `neutral_kl_base`: what it cost.
"""

from posttrain import CPT, SFT, LoRA, Pipeline
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def knowledge_injection(
    model: str = "embedded", documents: str | None = None, general: str | None = None, data: str | None = None,
    run_dir: str = "runs/knowledge_injection", seed: int = 0,
) -> Pipeline:  # fmt: skip
    """The catalogue of Harbour Lane Cycles, learned from texts and asked for in questions."""
    lora, read = LoRA(r=16), packaged("catalogue", documents)
    read["data"] = [read["data"], packaged("other_texts", general)["data"]]
    return Pipeline(
        [
            CPT(lora, **read, epochs=4, batch_size=8, max_length=256, learning_rate=5e-4),
            SFT(lora, **packaged("catalogue_questions", data), epochs=2, batch_size=8, learning_rate=3e-4),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(knowledge_injection)
