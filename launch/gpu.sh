#!/usr/bin/env bash
# Trains on all GPUs of one machine, or of GPUS=N of them, in one process; goes on where it stopped.
#
#   [GPUS=4] launch/gpu.sh [--dry_run] --config=arithmetic [--config.KEY=VALUE ...]
#
# --dry_run prints every command and runs none. A batch is divided among the GPUs; name another mesh
# with --config.mesh.KEY=N (docs/scaling.md). SIGTERM and Ctrl-C reach the run, which saves and leaves.
set -euo pipefail

dry=
run() { if [[ -n "$dry" ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }
if [[ "${1:-}" == --dry_run ]]; then
  dry=1
  shift
fi

gpus="${GPUS:-$(nvidia-smi --list-gpus | wc -l)}"
run exec python -m sequencematch.main --cluster=none --resume --config.mesh.data="$gpus" "$@"
