#!/usr/bin/env bash
# Tests the Python package: makes a virtual environment (build/venv-python, or $SAGE2_VENV), installs what can be
# installed, says what cannot, and runs pytest. Where PyTorch is already installed it is used as it is.
#   $PYTHON             interpreter to start from (default: the first python3 with PyTorch, else the first with venv)
#   $SAGE2_TORCH_INDEX  package index to take PyTorch from, for example one of CPU-only wheels, which are much smaller
#   $SAGE2_EVAL         the sage2-eval to test against (default: build/release/harness/sage2-eval, if it is built)
# Arguments are passed on to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${SAGE2_VENV:-build/venv-python}"

has() { "$1" -c "import $2" >/dev/null 2>&1; }

say() { echo "test_python.sh: $*"; }

choose_python() {
  local candidate fallback=""
  for candidate in ${PYTHON:-} python3 /usr/bin/python3; do
    command -v "$candidate" >/dev/null && has "$candidate" ensurepip || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || continue
    if has "$candidate" torch; then echo "$candidate"; return; fi
    [ -n "$fallback" ] || fallback="$candidate"
  done
  echo "$fallback"
}

# Installs one group; a failure skips the tests that need it, and says so.
install() {
  local needed_for="$1"
  shift
  if ! timeout 400 "$venv/bin/pip" install -q --no-compile --disable-pip-version-check "$@" >"$venv/pip.log" 2>&1; then
    say "cannot install $* ($(grep -m1 -i error "$venv/pip.log" || echo 'see pip.log')): $needed_for are skipped"
  fi
}

if [ ! -x "$venv/bin/python" ]; then
  python="$(choose_python)"
  if [ -z "$python" ]; then
    say "no Python from 3.10 with the venv module: the Python tests are skipped"
    exit 0
  fi
  site=()
  if has "$python" torch; then site=(--system-site-packages); fi
  mkdir -p "$(dirname "$venv")"
  "$python" -m venv "${site[@]}" "$venv"
fi
python="$venv/bin/python"

has "$python" pytest && has "$python" h5py || install "the Python tests" "numpy>=1.24" "h5py>=3.7" "pytest>=7"
if ! has "$python" pytest || ! has "$python" h5py; then
  say "without pytest and h5py the Python tests are skipped"
  exit 0
fi
has "$python" torch || install "tests with models" ${SAGE2_TORCH_INDEX:+--index-url "$SAGE2_TORCH_INDEX"} "torch>=2.5"
if has "$python" torch; then
  for package in safetensors transformers diffusers; do
    has "$python" "$package" || install "tests with $package" "$package"
  done
else
  say "PyTorch is not there: tests that run models are skipped"
fi
"$python" -m pip install -q --no-compile --disable-pip-version-check --no-deps --no-build-isolation -e scripts \
  >"$venv/pip.log" 2>&1 || export PYTHONPATH="$PWD/scripts${PYTHONPATH:+:$PYTHONPATH}"
if [ ! -x "${SAGE2_EVAL:-build/release/harness/sage2-eval}" ]; then
  say "sage2-eval is not built: tests against it are skipped"
fi
exec "$python" -m pytest scripts/tests -c scripts/pyproject.toml --rootdir scripts "$@"
