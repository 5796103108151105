#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command: builds the wheel with CUDA, holds the kernels
# to the reference in float32, float16 and bfloat16, looks for memory errors, and times the ops.
#
#   benchmarks/gpu_check.sh [FOLDER]     the figures as JSON below FOLDER; benchmarks/results
#
# MODEL names what whole steps are timed on, as `crucible bench step --model` takes it; its files
# must be on this machine.
#
# DRY=1 prints the commands, one a line, and runs none of them; it needs no GPU.
#
# It needs nvcc, and torch with CUDA, triton, pybind11 and scikit-build-core in the Python that
# PYTHON names (python3); no network. It ends after eight minutes at the latest (LIMIT_S has them in
# seconds), with 1 where something is wrong, a step ran into that limit, or there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
results=${1:-benchmarks/results}
seconds=${LIMIT_S:-480}

refuse() { echo "benchmarks/gpu_check.sh: $*" >&2; exit 1; }
say() { step=$*; printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
# Whatever time is left is the most that a command gets; it ends with 0 or 1, or the script does.
within() {
  if [ -n "${DRY:-}" ]; then printf '%q ' "$@" && echo; return; fi
  local status=0
  timeout --kill-after=2 $((seconds > SECONDS ? seconds - SECONDS : 1)) "$@" || status=$?
  case $status in
    0) ;;
    124 | 137) refuse "the $seconds s were over during this step: $step" ;;
    *) return 1 ;;
  esac
}

"$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' ||
  refuse "$python has no torch; name one that has by PYTHON=..."
if [ -z "${DRY:-}" ]; then
  "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    refuse "torch sees no CUDA device, so nothing was run"
  command -v nvcc > /dev/null || refuse "nvcc must be on PATH"
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

say "build, for this GPU alone"
capability=90
[ -n "${DRY:-}" ] ||
  capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
arch=$capability-real
case $capability in 8?) cubins=80 ;; 90) cubins=90 ;; 100) cubins=100 ;; *) cubins= ;; esac
within "$python" -m pip install --quiet --no-deps --no-build-isolation --no-index \
  --target "$folder/site" -C cmake.define.CRUCIBLE_CUDA=ON \
  -C "cmake.define.CRUCIBLE_CUDA_ARCHS=$arch" -C "cmake.define.CRUCIBLE_CUBINS=$cubins" \
  -C "build-dir=$folder/build" .
export PYTHONPATH="$folder/site${PYTHONPATH:+:$PYTHONPATH}"
# An editable install would come first, and be what is tested.
[ -n "${DRY:-}" ] || "$python" -c 'import sys, crucible_kitchen as ck; sys.exit(not ck.__file__.startswith(sys.argv[1]))' \
  "$folder" || refuse "$python has crucible-kitchen installed in editable mode; uninstall it"

say "conformance in float32, float16 and bfloat16"
within "$python" -m pytest -q tests/gpu

say "memory errors, on sizes that CUDA kernels and cubins take"
if [ -n "${DRY:-}" ] || command -v compute-sanitizer > /dev/null; then
  within env CRUCIBLE_BACKENDS=cuda compute-sanitizer --error-exitcode 1 --target-processes all \
    "$python" -m pytest -q -p no:cacheprovider tests/kernels/test_conformance.py \
    -k "test_matches_reference and (odd or rank_1 or one_row or many_blocks or many_tiles)"
else
  echo "compute-sanitizer is not on PATH: memory errors were not looked for"
fi

say "a whole step: seconds, tokens/s and memory beside transformers + PEFT, and Liger if installed"
model=${MODEL:-smollm2-135m}
if ! within env HF_HUB_OFFLINE=1 "$python" -m crucible_kitchen.cli bench step --device cuda \
  --model "$model" --dtype bfloat16 --save "$results"; then
  echo "no step was timed on $model: see above"
  failed=1
fi

say "times, beside eager torch, PEFT's and unsloth's formulas, TRL's, Liger's, unsloth's, F.linear_cross_entropy"
for dtype in bfloat16 float32; do
  within "$python" -m crucible_kitchen.cli bench --device cuda --dtype "$dtype" --save "$results"
done
[ "${failed:-0}" = 0 ] || exit 1
say "done"
