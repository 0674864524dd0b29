"""Writing: crashes, Ctrl-C, full disks, continuing, bounded memory."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers import read  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from sage2_capture import Plan, capture, schema  # noqa: E402
from sage2_capture.errors import DataError, UsageError  # noqa: E402
from sage2_capture.writer import BackgroundWriter  # noqa: E402


class Model(nn.Module):
    """One attention call on its input."""

    def forward(self, x, timestep=None):
        return scaled_dot_product_attention(x, x, x)


def x(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(seed))


PROGRAM = """
    import sys, torch
    from sage2_capture import capture
    sys.path.insert(0, {tests!r})
    from test_robust import Model, x
    model = Model()
    with capture({file!r}, model=model) as run:
        for prompt in range({prompts}):
            if run.finished(f"prompt {{prompt}}"):
                continue
            print(prompt, flush=True)
            with run.sample(f"prompt {{prompt}}"):
                for step in range(5):
                    model(x(prompt * 10 + step), timestep=step)
"""


def start(file: Path, prompts: int) -> subprocess.Popen:
    program = textwrap.dedent(PROGRAM.format(tests=str(Path(__file__).parent), file=str(file), prompts=prompts))
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_finished_survives_a_kill_and_the_next_run_continues(tmp_path) -> None:
    file, parts = tmp_path / "run.h5", tmp_path / "run.h5.parts"
    endless = start(file, 10**6)
    # Enough to stop in the middle of things: some prompts begun, the run nowhere near its end.
    for _ in range(8):
        assert endless.stdout.readline()
    endless.kill()
    endless.communicate()
    assert endless.returncode != 0
    assert not file.exists()
    kept = schema.finished_cells(parts)
    assert len(kept) >= 5 * 6
    begun = max(sample for _, _, sample in kept) + 1
    again = start(file, begun + 2)
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    first = int(output.split()[0])
    assert first >= 6  # prompts that were complete did not run again
    cells = read(file)
    assert sorted(cells) == [(0, step, prompt) for step in range(5) for prompt in range(begun + 2)]
    for (_, step, prompt), cell in cells.items():
        assert cell.attrs["sample_name"] == f"prompt {prompt}"
        assert torch.equal(cell.q, x(prompt * 10 + step).double())
    assert not parts.exists()


@pytest.fixture
def heeds_ctrl_c():
    """What is started in the background by a shell ignores Ctrl-C, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_at_once_and_says_where_things_are(tmp_path, capsys) -> None:
    model = Model()
    with pytest.raises(KeyboardInterrupt), capture(tmp_path / "run.h5", model=model):
        for step in range(7):
            model(x(step), timestep=step)
        signal.raise_signal(signal.SIGINT)
    assert f"7 finished cells are kept in {tmp_path / 'run.h5.parts'}, run again" in capsys.readouterr().err
    assert len(schema.finished_cells(tmp_path / "run.h5.parts")) == 7


def test_an_error_in_the_model_keeps_its_own_message(tmp_path) -> None:
    model = Model()
    with pytest.raises(ZeroDivisionError), capture(tmp_path / "run.h5", model=model, quiet=True):
        model(x())
        raise ZeroDivisionError
    assert list(schema.finished_cells(tmp_path / "run.h5.parts")) == [(0, 0, 0)]
    with capture(tmp_path / "run.h5", model=model, quiet=True) as run:
        model(x())
        model(x(1))
    assert run.summary.rows[0].resumed == 1
    assert list(read(tmp_path / "run.h5")) == [(0, 0, 0), (0, 0, 1)]


def test_samples_keep_their_numbers_whether_skipped_or_run_again(tmp_path) -> None:
    model = Model()

    def run(prompts: list[str], skip: bool, fail: bool = False) -> None:
        with capture(tmp_path / "run.h5", model=model, quiet=True) as session:
            for prompt in prompts:
                if skip and session.finished(prompt):
                    continue
                with session.sample(prompt):
                    model(x(ord(prompt)))
            if fail:
                raise ZeroDivisionError

    for skip in (True, False):
        with pytest.raises(ZeroDivisionError):
            run(["a", "b"], skip, fail=True)
        run(["a", "b", "c"], skip)
        cells = read(tmp_path / "run.h5")
        assert [c.attrs["sample_name"] for c in cells.values()] == ["a", "b", "c"]
        for cell in cells.values():
            assert torch.equal(cell.q, x(ord(cell.attrs["sample_name"])).double())
        (tmp_path / "run.h5").unlink()
    run(["a", "b"], skip=False)
    with pytest.raises(UsageError, match="its sample 0 is 'a' and this run's is 'c'"):
        run(["c", "a", "b"], skip=False)


