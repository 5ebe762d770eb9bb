#!/usr/bin/env bash
# Trains on the GPUs of one machine that CUDA_VISIBLE_DEVICES names, else on all, in one process; goes
# on where it stopped.
#
#   [CUDA_VISIBLE_DEVICES=0,1] launch/gpu.sh [--dry_run] --config=arithmetic [--config.KEY=VALUE ...]
#
# --dry_run prints every command and runs none. A batch is divided among the GPUs; name another mesh
# with --config.mesh.KEY=N (docs/scaling.md). SIGTERM and Ctrl-C reach the run, which saves and leaves.
set -euo pipefail

dry=
run() { if [[ -n "$dry" ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }
[[ "${1:-}" != --dry_run ]] || { dry=1 && shift; }
[[ " $*" != *" --dry_run"* ]] || { echo "launch/gpu.sh: --dry_run goes first" >&2 && exit 2; }

gpus=
if [[ " $*" == *" --config.mesh."* ]]; then
  : # as it is named
elif [[ -n "${CUDA_VISIBLE_DEVICES:-}" ]]; then
  gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
elif command -v nvidia-smi >/dev/null; then
  if ! found=$(nvidia-smi --list-gpus) || ! gpus=$(grep -c ^GPU <<<"$found"); then
    echo "launch/gpu.sh: nvidia-smi lists no GPU: $found" >&2 && exit 2
  fi
elif [[ -n "$dry" ]]; then
  gpus=1
else
  echo "launch/gpu.sh: there is no nvidia-smi to count GPUs: name them in CUDA_VISIBLE_DEVICES" >&2
  exit 2
fi
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/sequencematch/jax}"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda}" # or where CUDA does not start jax would train on the CPU
[[ -n "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ]] || export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-0.9}"
[[ -z "$gpus" ]] || set -- --config.mesh.data="$gpus" "$@"
run exec python -m sequencematch.main --cluster=none --resume "$@"
