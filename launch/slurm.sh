#!/usr/bin/env bash
# Trains on the GPUs of SLURM nodes, one process a GPU; is requeued, and goes on where it stopped.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=8 launch/slurm.sh \
#     --config=arithmetic --config.mesh.data=16
#   sbatch --array=0-4 --gpus-per-node=1 --cpus-per-task=8 launch/slurm.sh --config=arithmetic  # seeds 0 to 4
#   launch/slurm.sh --dry_run --config=arithmetic              # prints every command, runs none
#
# As many tasks as GPUs on a node, and not --gpus-per-task: each task must see all GPUs of its node, of
# which jax takes the one with the task's number. The work directory must be on a file system that all
# nodes share. In an array leave --workdir out: its default names the seed.
#SBATCH --job-name=sequencematch
#SBATCH --output=slurm-%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@180
set -euo pipefail

dry=
run() { if [[ -n "$dry" ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }
[[ "${1:-}" != --dry_run ]] || { dry=1 && shift; }
[[ " $*" != *" --dry_run"* ]] || { echo "launch/slurm.sh: --dry_run goes first" >&2 && exit 2; }

job="${SLURM_JOB_ID:-JOB}"
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  set -- "$@" --config.seed="$SLURM_ARRAY_TASK_ID"
  job="${SLURM_ARRAY_JOB_ID:-JOB}_$SLURM_ARRAY_TASK_ID" # SLURM_JOB_ID may be that of the whole array
fi
[[ -z "${SLURM_CPUS_PER_TASK:-}" ]] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun asks for it

export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/sequencematch/jax}"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda}" # or where CUDA does not start jax would train on the CPUs
[[ -n "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ]] || export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-0.9}"
# USR1, three minutes before the end, goes to the processes of the step: all save and leave with 75.
# (0: the first to leave would otherwise have the others killed, and their exit codes hidden.)
code=0 && run srun --kill-on-bad-exit=0 python -m sequencematch.main --resume "$@" || code=$?
if [[ "$code" == 75 || -n "$dry" ]]; then
  run scontrol requeue "$job"
fi
exit "$code"
