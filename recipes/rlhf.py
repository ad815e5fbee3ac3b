"""Reinforcement learning from human feedback on one CPU: fine-tune, learn what is preferred, optimise for it with PPO.

python recipes/rlhf.py                               # embedded model, packaged sample data
python recipes/rlhf.py --model Qwen/Qwen3-1.7B --run-dir runs/mine
python recipes/rlhf.py --method dpo --run-dir runs/dpo && posttrain compare runs/rlhf runs/dpo

With `--method dpo` or `kto` the same pairs are learned from without sampling. The last stage has the reward model compare
the answers with those of the fine-tuned model, so that the ways stand side by side.
"""

from typing import Literal

from posttrain import DPO, KTO, PPO, SFT, Evaluate, LoRA, Pipeline, RewardModel
from posttrain.cli import run_recipe


def rlhf(
    model: str = "embedded", run_dir: str = "runs/rlhf", seed: int = 0, method: Literal["ppo", "dpo", "kto"] = "ppo"
) -> Pipeline:  # fmt: skip
    """The sample data's bicycle shop: answers as its customers prefer them, without leaving the language learned."""
    lora = LoRA(r=16)
    ways = {
        "ppo": PPO(
            lora, max_steps=12, batch_size=8, learning_rate=1e-3, max_new_tokens=48, max_length=256,
            kl_coef=0.05, critic="shared", num_generations=4,
            trainer_args={
                "num_mini_batches": 2, "num_ppo_epochs": 1, "lam": 1.0, "temperature": 0.7, "scale_rewards": True,
                "missing_eos_penalty": 1.0, "lr_scheduler_type": "linear", "critic_learning_rate": 1e-3,
            },
        ),
        "dpo": DPO(lora, max_steps=10, batch_size=8, learning_rate=2e-4),
        "kto": KTO(lora, max_steps=10, batch_size=16, learning_rate=2e-4),
    }  # fmt: skip
    return Pipeline(
        [
            SFT(lora, max_steps=8, learning_rate=1e-3),
            RewardModel(lora, max_steps=24, batch_size=4, learning_rate=5e-4),
            ways[method],
            Evaluate(against="sft", max_new_tokens=48),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(rlhf)
