"""The command line on models saved by the libraries themselves, and the perplexity example."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from sage2_capture.cli import main

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers import assert_explains, read  # noqa: E402

PROMPTS = ["the cat sat on the mat", "a dog", "one more prompt than that"]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    from test_transformers import llama
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llama")
    words = sorted({word for prompt in PROMPTS for word in prompt.split()})
    tokenizer = Tokenizer(models.WordLevel({"?": 0} | {word: i + 1 for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    llama(torch.bfloat16).save_pretrained(folder)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    return folder


def run(command: str, model: Path, out: Path, *more: str) -> int:
    return main([command, str(model), "--out", str(out), "--device", "cpu", *more])


def test_transformers(language_model: Path, tmp_path, capsys) -> None:
    prompts = ("--prompts", str(language_model / "prompts.txt"))
    out = tmp_path / "run.h5"
    assert run("transformers", language_model, out, *prompts, "--dry-run") == 0
    assert "would be written\nfor each sample\n3 samples" in capsys.readouterr().out
    assert run("transformers", language_model, out, *prompts, "--plan", "layers=1 output=on", "--limit", "2") == 0
    assert "2 cells" in capsys.readouterr().out
    cells = read(out)
    assert [c.attrs["sample_name"] for c in cells.values()] == PROMPTS[:2]
    assert [c.attrs["seed"] for c in cells.values()] == [0, 1]
    for cell, prompt in zip(cells.values(), PROMPTS, strict=False):
        assert cell.dtype == "bfloat16" and cell.q.shape == (1, 4, len(prompt.split()), 16)
        assert_explains(cell)
    # The third prompt and the other layer join the file.
    assert run("transformers", language_model, out, *prompts, "--plan", "output=on") == 0
    assert sorted(read(out)) == [(layer, 0, sample) for layer in (0, 1) for sample in range(3)]


def test_diffusers(tmp_path, capsys) -> None:
    pytest.importorskip("diffusers")
    from test_diffusers import dit_pipeline

    dit_pipeline().save_pretrained(tmp_path / "dit")
    call = ("--call", "class_labels=[3]", "--steps", "4", "--plan", "timesteps=::2 cfg=cond")
    assert run("diffusers", tmp_path / "dit", tmp_path / "run.h5", *call, "--dry-run") == 0
    assert "2 of 4 timesteps" in capsys.readouterr().out
    assert run("diffusers", tmp_path / "dit", tmp_path / "run.h5", *call) == 0
    cells = read(tmp_path / "run.h5")
    assert list(cells) == [(layer, step, 0) for layer in (0, 1) for step in (0, 2)]
    assert all(c.attrs["cfg_branch"] == "cond" and c.attrs["seed"] == 0 for c in cells.values())
    assert run("diffusers", tmp_path / "dit", tmp_path / "x.h5", "--call", "labels=1") == 2
    assert "DiTPipeline does not take these arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--prompts", "none.txt"), 3, "none.txt: cannot be read as prompts"),
        (("--prompts", "PROMPTS", "--plan", "layers=9"), 2, "the plan selects nothing"),
        (("--prompts", "PROMPTS", "--plan", "layer=9"), 2, "unknown key 'layer'"),
        (("--prompts", "PROMPTS", "--dtype", "int4"), 2, "--dtype: expected one of"),
        (("--prompts", "TWICE"), 3, "a prompt occurs twice"),
        (("--prompts", "EMPTY"), 3, "holds no prompt"),
    ],
)
def test_bad_input(language_model: Path, tmp_path, capsys, options, code: int, sentence: str) -> None:
    (tmp_path / "twice.txt").write_text("a\na\n")
    (tmp_path / "empty.txt").write_text("\n")
    files = {
        "PROMPTS": language_model / "prompts.txt",
        "TWICE": tmp_path / "twice.txt",
        "EMPTY": tmp_path / "empty.txt",
    }
    options = [str(files.get(option, option)) for option in options]
    assert run("transformers", language_model, tmp_path / "run.h5", *options) == code
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("run.h5*"))


def test_bad_folders_and_devices(language_model: Path, tmp_path, capsys) -> None:
    prompts = ("--prompts", str(language_model / "prompts.txt"))
    assert run("transformers", tmp_path, tmp_path / "x.h5", *prompts) == 3
    assert "expected a local model folder with config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert run("transformers", tmp_path, tmp_path / "x.h5", *prompts) == 3
    assert "cannot be loaded by transformers" in capsys.readouterr().err
    if not torch.cuda.is_available():
        arguments = ["transformers", str(language_model), "--out", str(tmp_path / "x.h5"), "--device", "cuda", *prompts]
        assert main(arguments) == 4
        assert "finds no CUDA device" in capsys.readouterr().err


def test_perplexity_example(tmp_path, capsys, monkeypatch) -> None:
    """Every step of the example once, on almost no training; the map made by the package's own arithmetic."""
    monkeypatch.setenv("SAGE2_EVAL", str(tmp_path / "none"))
    source = Path(__file__).resolve().parents[1] / "examples/perplexity.py"
    specification = importlib.util.spec_from_file_location("perplexity", source)
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes jack a dull boy. " * 100)
    options = [str(text), "--train-steps", "3", "--length", "64", "--windows", "3", "--calibration", "2"]
    assert example.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "attention", "full precision", "all sage2-4b", "all sage2-8b", "map (3 of 12 calls sage2-8b)",
    ]  # fmt: skip
    values = [float(line.split()[-2]) for line in lines[1:]]
    assert all(1 < value < 300 for value in values)
    content = {"schema": "sage2-map/1", "base": "sage2-4b", "fallback": "sage2-8b", "cells": [
        {"layer": i, "layer_name": f"model.layers.{i}.self_attn", "timestep": 0, "variant": "sage2-8b"}
        for i in range(4)
    ]}  # fmt: skip
    (tmp_path / "map.json").write_text(json.dumps(content))
    assert example.main([*options, "--map", str(tmp_path / "map.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("map (12 of 12 calls sage2-8b)")
    assert lines[-1].split()[-2:] == lines[-2].split()[-2:]  # the same as all 8-bit
    assert example.main([str(tmp_path / "none.txt")]) == 3
    assert example.main([str(text), "--length", "100000"]) == 2
