import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "pyarrow", "numpy", "safetensors", "tokenizers", "jinja2")


def test_detecting_and_reading_imports_nothing_heavy():
    # By path hooks of the package alone: `posttrain` itself may import more than this folder does.
    code = (
        "import sys; from posttrain.data_formats import detect, digest, read_examples, sample;"
        "detect(sample('text'), 'text'); digest(sample('text')); read_examples(sample('text'), 'text');"
        "from posttrain.data_formats import encode, TokenTable, DataReport;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
