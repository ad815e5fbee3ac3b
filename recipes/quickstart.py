"""The whole chain on one CPU: continued pretraining, fine-tuning, reward model, reinforcement learning.

python recipes/quickstart.py                               # embedded model, packaged sample data
python recipes/quickstart.py --model Qwen/Qwen3-1.7B --run-dir runs/mine
"""

from posttrain import CPT, PPO, SFT, LoRA, Pipeline, RewardModel
from posttrain.cli import run_recipe


def quickstart(model: str = "embedded", run_dir: str = "runs/quickstart", seed: int = 0) -> Pipeline:
    """The sample data's made-up bicycle shop: its facts, its tone, and which answers its customers prefer."""
    lora = LoRA(r=16)
    return Pipeline(
        [
            CPT(lora, max_steps=4, learning_rate=1e-3),
            SFT(lora, max_steps=6, learning_rate=1e-3),
            RewardModel(lora, max_steps=8, batch_size=4, learning_rate=5e-4),
            PPO(
                lora, max_steps=7, batch_size=8, learning_rate=1.5e-3, max_new_tokens=32, max_length=256,
                kl_coef=0.03, critic="shared", num_generations=4,
                trainer_args={
                    "num_mini_batches": 2, "num_ppo_epochs": 1, "lam": 1.0, "temperature": 0.7, "scale_rewards": True,
                    "missing_eos_penalty": 1.5, "lr_scheduler_type": "linear", "critic_learning_rate": 1e-3,
                },
            ),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )  # fmt: skip


if __name__ == "__main__":
    run_recipe(quickstart)
