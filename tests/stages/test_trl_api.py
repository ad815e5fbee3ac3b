"""The modules that know TRL: what is read from TRL's source is what TRL has."""

import dataclasses

import pytest

from posttrain.stages.trl_api import _FIXED, _OURS, _SAMPLING, config_fields
from posttrain.stages.trl_trainers import CONFIGS, TrainerKind, config_class


@pytest.mark.parametrize("kind", CONFIGS)
def test_fields_read_from_source_are_the_dataclass_fields(kind: TrainerKind) -> None:
    real = {field.name for field in dataclasses.fields(config_class(kind))}
    assert set(config_fields(kind)) == real
    assert len(real) > 100


def test_refused_names_exist_in_some_config() -> None:
    every = {name for kind in CONFIGS for name in config_fields(kind)}
    assert not [name for name in (*_OURS, *_FIXED, *_SAMPLING) if name not in every]
