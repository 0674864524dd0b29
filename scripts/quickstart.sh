#!/usr/bin/env bash
# From a bare Debian 12 or Ubuntu 24.04 to ablation tables, an adaptive map and a report: installs missing packages,
# builds, and evaluates the bundled captures of two trained models. Everything it makes lies in build/ and runs/.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh build
# Not all of the build, but all of sage2-eval: `bench` is a part of it.
cmake --preset release -DSAGE2_TESTS=OFF -DSAGE2_BENCHMARKS=ON
cmake --build --preset release -j "$(nproc)" --target sage2-eval
sage2_eval=build/release/harness/sage2-eval
out=runs/quickstart
for model in dit lm; do
  "$sage2_eval" eval "datasets/samples/$model.h5" --suite smoothing --suite granularity --variants sage2-8b \
    --out "$out/$model"
  echo
done
"$sage2_eval" rank "$out/dit" --out "$out/map.json"
"$sage2_eval" report "$out/dit" "$out/lm" --map "$out/map.json" --format md,tex,csv,html --out "$out/report"
