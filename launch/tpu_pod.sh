#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice: makes it if it is missing, installs this tree, and runs.
#
#   TPU=NAME ZONE=us-central2-b TYPE=v4-32 launch/tpu_pod.sh [--dry_run] \
#     --config=arithmetic --config.mesh.data=16 --workdir=/shared/run
#
# --dry_run prints every command and runs none. The work directory must be on a file system that all
# hosts mount, such as Filestore. The same command goes on where a run stopped: it makes a slice anew that
# was taken away, as those of SPOT=1 may be, and starts one of one host that was stopped. VERSION names
# another image. It costs money until: gcloud compute tpus tpu-vm delete NAME --zone=ZONE
set -euo pipefail

dry=
run() { if [[ -n "$dry" ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }
[[ "${1:-}" != --dry_run ]] || { dry=1 && shift; }
[[ " $*" != *" --dry_run"* ]] || { echo "launch/tpu_pod.sh: --dry_run goes first" >&2 && exit 2; }
cd "$(dirname "$0")/.."
[[ " $*" == *" --workdir"* ]] || { echo "launch/tpu_pod.sh: name --workdir=DIR that all hosts mount" >&2 && exit 2; }

if [[ "${1:-}" != --here ]]; then
  : "${TPU:?is the name of the slice}" "${ZONE:?is its zone}" "${TYPE:?is its type, such as v4-32}"
  tpu() { run gcloud compute tpus tpu-vm "$1" "$TPU" --zone="$ZONE" "${@:2}"; }
  state=$(tpu describe --format='value(state)' 2>/dev/null) || state=
  [[ -z "$dry" ]] || echo "$state" # that command
  [[ -z "$dry" && ! "$state" =~ PREEMPTED|TERMINATED ]] || { tpu delete --quiet && state=; }
  [[ -z "$dry" && "$state" != STOPPED ]] || tpu start
  case "$TYPE" in v5lite*) os=v2-alpha-tpuv5-lite ;; v5p*) os=v2-alpha-tpuv5 ;; v6e*) os=v2-alpha-tpuv6e ;; *) os=tpu-ubuntu2204-base ;; esac
  [[ -n "$state" ]] || tpu create --accelerator-type="$TYPE" --version="${VERSION:-$os}" ${SPOT:+--spot}
  run bash -o pipefail -c 'git ls-files -z -co --exclude-standard | tar --null -T - -czf /tmp/sequencematch.tgz' # no .venv, no runs
  run gcloud compute tpus tpu-vm scp /tmp/sequencematch.tgz "$TPU": --zone="$ZONE" --worker=all
  tpu ssh --worker=all --command='mkdir -p sequencematch && cd sequencematch && touch .files && xargs -d "\n" rm -f -- <.files &&
    tar -xzvf ../sequencematch.tgz >.files && pip install --user uv && # .files: what an earlier call brought
    python3 -m uv venv --allow-existing --python=3.12 .venv && python3 -m uv pip install --python=.venv/bin/python -c constraints.txt -e ".[tpu]"'
  # -tt: Ctrl-C and the end of the connection reach the run, which saves (tmux keeps it). flock: gcloud's retry starts no second.
  tpu ssh --worker=all --command="cd sequencematch && PATH=\$PWD/.venv/bin:\$PATH exec \
    flock -n --no-fork ../sequencematch.lock launch/tpu_pod.sh --here $(printf '%q ' "$@")" -- -tt
  exit
fi
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/sequencematch/jax}"
run exec python -m sequencematch.main --cluster=tpu --resume "${@:2}"
