"""The one module that knows TRL: what it reads from TRL's source is what TRL has."""

import dataclasses

import pytest

from posttrain.stages.trl_api import _FIXED, _OURS, config_fields


@pytest.mark.parametrize(
    ("kind", "name"), [("sft", "SFTConfig"), ("reward", "RewardConfig"), ("dpo", "DPOConfig")]
)
def test_fields_read_from_source_are_the_dataclass_fields(kind: str, name: str) -> None:
    import trl

    real = {field.name for field in dataclasses.fields(getattr(trl, name))}
    assert set(config_fields(kind)) == real  # type: ignore[arg-type]
    assert len(real) > 100


def test_refused_names_exist_in_some_config() -> None:
    every = {name for kind in ("sft", "reward", "dpo") for name in config_fields(kind)}  # type: ignore[arg-type]
    assert not [name for name in (*_OURS, *_FIXED) if name not in every]
