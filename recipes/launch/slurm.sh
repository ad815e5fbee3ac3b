#!/bin/bash
# sbatch slurm.sh recipe.yaml [--set model=...]
#
# Run again it goes on where it was. run_dir must be on a file system that all nodes share.
#SBATCH --job-name=posttrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue

set -eu
export MAIN_IP=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export PROCESSES=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))

# Single quotes: each node puts in its own number.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
    --multi_gpu --mixed_precision no \
    --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MAIN_IP" --main_process_port 29500 --rdzv_backend static \
    -m posttrain run "$@"' posttrain "$@"
