"""Headers that lie: each is refused in one sentence, from the header alone, before anything is allocated."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ModelError
from posttrain.pipeline.adapters import weights_of
from posttrain.pipeline.model_folder import check_model_folder
from posttrain.pipeline.safetensors_header import fault_of

Header = dict[str, Any]


def tensor(shape: Any = (2,), begin: Any = 0, end: Any = 8, dtype: str = "F32") -> Header:
    return {
        "dtype": dtype,
        "shape": list(shape) if isinstance(shape, tuple) else shape,
        "data_offsets": [begin, end],
    }


def file(header: Header | bytes, data: int = 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + b"\0" * data


GOOD = file({"a": tensor(), "b": tensor((), 8, 12), "__metadata__": {"format": "pt"}}, 12)
HUGE = 2**62
BOMBS: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "an empty header": file(b""),
    "a header of all numbers": file({"a": tensor()}, length=2**64 - 1),
    "a header longer than the file": file({"a": tensor()}, length=10_000),
    "no JSON": file(b"{" * 40),
    "nested JSON": file(b"[" * 100_000),
    "a list": file([]),  # type: ignore[arg-type]
    "a number": file(b"7"),
    "no tensor": file({}, 0),
    "metadata alone": file({"__metadata__": {"format": "pt"}}, 0),
    "metadata that is no text": file({"__metadata__": {"a": {"b": 1}}, "a": tensor()}),
    "a tensor that is a text": file({"a": "F32"}),
    "no offsets": file({"a": {"dtype": "F32", "shape": [2]}}),
    "three offsets": file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}),
    "offsets that are texts": file({"a": tensor(begin="0", end="8")}),
    "an offset below zero": file({"a": tensor(begin=-8, end=0)}),
    "offsets the wrong way": file({"a": tensor(begin=8, end=0)}),
    "an offset that is true": file({"a": tensor((), False, True, "U8")}, 1),
    "an offset that is a fraction": file({"a": tensor(begin=0.0, end=8.0)}),
    "an offset beyond the file": file({"a": tensor((HUGE,), 0, HUGE * 4)}),
    "an offset that is not finite": file(
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, Infinity]}}'
    ),
    "two tensors at one place": file({"a": tensor(), "b": tensor()}),
    "two tensors that overlap": file({"a": tensor(), "b": tensor(begin=4, end=12)}, 12),
    "a gap between two tensors": file({"a": tensor(), "b": tensor(begin=12, end=20)}, 20),
    "bytes behind the last tensor": file({"a": tensor()}, 4096),
    "a file that is cut": file({"a": tensor()}, 4),
    "a huge shape": file({"a": tensor((HUGE, HUGE, HUGE))}),
    "a shape whose product wraps around": file({"a": tensor((2**33, 2**31, 2))}),
    "a shape below zero": file({"a": tensor((-2, -1))}),
    "a shape that is a text": file({"a": tensor("2")}),
    "a thousand dimensions": file({"a": tensor((1,) * 1000 + (2,))}),
    "an unknown type": file({"a": tensor(dtype="O")}),
    "a type that is a list": file({"a": tensor() | {"dtype": ["F32"]}}),
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def test_a_right_file_is_right(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    assert fault_of(tmp_path / "a") is None
    assert fault_of(tiny_folder / "model.safetensors") is None


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    config = {"config.json": '{"architectures": ["LlamaForCausalLM"]}', "tokenizer.json": "{}"}
    for file_name, text in config.items():
        (tmp_path / file_name).write_text(text)
    places: dict[str, Callable[[Path], Any]] = {
        "model.safetensors": check_model_folder,
        "adapter_model.safetensors": weights_of,
    }
    for file_name, check in places.items():
        (tmp_path / file_name).write_bytes(BOMBS[name])
        with pytest.raises(ModelError, match=rf"{file_name} .*; fetch it again\.$") as caught:
            check(tmp_path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
        (tmp_path / file_name).unlink()


def test_a_pointer_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(POINTER)
    with pytest.raises(ModelError, match="git lfs pull"):
        weights_of(tmp_path)


def test_a_header_above_its_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as opened:  # of holes
        opened.write((200_000_000).to_bytes(8, "little"))
        opened.truncate(300_000_000)
    assert "100,000,000 are allowed" in str(fault_of(path))


@pytest.mark.parametrize("name", BOMBS)
def test_the_formats_own_reader_refuses_them_too(tmp_path: Path, name: str) -> None:
    """So that ours is not stricter than it needs to be, but where a model without a tensor would be drawn at random."""
    from safetensors import SafetensorError, safe_open

    (tmp_path / "a").write_bytes(BOMBS[name])
    if name in ("no tensor", "metadata alone", "a thousand dimensions"):
        return
    with pytest.raises((SafetensorError, OSError)), safe_open(tmp_path / "a", "np") as opened:
        opened.keys()
