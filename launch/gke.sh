#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a JobSet that XPK makes; is restarted where it stopped.
#
#   CLUSTER=NAME TYPE=v5litepod-16 IMAGE=gcr.io/PROJECT/sequencematch [SLICES=1] [NAME=run] \
#     launch/gke.sh [--dry_run] --config=arithmetic --config.mesh.data=16 --workdir=/shared/run
#
# --dry_run prints every command and runs none. The image has this package with the extra `tpu`, and
# the tree as its folder; the work directory must be on storage that all pods mount. A pod that is
# to go hears SIGTERM: all save and leave, and the JobSet starts them again.
set -euo pipefail

dry=
run() { if [[ -n "$dry" ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }
[[ "${1:-}" != --dry_run ]] || { dry=1 && shift; }
[[ " $*" != *" --dry_run"* ]] || { echo "launch/gke.sh: --dry_run goes first" >&2 && exit 2; }

[[ " $*" == *" --workdir"* ]] || { echo "launch/gke.sh: name --workdir=DIR that all hosts mount" >&2 && exit 2; }
if [[ "${1:-}" != --here ]]; then
  : "${CLUSTER:?is the name of the cluster}" "${TYPE:?is the type of a slice}" "${IMAGE:?is the image}"
  # XPK takes other codes than its own for the end: 75 is a run that saved and left, 69 one that lost a
  # pod. Saving may take longer than its 30 seconds.
  run xpk workload create --cluster="$CLUSTER" --workload="${NAME:-sequencematch}" \
    --tpu-type="$TYPE" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" \
    --max-restarts="${RESTARTS:-20}" --restart-on-exit-codes=69,75 \
    --termination-grace-period-seconds="${GRACE:-180}" \
    --command="exec launch/gke.sh --here $(printf '%q ' "$@")"
  exit
fi
shift
run exec python -m sequencematch.main --resume --wait=1800 "$@" # slices come one after another
