"""Tests use tiny models with random weights and need no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


@pytest.fixture(autouse=True)
def _seed() -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
    torch.manual_seed(0)


@pytest.fixture
def sage2_eval() -> str:
    """Path of the C++ program; the test is skipped where it is not built."""
    built = Path(__file__).resolve().parents[2] / "build/release/harness/sage2-eval"
    program = os.environ.get("SAGE2_EVAL") or str(built)
    if not os.access(program, os.X_OK):
        pytest.skip(f"{program} is not built (set SAGE2_EVAL)")
    return program
