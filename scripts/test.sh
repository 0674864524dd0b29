#!/usr/bin/env bash
# Builds everything and runs every test. Installs missing packages first.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh build test
preset="${1:-release}"
cmake --preset "$preset"
cmake --build --preset "$preset" -j "$(nproc)"
ctest --preset "$preset" -j "$(nproc)"
