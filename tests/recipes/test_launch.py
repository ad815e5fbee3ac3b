"""The files of recipes/launch start what they say, as accelerate itself reads them."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "recipes" / "launch"


def parsed(words: list[str]) -> Any:
    """The words after `accelerate launch`, as accelerate reads them."""
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser().parse_args(words)


def test_there_are_no_untested_files() -> None:
    assert {path.name for path in LAUNCH.iterdir()} == {
        "ddp.yaml",
        "fsdp2.yaml",
        "zero2.yaml",
        "two_nodes.yaml",
        "slurm.sh",
        "kubernetes.yaml",
    }


@pytest.mark.parametrize(("name", "machines", "processes"), [("ddp", 1, 8), ("two_nodes", 2, 16)])
def test_configs_are_read_by_accelerate(name: str, machines: int, processes: int) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert config.distributed_type == DistributedType.MULTI_GPU
    assert (config.num_machines, config.num_processes, config.machine_rank) == (machines, processes, 0)
    assert config.mixed_precision == "no"
    assert not (getattr(config, "fsdp_config", None) or getattr(config, "deepspeed_config", None))


@pytest.mark.parametrize(("name", "reshard"), [("fsdp2", True), ("zero2", False)])
def test_the_fsdp_configs_give_the_processes_what_the_run_takes(
    monkeypatch: pytest.MonkeyPatch, name: str, reshard: bool
) -> None:
    from accelerate.commands.launch import _validate_launch_command
    from accelerate.utils.launch import prepare_multi_gpu_env

    from posttrain.pipeline.engine import Sharding, check_engine, sharding_of

    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    words = ["--config_file", str(LAUNCH / f"{name}.yaml"), "recipe.py"]
    args, defaults, _ = _validate_launch_command(parsed(words))
    assert (args.use_fsdp, args.multi_gpu, args.num_processes, args.mixed_precision) == (True, False, 8, "no")
    assert defaults.fsdp_config.keys() == {
        key for key in vars(args) if key.startswith("fsdp_") and key in defaults.fsdp_config
    }
    environment = prepare_multi_gpu_env(args)
    for variable, value in environment.items():
        if variable.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(variable, value)
    check_engine()
    assert sharding_of(environment) == Sharding(reshard)


def test_the_slurm_script_starts_one_launcher_on_each_node(tmp_path: Path) -> None:
    """With stand-ins for srun and accelerate that run and print; started on the second of two nodes."""
    shims = {
        "scontrol": "echo node-a; echo node-b",
        "srun": 'test "$1" = --kill-on-bad-exit=1; shift; SLURM_NODEID=1 exec "$@"',
        "accelerate": 'printf "%s\\n" "$@"',
    }
    for name, body in shims.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nset -eu\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(LAUNCH / "slurm.sh"), "a recipe.yaml", "--set", "model=my model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launch, *words = done.stdout.splitlines()
    assert launch == "launch"
    found = parsed(words)
    assert (found.num_machines, found.num_processes, found.machine_rank) == (2, 16, 1)
    assert (found.main_process_ip, found.main_process_port, found.multi_gpu) == ("node-a", 29500, True)
    assert found.module and found.training_script == "posttrain"
    assert found.training_script_args == ["run", "a recipe.yaml", "--set", "model=my model"]


def test_the_kubernetes_job_starts_the_same_command() -> None:
    import yaml

    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["accelerate", "launch"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]]
    found = parsed(words)
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    pods = job["spec"]["completions"]
    assert pods == job["spec"]["parallelism"] == found.num_machines
    assert (found.num_processes, found.machine_rank, found.multi_gpu) == (pods * gpus, 1, True)
    name, domain = found.main_process_ip.split(".")
    assert name == f"{job['metadata']['name']}-0" and domain == service["metadata"]["name"]
    assert job["spec"]["template"]["spec"]["subdomain"] == domain
    assert found.module and [found.training_script, *found.training_script_args] == [
        "posttrain",
        "run",
        "recipe.yaml",
    ]
