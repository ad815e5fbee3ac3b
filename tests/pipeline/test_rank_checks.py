"""What the launcher asks for is looked at before anything is written."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import SFT, Pipeline
from posttrain.errors import LaunchError, SettingError
from posttrain.pipeline.engine import Sharding, check_engine, sharding_of
from posttrain.pipeline.interrupt import StopRequest
from posttrain.pipeline.ranks import Ranks
from posttrain.pipeline.watchdog import Watchdog


@pytest.mark.parametrize(
    ("variable", "engine"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP with fsdp_version=1"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ],
)
def test_other_engines_are_refused(
    tiny: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch, variable: str, engine: str
) -> None:
    pipeline = tiny([SFT()])
    monkeypatch.setenv(variable, "true")
    with pytest.raises(LaunchError, match=f"The launcher asks for {engine}, .*recipes/launch/fsdp2.yaml"):
        pipeline.run()
    assert not pipeline.run_dir.exists()
    monkeypatch.setenv(variable, "false")
    check_engine()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FSDP_RESHARD_AFTER_FORWARD", "FULL_SHARD"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true"),
        ("FSDP_OFFLOAD_PARAMS", "true"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true"),
        ("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP"),
        ("FSDP_TRANSFORMER_CLS_TO_WRAP", "LlamaDecoderLayer"),
        ("FSDP_IGNORED_MODULES", "lm_head"),
    ],
)
def test_settings_of_fsdp_that_do_not_suit_are_refused(
    tiny: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    pipeline = tiny([SFT()])
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_engine()
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        LaunchError, match=f"asks for FSDP with {variable.lower()}={value}, .*(set it|leave)"
    ) as caught:
        pipeline.run()
    assert "\n" not in str(caught.value)
    assert not pipeline.run_dir.exists()


def test_the_ranks_know_how_the_model_is_divided() -> None:
    asked = {"ACCELERATE_USE_FSDP": "true"}
    assert sharding_of({}) is None
    assert sharding_of(asked) == Sharding(reshard=True)
    assert sharding_of({**asked, "FSDP_RESHARD_AFTER_FORWARD": "false"}) == Sharding(reshard=False)
    assert (Ranks(0, 4).parts, Ranks(0, 4, Sharding()).parts) == (1, 4)


@pytest.mark.parametrize("given", [{"fsdp": "full_shard"}, {"deepspeed": "zero3.json"}])
def test_engines_that_shard_are_refused_in_trainer_args(given: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="this is asked of the launcher"):
        SFT(trainer_args=given)


def test_all_must_see_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ranks, this one is the second; the first has written its lock where this one does not look."""
    monkeypatch.setattr(Ranks, "share", lambda self, value: "lock of the first")
    monkeypatch.setattr(Ranks, "gather", lambda self, value: [("one", True), ("two", value[1])])
    with pytest.raises(
        LaunchError, match=r"The machine two does not see the run folder .* of the machine one"
    ):
        Ranks(1, 2).check_shared(tmp_path)
    (tmp_path / ".lock").write_text("lock of the first")
    Ranks(1, 2).check_shared(tmp_path)


def test_a_signal_that_the_launcher_hands_on_again_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal sends Ctrl-C to the launcher and to its processes, and the launcher sends it to them as well."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    expected: list[tuple[int, float, list[int]]] = [(2, 1.0, []), (2, 6.0, [75]), (1, 1.0, [75])]
    for size, seconds, ends in expected:
        ended.clear()
        with StopRequest(Ranks(0, size)) as stop:
            signal.raise_signal(signal.SIGTERM)
            now[0] += seconds
            signal.raise_signal(signal.SIGINT)
        assert ended == ends
        assert ends or stop.requested == "SIGTERM"


def test_a_rank_without_a_sign_of_life_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank gave its sign and never another; the third left, which is no reason to end."""
    monkeypatch.setattr(Ranks, "barrier", lambda self: None)
    monkeypatch.setattr("posttrain.pipeline.watchdog._EVERY", 0.01)
    monkeypatch.setenv("POSTTRAIN_WATCHDOG", "0.2")
    ended: list[int] = []
    done = threading.Event()

    def end(self: Watchdog, rank: int) -> None:
        ended.append(rank)
        done.set()

    monkeypatch.setattr(Watchdog, "_end", end)
    (tmp_path / ".alive").mkdir()
    for rank in (0, 2):
        (tmp_path / ".alive" / str(rank)).touch()
    with Watchdog(Ranks(1, 3), tmp_path):
        (tmp_path / ".alive" / "2").unlink()
        assert done.wait(20)
    assert set(ended) == {0}
    assert [path.name for path in (tmp_path / ".alive").iterdir()] == ["0"]


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", ""])
def test_a_watchdog_needs_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("POSTTRAIN_WATCHDOG", given)
    with pytest.raises(SettingError, match=r"POSTTRAIN_WATCHDOG=.*number of seconds above 0"):
        Watchdog(Ranks(0, 1), tmp_path)
