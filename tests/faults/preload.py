"""What the fork server does before it forks: it imports and makes once whatever every case would pay for again."""

import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.dont_write_bytecode = True  # or a late import would write a file in one case and not in the next

import torch  # noqa: E402

import posttrain.stages.samples  # noqa: E402
from posttrain.stages.training_stage import TrainingStage  # noqa: E402
from tests.faults.chain import Chain  # noqa: E402
from tests.stages.small_models import llama  # noqa: E402

posttrain.stages.samples._NEW_TOKENS = 8
TrainingStage.checks_forgetting = False  # it writes nothing, and takes a quarter of a second
torch.set_num_threads(1)  # a pool of threads would not survive the fork

with tempfile.TemporaryDirectory() as folder:
    model, run = Path(folder) / "model", Path(folder) / "run"
    model.mkdir()
    os.environ["POSTTRAIN_CACHE"] = f"{folder}/cache"
    chain = Chain(llama(model), Path(folder) / "cache")
    chain.pipeline(run, "reward_model").run()
    shutil.copytree(run, f"{run} 2")
    chain.pipeline(run, "dpo").run()
    chain.pipeline(Path(f"{run} 2"), "ppo").run()
    del os.environ["POSTTRAIN_CACHE"]
