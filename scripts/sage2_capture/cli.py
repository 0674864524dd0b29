"""sage2-capture: captures from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import Sage2Error, UsageError
from .plan import Plan
from .selector import SYNTAX

_PLAN_HELP = (
    'what to write: a JSON file, or pairs such as "layers=25%% timesteps=::10 heads=0,8 samples=0-3 max_tokens=8192 '
    'max_bytes=20GB cfg=cond output=on"; selections are '
) + SYNTAX.replace("%", "%%")


def build_parser() -> argparse.ArgumentParser:
    """The command line; each subcommand's module adds its own options and runs itself."""
    parser = argparse.ArgumentParser(
        prog="sage2-capture", description="Writes attention inputs of a model to a capture file for sage2-eval."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = commands.add_parser("transformers", help="run prompts through a transformers model in a local folder")
    text.add_argument("model", type=Path, metavar="MODEL_DIR")
    text.add_argument("--prompts", type=Path, required=True, help="text file, one prompt a line")
    text.add_argument("--max-length", type=int, default=4096, help="tokens of a prompt (default 4096)")
    _common(text)

    images = commands.add_parser("diffusers", help="run prompts through a diffusers pipeline in a local folder")
    images.add_argument("model", type=Path, metavar="MODEL_DIR")
    images.add_argument("--prompts", type=Path, help="text file, one prompt a line (none for unconditional pipelines)")
    images.add_argument("--steps", type=int, help="denoising steps (default: the pipeline's)")
    images.add_argument(
        "--call", action="append", default=[], metavar="NAME=JSON", help="further argument of the pipeline's call"
    )
    images.add_argument("--components", help="components to watch instead of the denoisers, separated by commas")
    images.add_argument("--offload", action="store_true", help="keep only the running component on the GPU")
    _common(images)

    files = commands.add_parser("convert", help="make a capture of tensors in files")
    files.add_argument("input", type=Path, metavar="IN", help="a file, or a folder of files")
    files.add_argument("--from", dest="kind", required=True, choices=("safetensors", "npz", "pt"))
    files.add_argument(
        "--map",
        required=True,
        metavar="TEMPLATE",
        help="how keys are made, with {layer} or {name}, {timestep}, {sample} and {tensor}, for example "
        "'l{layer}/t{timestep}/{tensor}'; in a folder, keys begin with the file's name without its ending",
    )
    files.add_argument("--names", default="q,k,v,o", help="words for q,k,v[,o] in the keys (default q,k,v,o)")
    files.add_argument("--layout", default="HND", choices=("HND", "NHD"), help="order of heads and tokens")
    files.add_argument("--causal", action="store_true", help="the attention was causal")
    files.add_argument("--scale", type=float, help="softmax scale (default 1/sqrt(head_dim))")
    files.add_argument("--name", default="", help="the model's name, for the file's attribute")
    _output(files)
    return parser


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="capture file to write")
    parser.add_argument("--plan", default="", help=_PLAN_HELP)
    parser.add_argument("--dry-run", action="store_true", help="print what would be written and how large it is")
    parser.add_argument("--overwrite", action="store_true", help="start anew instead of continuing an earlier run")


def _common(parser: argparse.ArgumentParser) -> None:
    _output(parser)
    parser.add_argument("--dtype", default="auto", help="float16, bfloat16, float32 or auto (as the checkpoint is)")
    parser.add_argument("--device", default="auto", help="cuda, cpu, ... (default: cuda where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; the next ones count up (default 0)")
    parser.add_argument("--limit", type=int, help="only the first prompts")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (0 done, 1 a check failed, 2 usage, 3 bad data, 4 device)."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "convert":
            from .convert import Template, convert

            template = Template.parse(options.map, options.names)
            line = convert(
                options.input,
                options.out,
                options.kind,
                template,
                layout=options.layout,
                is_causal=options.causal,
                sm_scale=options.scale,
                model=options.name,
                plan=Plan.parse(options.plan),
                overwrite=options.overwrite,
                dry_run=options.dry_run,
            )
            print(line)
            return 0
        try:
            from . import run_models
        except ImportError as error:
            raise UsageError(f"sage2-capture {options.command} needs PyTorch ({error})") from None
        run = run_models.run_transformers if options.command == "transformers" else run_models.run_diffusers
        return run(options)
    except Sage2Error as error:
        print(f"sage2-capture: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sage2-capture: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
