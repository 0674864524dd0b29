#!/usr/bin/env bash
# From a bare Debian 12 or Ubuntu 24.04 to two ablation tables: installs missing packages, builds, and evaluates the
# bundled capture of two trained models.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh build
cmake --preset release -DSAGE2_TESTS=OFF -DSAGE2_BENCHMARKS=OFF
cmake --build --preset release -j "$(nproc)" --target sage2-eval
build/release/harness/sage2-eval eval datasets/samples/dit.h5 datasets/samples/lm.h5 \
  --suite smoothing --suite granularity --out runs/quickstart
