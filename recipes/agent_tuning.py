"""Function calling: learn to call declared tools, then to prefer right calls to nearly right ones.

python recipes/agent_tuning.py                               # embedded model, packaged tools of a bicycle shop
python recipes/agent_tuning.py --data calls.jsonl --pairs pairs.jsonl --test unseen.jsonl --model Qwen/Qwen3-1.7B --run-dir runs/mine

Calls are OpenAI messages with `tools`; pairs are prompts with a right and a wrong answer. The packaged held-out rows
call tools that training has not seen, with arguments, names and wordings that it has not seen. The number to look at is
call_match, before and after fine-tuning and at the end: the share of requests with exactly the right calls and arguments.
"""

from posttrain import DPO, SFT, Evaluate, LoRA, Pipeline
from posttrain.cli import run_recipe
from posttrain.recipes import packaged


def agent_tuning(
    model: str = "embedded",
    data: str | None = None,
    pairs: str | None = None,
    test: str | None = None,
    run_dir: str = "runs/agent_tuning",
    seed: int = 0,
) -> Pipeline:
    """Requests at the counter of a bicycle shop, and the tools that serve them."""
    lora = LoRA(r=16)
    return Pipeline(
        [
            SFT(lora, **packaged("calls", data), epochs=1, batch_size=4, learning_rate=1e-3),
            DPO(lora, **packaged("call_pairs", pairs), max_steps=4, batch_size=4, learning_rate=1e-4),
            Evaluate(test or packaged("calls")["eval_data"], name="calls_after_dpo"),
        ],
        model=model,
        run_dir=run_dir,
        seed=seed,
    )


if __name__ == "__main__":
    run_recipe(agent_tuning)
