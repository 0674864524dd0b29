#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that sage2-eval is built from; does nothing where they are present.
#   scripts/setup.sh [build] [test] [report]     (default: build)
# build: compile and run; test: the test suite and linters; report: what renders and checks reports.
set -euo pipefail

packages=(g++ cmake ninja-build git ca-certificates libhdf5-dev libeigen3-dev libfmt-dev libcli11-dev
          libbenchmark-dev nlohmann-json3-dev libxxhash-dev)
for group in "$@"; do
  case "$group" in
    build) ;;
    test) packages+=(libgtest-dev clang clang-format clang-tidy libclang-rt-14-dev libomp-dev hdf5-tools
                     python3 python3-venv python3-numpy python3-h5py python3-scipy python3-jsonschema) ;;
    report) packages+=(python3 python3-numpy python3-matplotlib librsvg2-bin poppler-utils
                       texlive-latex-base texlive-latex-recommended chromium) ;;
    *) echo "setup.sh: unknown group '$group' (expected build, test or report)" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup.sh: needs root or sudo to install: ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
echo "setup.sh: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -q
"${sudo[@]}" apt-get install -qy --no-install-recommends "${missing[@]}"
