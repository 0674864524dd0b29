#!/usr/bin/env bash
# Builds everything and runs every test: scripts/test.sh [release|sanitize]. Installs missing packages first.
set -euo pipefail
cd "$(dirname "$0")/.."
preset="${1:-release}"
scripts/setup.sh build test
cmake --preset "$preset" -DSAGE2_TESTS=ON
cmake --build --preset "$preset" -j "$(nproc)"
# One after the other: the engine itself uses all cores.
ctest --preset "$preset"
if [ "$preset" = release ]; then scripts/test_python.sh; fi
