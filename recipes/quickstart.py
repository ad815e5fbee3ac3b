"""The whole chain on one CPU: continued pretraining, fine-tuning, reward model, preference optimisation.

python recipes/quickstart.py                               # embedded model, packaged sample data
python recipes/quickstart.py --model Qwen/Qwen3-1.7B --run-dir runs/mine
"""

from posttrain import CPT, DPO, SFT, LoRA, Pipeline, RewardModel
from posttrain.cli import run_recipe


def quickstart(model: str = "embedded", run_dir: str = "runs/quickstart", seed: int = 0) -> Pipeline:
    """The sample data's made-up bicycle shop: its facts, its tone, and which answers its customers prefer."""
    lora = LoRA(r=16)
    return Pipeline(
        [
            CPT(lora, max_steps=8, learning_rate=1e-3),
            SFT(lora, max_steps=10, learning_rate=1e-3),
            RewardModel(lora, max_steps=10, batch_size=4, learning_rate=5e-4),
            DPO(lora, max_steps=8, batch_size=4, learning_rate=2e-4),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(quickstart)
