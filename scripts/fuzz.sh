#!/usr/bin/env bash
# Builds the fuzz targets with clang, AddressSanitizer and UndefinedBehaviorSanitizer, and runs each for a while.
#   scripts/fuzz.sh [SECONDS] [TARGET...]     (default: 60 seconds each, all targets)
# Inputs that reach new code are kept in build/fuzz/corpus/TARGET and are where the next run begins; an input that
# fails is left in build/fuzz and its name is printed.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: SECONDS must be a positive number, found '$seconds'" >&2; exit 2; }
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for source in tests/fuzz/fuzz_*.cpp; do targets+=("$(basename "$source" .cpp)"); done
fi

cmake --preset fuzz >/dev/null
cmake --build build/fuzz --target "${targets[@]}"
# libhdf5 keeps free lists and its library state: what it still holds at exit is no leak of ours.
export ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1
for target in "${targets[@]}"; do
  mkdir -p "build/fuzz/corpus/$target"
  log="build/fuzz/$target.log"
  if ! "build/fuzz/tests/fuzz/$target" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 -max_len=1024 \
      -len_control=0 -print_final_stats=1 -artifact_prefix="build/fuzz/$target-" "build/fuzz/corpus/$target" \
      >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "fuzz.sh: $target failed; the whole log is $log" >&2
    exit 1
  fi
  echo "fuzz.sh: $target: no failure in $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $seconds s"
done