def test_a_complete_file_is_extended(tmp_path) -> None:
    model = Model()
    for timesteps in ("0", "all"):
        with capture(tmp_path / "run.h5", Plan(timesteps=timesteps), model, quiet=True):
            for step in range(3):
                model(x(step), timestep=step)
    cells = read(tmp_path / "run.h5")
    assert list(cells) == [(0, 0, 0), (0, 1, 0), (0, 2, 0)]
    assert torch.equal(cells[0, 2, 0].q, x(2).double())


def test_another_plan_or_model_is_refused_unless_overwritten(tmp_path) -> None:
    model = Model()
    with capture(tmp_path / "run.h5", model=model, quiet=True):
        model(x())
    with (
        pytest.raises(UsageError, match=r"run\.h5: cannot continue, it was captured with heads='all'"),
        capture(tmp_path / "run.h5", Plan(heads=1), model, quiet=True),
    ):
        pass
    assert len(read(tmp_path / "run.h5")) == 1
    with capture(tmp_path / "run.h5", Plan(heads=1), model, overwrite=True, quiet=True):
        model(x())
    assert read(tmp_path / "run.h5")[0, 0, 0].q.shape[1] == 1


def test_a_foreign_file_is_not_touched(tmp_path) -> None:
    (tmp_path / "run.h5").write_text("notes")
    with pytest.raises(DataError, match=r"run\.h5: cannot be read"), capture(tmp_path / "run.h5", model=Model()):
        pass
    assert (tmp_path / "run.h5").read_text() == "notes"


@pytest.mark.parametrize("fail_at", [0, 3])
def test_full_disk_while_capturing(tmp_path, monkeypatch, fail_at: int) -> None:
    original, written = schema._write_all, []

    def write(descriptor, tensor, offset):
        if len(written) >= 3 * fail_at:  # three tensors a cell
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(offset)
        original(descriptor, tensor, offset)

    monkeypatch.setattr(schema, "_write_all", write)
    model = Model()
    with pytest.raises(DataError, match=r"cannot be written \(disk full, .* needed and .* free\)"):
        with capture(tmp_path / "run.h5", model=model, quiet=True) as run:
            for step in range(100):
                model(x(step), timestep=step)
                run._writer.drain()
    assert len(schema.finished_cells(tmp_path / "run.h5.parts")) == fail_at
    monkeypatch.setattr(schema, "_write_all", original)
    with capture(tmp_path / "run.h5", model=model, quiet=True):
        for step in range(6):
            model(x(step), timestep=step)
    assert len(read(tmp_path / "run.h5")) == 6


def test_full_disk_while_assembling(tmp_path, monkeypatch) -> None:
    def copy(*_args, **_kwargs):
        raise OSError("[Errno 28] Can't write data (file write failed: errno = 28, error message = 'No space left')")

    monkeypatch.setattr(schema.h5py.File, "copy", copy)
    model = Model()
    with pytest.raises(DataError, match=r"disk full.*1 finished cells are kept in .*run\.h5\.parts, run again"):
        with capture(tmp_path / "run.h5", model=model, quiet=True):
            model(x())
    assert not (tmp_path / "run.h5").exists()


def test_memory_is_bounded(tmp_path) -> None:
    """The model waits when the disk is slower; what waits never exceeds the bound."""
    writer = None
    most = 0

    def slow(cell, check):
        nonlocal most
        most = max(most, writer._held)
        time.sleep(0.01)

    cell = schema.Cell(0, "a", 0, 0.0, 0, False, 1.0, "float32", *(np.ones((1, 1, 100, 10), np.float32),) * 3)
    writer = BackgroundWriter(tmp_path, slow, memory=3 * cell.nbytes())
    for _ in range(20):
        writer.reserve(cell.nbytes())
        writer.put(cell, None)
    writer.close()
    assert writer.cells == 20
    assert most == 3 * cell.nbytes()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dtype": "int8"}, "expected float16, bfloat16 or float32, found int8"),
        ({"k": np.ones((1, 2, 5, 8), np.float32)}, r"k is \[1, 2, 5, 8\] but v is \[1, 2, 4, 8\]"),
        ({"q": np.ones((1, 3, 4, 8), np.float32)}, "no multiple"),
        ({"q": np.ones((1, 2, 0, 8), np.float32)}, r"none zero, found \[1, 2, 0, 8\]"),
        ({"q": np.ones((1, 2, 4, 8), np.float16)}, "expected q in float32"),
        ({"o": np.ones((1, 2, 5, 8), np.float32)}, r"o is \[1, 2, 5, 8\]"),
    ],
)
def test_cells_that_are_not_valid_are_refused(change: dict, sentence: str) -> None:
    tensors = {name: np.ones((1, 2, 4, 8), np.float32) for name in "qkv"}
    cell = schema.Cell(3, "a", 1, 0.0, 0, False, 1.0, **({"dtype": "float32"} | tensors | change))
    with pytest.raises(DataError, match=r"layer 3 \('a'\), timestep 1, sample 0: .*" + sentence):
        schema.check_cell(cell)
