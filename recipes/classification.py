"""Text classification, both ways: a head with one score per class, and a model that writes the label.

python recipes/classification.py                               # embedded model, packaged messages to a bicycle shop
python recipes/classification.py --data messages.csv --model Qwen/Qwen3-1.7B --run-dir runs/mine

Rows are {"text", "label"}. Both stages start from the same model, as a Classifier leaves the policy as it is. A head is
smaller and says how sure it is; a model that writes is served like any other. The packaged held-out messages are worded
as none of those trained on. The number to look at is accuracy, before and after.
"""

from posttrain import SFT, Classifier, LoRA, Pipeline
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def classification(
    model: str = "embedded", data: str | None = None, run_dir: str = "runs/classification", seed: int = 0
) -> Pipeline:
    """Why somebody writes to the shop: to ask for something, to complain, or to praise."""
    lora = LoRA(r=16)
    return Pipeline(
        [
            Classifier(lora, **packaged("classification", data), epochs=3, batch_size=8, learning_rate=1e-3),
            SFT(lora, **packaged("classification", data), epochs=4, batch_size=8, learning_rate=1e-3),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(classification)
