"""Captures of tensors in files, through the command line."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest

from sage2_capture.cli import main

torch = pytest.importorskip("torch")

from helpers import read  # noqa: E402


def bits(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def write_safetensors(path, tensors: dict[str, torch.Tensor]) -> None:
    pytest.importorskip("safetensors.torch").save_file(tensors, path)


def convert(tmp_path, source, kind: str, template: str, *more: str) -> int:
    arguments = ["convert", str(tmp_path / source), "--from", kind, "--map", template, "--out", str(tmp_path / "o.h5")]
    return main([*arguments, *more])


def test_safetensors_with_bfloat16(tmp_path, capsys) -> None:
    tensors = {
        f"blocks.{layer}.step{step}.{name}": bits((1, 2, 20, 16), 10 * layer + step)
        for layer in (0, 3)
        for step in (0, 12)
        for name in ("query", "key", "value")
    }
    write_safetensors(tmp_path / "d.safetensors", tensors | {"unrelated": torch.zeros(3)})
    options = ("--names", "query,key,value", "--causal", "--name", "my model")
    assert convert(tmp_path, "d.safetensors", "safetensors", "blocks.{layer}.step{timestep}.{tensor}", *options) == 0
    assert "4 cells" in capsys.readouterr().out
    cells = read(tmp_path / "o.h5")
    assert list(cells) == [(0, 0, 0), (0, 12, 0), (3, 0, 0), (3, 12, 0)]
    assert torch.equal(cells[3, 12, 0].k, bits((1, 2, 20, 16), 42).double())
    assert cells[3, 12, 0].dtype == "bfloat16"
    assert cells[3, 12, 0].attrs["is_causal"] == 1
    assert cells[3, 12, 0].attrs["sm_scale"] == 0.25


def test_npz_without_batch_in_the_other_layout(tmp_path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal((20, heads, 16)).astype(np.float16)
        for name, heads in zip("qkv", (4, 2, 2), strict=True)
    }
    np.savez(tmp_path / "d.npz", **{f"attn/{name}": array for name, array in arrays.items()})
    assert convert(tmp_path, "d.npz", "npz", "{name}/{tensor}", "--layout", "NHD", "--scale", "0.5") == 0
    (cell,) = read(tmp_path / "o.h5").values()
    assert cell.attrs["layer_name"] == "attn" and cell.attrs["sm_scale"] == 0.5
    assert np.array_equal(cell.q.numpy()[0], arrays["q"].swapaxes(0, 1))
    assert cell.k.shape == (1, 2, 20, 16)


def test_folder_of_pt_files_with_dictionaries_and_plan(tmp_path) -> None:
    (tmp_path / "dump").mkdir()
    for layer in range(3):
        content = {"attn": {name: torch.randn(1, 2, 20, 16) for name in "qkv"}, "step": 3}
        torch.save(content, tmp_path / "dump" / f"layer_{layer}.pt")
    assert convert(tmp_path, "dump", "pt", "layer_{layer}/attn.{tensor}", "--plan", "layers=::2") == 0
    assert list(read(tmp_path / "o.h5")) == [(0, 0, 0), (2, 0, 0)]


def test_pt_files_run_no_code(tmp_path, capsys) -> None:
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    torch.save({"q": Evil()}, tmp_path / "d.pt")
    assert convert(tmp_path, "d.pt", "pt", "{tensor}") == 3
    output = capsys.readouterr()
    assert "code ran" not in output.out
    assert "d.pt: cannot be loaded as plain tensors" in output.err


def test_dry_run_and_overwriting(tmp_path, capsys) -> None:
    np.savez(tmp_path / "d.npz", **{name: np.ones((1, 2, 20, 16), np.float32) for name in "qkv"})
    assert convert(tmp_path, "d.npz", "npz", "{tensor}", "--dry-run") == 0
    assert "1 cells, 7.5 KiB would be written" in capsys.readouterr().out
    assert not (tmp_path / "o.h5").exists()
    assert convert(tmp_path, "d.npz", "npz", "{tensor}") == 0
    assert convert(tmp_path, "d.npz", "npz", "{tensor}") == 2
    assert "exists already" in capsys.readouterr().err
    assert convert(tmp_path, "d.npz", "npz", "{tensor}", "--overwrite") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz", "o.h5"]


@pytest.mark.parametrize(
    ("arrays", "options", "code", "sentence"),
    [
        ({"q": (1, 2, 4, 8), "k": (1, 2, 4, 8)}, (), 3, "no tensor for v"),
        ({"q": (1, 2, 4, 8), "k": (1, 2, 4, 8), "v": (2, 2, 4, 8)}, (), 3, "but v is [2, 2, 4, 8]"),
        ({"q": (8,), "k": (8,), "v": (8,)}, (), 3, "expected 3 or 4 axes, found [8]"),
        ({"a": (1,)}, (), 3, "no key fits"),
        ({"q": (1,)}, ("--map", "{layers}"), 2, "expected place holders among"),
        ({"q": (1,)}, ("--names", "q,k"), 2, "--names"),
        ({"q": (1,)}, ("--plan", "layers=x"), 2, "layers: expected"),
    ],
)
def test_bad_input(tmp_path, capsys, arrays: dict, options: tuple, code: int, sentence: str) -> None:
    np.savez(tmp_path / "d.npz", **{name: np.ones(shape, np.float32) for name, shape in arrays.items()})
    assert convert(tmp_path, "d.npz", "npz", "{tensor}", *options) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("d.safetensors", b"", "not a safetensors file"),
        ("d.safetensors", struct.pack("<Q", 10**9) + b"{}", "header is longer than the file"),
        (
            "d.safetensors",
            (lambda h: struct.pack("<Q", len(h)) + h)(
                json.dumps({"q": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
            ),
            "truncated?",
        ),
        ("d.npz", b"PK nonsense", "not an npz file"),
        ("d.pt", b"nonsense", "cannot be loaded as plain tensors"),
    ],
)
def test_damaged_files(tmp_path, capsys, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert convert(tmp_path, name, name.split(".")[1], "{tensor}") == 3
    assert sentence in capsys.readouterr().err
    assert convert(tmp_path, "missing", "npz", "{tensor}") == 3


def test_formats_that_no_capture_holds(tmp_path, capsys) -> None:
    np.savez(tmp_path / "d.npz", **{name: np.ones((1, 2, 4, 8)) for name in "qkv"})
    assert convert(tmp_path, "d.npz", "npz", "{tensor}") == 3
    assert "expected float16, bfloat16 or float32, found float64" in capsys.readouterr().err
    np.savez(tmp_path / "d.npz", q=np.ones((1, 2, 4, 8), np.uint16), k=np.ones((1, 2, 4, 8), np.float16))
    assert convert(tmp_path, "d.npz", "npz", "{tensor}") == 3
    np.savez(tmp_path / "d.npz", **{name: np.full((1, 2, 4, 8), math.nan, np.float32) for name in "qkv"})
    assert convert(tmp_path, "d.npz", "npz", "{tensor}") == 0
    assert "1 of them hold NaN or infinity" in capsys.readouterr().out
