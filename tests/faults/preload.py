"""What the fork server imports before it forks: everything that a stage needs, and no tensor work."""

import warnings

warnings.filterwarnings("ignore")

import datasets  # noqa: E402
import peft  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402
from trl import DPOTrainer, RewardTrainer, SFTTrainer  # noqa: E402

import posttrain.stages.callbacks  # noqa: E402
from posttrain.stages.forgetting import limits  # noqa: E402
from tests.conftest import SMALL_FORGETTING  # noqa: E402

for name, value in SMALL_FORGETTING.items():  # no fixture reaches a process of its own
    setattr(limits, name, value)

LOADED = (
    datasets, peft, transformers, posttrain, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer,
    DPOTrainer, RewardTrainer, SFTTrainer,
)  # fmt: skip
