"""sage2-capture transformers and diffusers: runs prompts through a model in a local folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from .errors import DataError, DeviceError, UsageError
from .plan import Plan
from .recorder import Capture, capture

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "auto": "auto"}


def run_transformers(options: argparse.Namespace) -> int:
    """Prefills each prompt once; a sample a prompt."""
    transformers = _library("transformers")
    _require_model(options.model, "config.json")
    prompts = read_prompts(options.prompts, options.limit)
    device, dtype = _device(options.device), _dtype(options.dtype)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, local_files_only=True)
        config = transformers.AutoConfig.from_pretrained(options.model, local_files_only=True)
        causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
        auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        model = auto.from_pretrained(options.model, local_files_only=True, dtype=dtype).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{options.model}: cannot be loaded by transformers ({_first_line(error)})") from None
    with _open(options, model) as run, torch.inference_mode():
        for number, prompt in enumerate(prompts):
            if run.finished(prompt):
                continue
            tokens = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=options.max_length).to(device)
            with run.sample(prompt, options.seed + number):
                torch.manual_seed(options.seed + number)
                model(**tokens)
    return _done(run, options, len(prompts))


def run_diffusers(options: argparse.Namespace) -> int:
    """Runs the pipeline once a prompt; a sample a prompt."""
    diffusers = _library("diffusers")
    _require_model(options.model, "model_index.json")
    prompts: list[str | None] = list(read_prompts(options.prompts, options.limit)) if options.prompts else [None]
    arguments = read_call(options.call)
    if options.steps is not None:
        arguments["num_inference_steps"] = options.steps
    device, dtype = _device(options.device), _dtype(options.dtype)
    settings = {} if dtype == "auto" else {"torch_dtype": dtype}
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(options.model, local_files_only=True, **settings)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{options.model}: cannot be loaded by diffusers ({_first_line(error)})") from None
    if options.offload:
        pipe.enable_model_cpu_offload()
    else:
        pipe.to(device)
    with _open(options, pipe) as run:
        for number, prompt in enumerate(prompts):
            name = prompt if prompt is not None else "unconditional"
            if run.finished(name):
                continue
            seed = options.seed + number
            generator = torch.Generator("cpu").manual_seed(seed)
            given = arguments if prompt is None else {"prompt": prompt, **arguments}
            with run.sample(name, seed):
                try:
                    pipe(**given, generator=generator)
                except TypeError as error:
                    raise UsageError(f"{type(pipe).__name__} does not take these arguments ({error})") from None
    return _done(run, options, len(prompts))


def read_prompts(path: Path, limit: int | None) -> list[str]:
    """Lines of a text file that are not blank; raises DataError where there are none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as prompts ({error})") from None
    prompts = [line for line in lines if line][:limit]
    if not prompts:
        raise DataError(f"{path}: holds no prompt")
    if len(set(prompts)) != len(prompts):
        raise DataError(f"{path}: a prompt occurs twice")
    return prompts


def read_call(pairs: list[str]) -> dict[str, Any]:
    """NAME=JSON pairs; a value that is not JSON is taken as text."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--call: expected NAME=JSON, found '{pair}'")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _open(options: argparse.Namespace, model: Any) -> Capture:
    components = getattr(options, "components", None)
    return capture(
        options.out,
        Plan.parse(options.plan),
        model,
        components=components.split(",") if components else None,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
    )


def _done(run: Capture, options: argparse.Namespace, prompts: int) -> int:
    if options.dry_run:
        print(f"{prompts} samples: {prompts} times that (as long as the first)")
    else:
        print(run.report())
    return 0


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise UsageError(f"sage2-capture {name} needs the package {name} ({error})") from None


def _require_model(folder: Path, index: str) -> None:
    if not (folder / index).is_file():
        raise DataError(f"{folder}: expected a local model folder with {index} (nothing is downloaded)")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"--device {name}: PyTorch finds no CUDA device on this machine")
    return name


def _dtype(name: str) -> Any:
    if name not in _DTYPES:
        raise UsageError(f"--dtype: expected one of {', '.join(_DTYPES)}, found '{name}'")
    return _DTYPES[name]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
