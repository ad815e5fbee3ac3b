import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from posttrain.data_formats import Call, Conversation, Message
from posttrain.data_formats.tokens.encoders import ENCODERS, Work
from posttrain.data_formats.tokens.handover import pack, packed_tokenizer, unpack

ROOT = Path(__file__).resolve().parents[3]
PLAIN = Conversation("a:1", (Message("user", "Hello"), Message("assistant", "Good day é")))
CALLS = Conversation("a:2", (Message("user", "Hi"), Message("assistant", "", calls=(Call("f", {"a": 1}),))))


def learned(tokenizer: Any) -> Work:
    work = Work(tokenizer)
    text = ENCODERS["conversation"].render(work, PLAIN).rendered[0].text
    encoder = work.encoder([text])
    assert encoder.bytes is not None
    return work


def test_a_work_goes_on_where_it_was_packed(chatml: Any) -> None:
    packed = packed_tokenizer(chatml)
    assert packed is not None
    work, again = learned(chatml), unpack(pack(learned(chatml), packed))
    render = ENCODERS["conversation"].render
    for example in PLAIN, CALLS:
        assert render(again, example).rendered == render(work, example).rendered
    assert again.to_ids is not None and work.to_ids is not None
    assert again.to_ids.fast.name == work.to_ids.fast.name
    assert again.to_ids.ids(["a text"]).values.tolist() == work.to_ids.ids(["a text"]).values.tolist()
    assert again.notes() == work.notes()


def test_plain_dialogues_need_no_transformers_and_calls_do(chatml: Any, tmp_path: Path) -> None:
    packed = packed_tokenizer(chatml)
    assert packed is not None
    (tmp_path / "work").write_bytes(pack(learned(chatml), packed))
    (tmp_path / "examples").write_bytes(pickle.dumps((PLAIN, CALLS)))
    code = f"""
import pickle, sys
from pathlib import Path
from posttrain.data_formats.tokens.handover import unpack
from posttrain.data_formats.tokens.raw import RawWriter
folder = Path({str(tmp_path)!r})
work = unpack((folder / "work").read_bytes())
for number, example in enumerate(pickle.loads((folder / "examples").read_bytes())):
    RawWriter("conversation", work, folder / str(number)).write([example])
    print("transformers" in sys.modules, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["False False", "True False"], done.stderr


def test_a_tokenizer_that_cannot_be_packed_stays(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.own = lambda text: text
    assert packed_tokenizer(tokenizer) is None
