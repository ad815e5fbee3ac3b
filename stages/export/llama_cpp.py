"""The user's own llama.cpp, for GGUF files that are not written here: other models, other quantisations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from posttrain.errors import ExportError, SettingError

CONVERTER = "convert_hf_to_gguf.py"
_QUANTISERS = ("llama-quantize", "build/bin/llama-quantize", "build/bin/Release/llama-quantize")
_CONVERTED = ("f32", "f16", "bf16", "q8_0")  # what the converter itself writes
# What llama-quantize calls its types.
QUANTISATIONS = (
    *_CONVERTED, "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m",
    "q5_k_s", "q5_k_m", "q6_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "iq3_s",
    "iq3_m", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0",
)  # fmt: skip


def check_llama_cpp(checkout: Path, dtype: str) -> None:
    """Raises SettingError for a folder without the converter, or without the quantiser where that is needed."""
    checkout = checkout.expanduser()
    if not (checkout / CONVERTER).is_file():
        raise SettingError(
            f"llama_cpp={str(checkout)!r}: there is no {CONVERTER}; give the folder of a llama.cpp checkout."
        )
    if dtype not in _CONVERTED and _quantiser(checkout) is None:
        raise SettingError(
            f"llama_cpp={str(checkout)!r}: {dtype} needs llama-quantize, which is not there (looked for "
            f"{', '.join(_QUANTISERS)}); build llama.cpp first."
        )


def convert(checkout: Path, merged: Path, target: Path, dtype: str) -> None:
    """Run the converter, and the quantiser where it is needed, over a merged export.

    Raises ExportError with the last line of what failed.
    """
    checkout = checkout.expanduser().resolve()
    direct = dtype in _CONVERTED
    made = target if direct else target.with_name(f"{target.stem}-f16.gguf")
    outtype = dtype if direct else "f16"
    _run([sys.executable, checkout / CONVERTER, merged, "--outfile", made, "--outtype", outtype], made)
    if not direct:
        quantiser = _quantiser(checkout)
        assert quantiser is not None, "check_llama_cpp has looked"
        _run([quantiser, made, target, dtype.upper()], target)
        made.unlink()


def _quantiser(checkout: Path) -> Path | None:
    return next((checkout / name for name in _QUANTISERS if (checkout / name).is_file()), None)


def _run(command: list[str | Path], makes: Path) -> None:
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ExportError(f"{command[0]} could not be started ({error}).") from error
    if done.returncode or not makes.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ExportError(
            f"{Path(str(command[1 if command[0] == sys.executable else 0])).name} of llama.cpp ended with "
            f"{done.returncode} and {'made no file' if not makes.is_file() else 'a file'}: "
            f"{lines[-1] if lines else 'it said nothing'}"
        )
