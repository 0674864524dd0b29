#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds what is missing, runs the GPU tests, `sage2-eval verify`, and compute-sanitizer
# over small shapes.
#   scripts/test_gpu.sh [quick]      quick: verify on about a dozen shapes, and the sanitizer's memcheck only
# Logs and a summary are left in build/gpu-test/. Exit code 1 where anything failed, 4 where there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
mode="${1:-full}"
build="${SAGE2_BUILD_DIR:-build/release}"
logs=build/gpu-test
sage2_eval="$build/harness/sage2-eval"
export PATH="$PATH:/usr/local/cuda/bin"
mkdir -p "$logs"
: >"$logs/summary.txt"
failed=0

say() { echo "$*" | tee -a "$logs/summary.txt"; }

# step NAME COMMAND...: runs it into a log of its own, and says how it ended.
step() {
  local name="$1" start=$SECONDS status
  shift
  "$@" >"$logs/$name.log" 2>&1
  status=$?
  if [ $status -eq 0 ]; then
    say "ok       $name ($((SECONDS - start)) s)"
  else
    say "FAILED   $name (exit code $status, $((SECONDS - start)) s): $logs/$name.log"
    tail -n 15 "$logs/$name.log"
    failed=1
  fi
  return $status
}

build_all() {
  if [ ! -f "$build/build.ninja" ]; then cmake --preset release -DSAGE2_TESTS=ON -DSAGE2_CUDA=ON || return 1; fi
  cmake --build "$build" -j "$(nproc)" --target sage2 sage2-eval test_kernels test_harness
}

if ! nvidia-smi -L >"$logs/gpus.log" 2>&1; then
  say "no GPU: $(tail -n 1 "$logs/gpus.log")"
  exit 4
fi
say "$(cat "$logs/gpus.log")"
if [ -z "${SAGE2_BUILD_DIR:-}" ]; then step build build_all || exit 1; fi

# One after the other: each fills the GPU.
if python3 -c "import torch" 2>/dev/null; then
  step python env PYTHONPATH=scripts SAGE2_LIBRARY="$build/kernels/libsage2.so" python3 scripts/check_sage2.py
else
  say "skipped  python3 has no PyTorch"
fi
# The programs themselves and not ctest, which would start the driver for every test.
step kernels "$build/tests/test_kernels" --gtest_brief=1
step engine "$build/tests/test_harness" --gtest_brief=1 --gtest_filter='CudaEval*'
if [ "$mode" = quick ]; then
  step verify "$sage2_eval" verify --quick
  tools=(memcheck)
else
  step verify "$sage2_eval" verify --accumulators 10000000
  tools=(memcheck racecheck initcheck)
fi
if command -v compute-sanitizer >/dev/null; then
  for tool in "${tools[@]}"; do
    step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$sage2_eval" verify --tiny --accumulators 20000
  done
else
  say "skipped  compute-sanitizer is not installed"
fi
say "$([ $failed -eq 0 ] && echo "all passed" || echo "some failed")"
exit $failed
