"""Silence of the libraries underneath: our display and files say what matters, and nothing leaves the machine."""

import logging as python_logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No telemetry, no progress bars and no deprecation notes of transformers, TRL, PEFT and datasets inside."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # On a CPU it says at import which optional kernel it could not load.
    python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)
    with warnings.catch_warnings():
        for library in ("transformers", "trl", "peft", "torch", "bitsandbytes", "accelerate", "tqdm"):
            warnings.filterwarnings(
                "ignore", module=library
            )  # about their own calls; no user can act on them
        # It takes two seconds to load: who wants its bars silent loads it before.
        datasets = sys.modules.get("datasets")
        from huggingface_hub import constants
        from transformers.utils import logging

        constants.HF_HUB_DISABLE_TELEMETRY = (
            True  # it was read when huggingface_hub was imported, perhaps long ago
        )
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        data = None if datasets is None or datasets.are_progress_bars_disabled() else datasets
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if data:
            data.disable_progress_bars()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
            if data:
                data.enable_progress_bars()
