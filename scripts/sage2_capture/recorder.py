"""`capture(...)`: records the attention of whatever runs inside the with-block into a capture file."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from . import schema
from .call import AttentionCall, unrepeat_heads
from .clock import Clock
from .errors import DataError, UsageError
from .intercept import Interceptor, eager
from .masks import Meaning, understand
from .pieces import cut, make_cell, pieces
from .plan import Plan
from .roots import EXCLUDED, describe, find_roots
from .schema import Cell
from .selfcheck import OutputRows, count_nonfinite, explains_output, visible_keys
from .summary import Summary
from .writer import BackgroundWriter

UNEXPLAINED = "output is not softmax(QK^T)V of these tensors (bias, soft cap, sinks, quantised kernel?)"


class _DryRunDone(BaseException):
    """Ends the model's run once a dry run has seen one step; never leaves the with-block."""


class Capture:
    """The object behind `with capture(...) as run`. See `capture` for the arguments."""

    def __init__(
        self,
        file: Path,
        plan: Plan,
        model: Any,
        components: Iterable[str] | None,
        scheduler: Any,
        overwrite: bool,
        dry_run: bool,
        memory: int,
        source: str,
        quiet: bool,
    ) -> None:
        self.file = file
        self.plan = plan
        self.dry_run = dry_run
        self.summary = Summary()
        self._roots = find_roots(model, components) if model is not None else {}
        self._model = describe(model)
        self._clock = Clock(getattr(model, "scheduler", None) if scheduler is None else scheduler)
        self._overwrite = overwrite
        self._memory = memory
        self._source = source or f"torch {torch.__version__}"
        self._quiet = quiet
        self._layers: dict[str, int] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._decoded: Counter[str] = Counter()
        self._finished: dict[tuple[int, int, int], Path] = {}
        self._journal: list[dict[str, Any]] = []
        self._sample: dict[str, Any] = {}
        self._planned = 0
        self._last_mask: tuple[Any, ...] | None = None
        self._parts = file.with_name(file.name + ".parts")
        self._context = contextlib.ExitStack()
        self._writer: BackgroundWriter | None = None
        self._interceptor = Interceptor(self._roots, self._record, self._clock.on_open, self._on_close)

    # What a user calls inside the with-block.

    @contextlib.contextmanager
    def sample(self, name: str, seed: int | None = None) -> Iterator[None]:
        """Labels what runs inside as one sample (a prompt) and remembers when it is complete. Steps restart at 0."""
        self._clock.restart()
        self._interceptor.reset_sites()
        self._sample = {"sample_name": name, "seed": seed}
        try:
            yield
            if self._writer is not None:
                self._writer.drain()
                counts = [[site, step, n] for (site, step), n in self._counts.items()]
                self._journal.append({"name": name, "layers": list(self._layers), "counts": counts})
                (self._parts / "samples.json").write_text(json.dumps(self._journal))
        finally:
            self._sample = {}

    def finished(self, name: str) -> bool:
        """True where an interrupted run has completed this sample, so that it need not run again."""
        return any(entry["name"] == name for entry in self._journal)

    def step(self, index: int, value: float = 0.0) -> None:
        """Says which denoising step comes next, for loops of one's own."""
        self._clock.set(index, value)
        self._interceptor.reset_sites()

    # The with-block.

    def __enter__(self) -> Capture:
        if not self.dry_run:
            self._prepare()
            self._writer = BackgroundWriter(self._parts, self._inspect, self._memory)
        self._context.enter_context(eager())
        self._context.enter_context(self._clock.follow(self._roots))
        self._interceptor.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: Any) -> bool:
        self._interceptor.remove()
        self._context.close()
        if self.dry_run:
            if kind is None or kind is _DryRunDone:
                self._require_something()
                if not self._quiet:
                    print(self.report())
            return kind is _DryRunDone
        writer = self._writer
        assert writer is not None
        try:
            writer.close()
        except Exception:
            if error is None:
                raise
        finished = schema.finished_cells(self._parts)
        if error is not None:
            self._say(f"{self.file}: stopped; {len(finished)} finished cells are kept in {self._parts}, run again")
            return False
        if not finished:
            shutil.rmtree(self._parts)
            self._require_something()
        self._finish(finished)
        return False

    def report(self) -> str:
        """Table of what was (or, after a dry run, would be) written and what was left out, and why."""
        steps = self._clock.total if self._clock.has_timesteps else 0
        return self.summary.render(str(self.file), self.dry_run, steps, self.plan)

    # Files.

    def _signature(self) -> dict[str, Any]:
        plan = self.plan.to_dict()
        return {"model": self._model} | {name: plan[name] for name in ("heads", "max_tokens", "cfg", "output")}

    def _prepare(self) -> None:
        if not self.file.parent.is_dir():
            raise UsageError(f"{self.file}: the folder {self.file.parent} does not exist")
        signature = self._parts / "signature.json"
        if self._overwrite:
            shutil.rmtree(self._parts, ignore_errors=True)
            self.file.unlink(missing_ok=True)
        if self.file.exists():
            schema.refuse_mismatch(self.file, schema.read_signature(self.file), self._signature())
            self._parts.mkdir(exist_ok=True)
            schema.split(self.file, self._parts)
        if signature.exists():
            schema.refuse_mismatch(self._parts, json.loads(signature.read_text()), self._signature())
        self._parts.mkdir(exist_ok=True)
        signature.write_text(json.dumps(self._signature()))
        self._finished = schema.finished_cells(self._parts)
        self._planned = sum(path.stat().st_size for path in self._finished.values())
        journal = self._parts / "samples.json"
        if journal.exists():
            self._journal = json.loads(journal.read_text())
        if self._journal:
            last = self._journal[-1]
            self._layers = {name: index for index, name in enumerate(last["layers"])}
            self._counts = Counter({(site, step): n for site, step, n in last["counts"]})

    def _finish(self, finished: dict[tuple[int, int, int], Path]) -> None:
        size = schema.assemble(
            finished.values(),
            self.file,
            {
                "model": self._model,
                "source": self._source,
                "signature": json.dumps(self._signature()),
                "plan": json.dumps(self.plan.to_dict()),
            },
        )
        shutil.rmtree(self._parts)
        self._say(self.summary.closing(str(self.file), len(finished), size))

    def _require_something(self) -> None:
        """Raises the sentence that explains why nothing was (or would be) written."""
        if self.summary.cells:
            return
        seen = self.summary.seen
        what = self._model or "the model"
        if not seen:
            raise DataError(
                f"no attention was seen in {what}: nothing ran inside the capture, or the model computes attention by "
                "hand (choose its 'sdpa' implementation, or mark its function with sage2_capture.attention)"
            )
        reasons = self.summary.reasons()
        if reasons and self.summary.selected:
            raise DataError(f"none of the selected calls of {what} can be recorded: {reasons}")
        raise UsageError(
            f"the plan selects nothing: {what} called attention in layers 0 to {len(self._layers) - 1}, timesteps 0 to "
            f"{self.summary.last_step}; the plan asks for layers={self.plan.layers}, timesteps={self.plan.timesteps}, "
            f"samples={self.plan.samples}, heads={self.plan.heads}"
        )

    def _say(self, sentence: str) -> None:
        if not self._quiet:
            print(sentence, file=sys.stderr)

    # One attention call.

    def _record(self, call: AttentionCall, original: Callable[[], torch.Tensor]) -> torch.Tensor:
        if EXCLUDED.search(call.site):
            return original()
        decoding = call.q_len == 1 and call.kv_len > 1
        step = self._clock.step
        if decoding and not self._clock.has_timesteps:
            if not self.plan.decode:
                return original()
            self._decoded[call.site] += 1
            step = self._decoded[call.site]
        else:
            self._decoded[call.site] = 0
        if self.dry_run and step > 0 and self._clock.has_timesteps:
            raise _DryRunDone
        layer = self._layers.setdefault(call.site, len(self._layers))
        row = self.summary.see(layer, call.site, step)
        if not (self.plan.layers(layer, call.site) and (self.dry_run or self.plan.timesteps(step))):
            return original()
        self.summary.selected += 1
        meaning = self._meaning(call)
        if meaning.reason is not None:
            self.summary.skip(row, meaning.reason)
            return original()
        out = original()
        self._store(call, out, meaning, layer, step, row)
        return out

    def _store(self, call: AttentionCall, out: torch.Tensor, meaning: Meaning, layer: int, step: int, row: Any) -> None:
        k, v = unrepeat_heads(call)
        for piece in pieces(meaning.parts, call.q.shape[0], self._clock.branch, self.plan.cfg):
            sample = self._counts[call.site, step]
            self._counts[call.site, step] += 1
            chosen = cut(call, k.shape[1], piece, self.plan) if self.plan.samples(sample) else None
            if chosen is None:
                continue
            q_shape, k_shape = chosen.shape(call.q.shape[-1])
            tensors = (q_shape, q_shape, k_shape, k_shape) if self.plan.output else (q_shape, k_shape, k_shape)
            size = sum(b * h * n * d for b, h, n, d in tensors) * call.q.element_size()
            if (layer, step, sample) in self._finished:
                self.summary.add(row, q_shape, k_shape, size, resumed=True)
                continue
            if self.plan.max_bytes is not None and self._planned + size > self.plan.max_bytes:
                self.summary.skip(row, "beyond max_bytes")
                continue
            self._planned += size
            self.summary.add(row, q_shape, k_shape, size)
            if self._writer is None:
                continue
            self._writer.reserve(size)
            place = {
                "layer": layer,
                "layer_name": call.site,
                "timestep": step,
                "timestep_value": self._clock.value,
                "sample": sample,
            }
            cell, check = make_cell(call, k, v, out, chosen, self.plan, place)
            cell.extras = chosen.extras | self._sample | {"cfg_branch": piece.branch, "source": call.source}
            self._writer.put(cell, check)

    def _meaning(self, call: AttentionCall) -> Meaning:
        if call.unsupported is not None:
            return Meaning(reason=call.unsupported)
        # All layers of a model usually get the same mask object; reading it once is enough.
        key = (call.mask, call.is_causal, call.causal_align, call.q_len, call.kv_len)
        last = self._last_mask
        if last is None or last[0][0] is not key[0] or last[0][1:] != key[1:]:
            last = self._last_mask = (key, understand(*key))
        return last[1]

    def _on_close(self, _prefix: str) -> None:
        self._last_mask = None
        if self.dry_run and not self._clock.has_timesteps and self.summary.seen:
            raise _DryRunDone

    def _inspect(self, cell: Cell, check: OutputRows | None) -> str | None:
        """Runs in the writer's thread: counts what is not finite, proves the meaning, says why to leave a cell out."""
        row = self.summary.rows[cell.layer]
        bad = {name: count for name, t in cell.tensors().items() if (count := count_nonfinite(t, cell.dtype))}
        if bad:
            self.summary.note_nonfinite(row, cell, bad)
        if check is None:
            return None
        visible = visible_keys(check.rows, cell.q.shape[2], cell.k.shape[2], cell.is_causal, cell.causal_align)
        if explains_output(cell.q, cell.k, cell.v, visible, cell.sm_scale, cell.dtype, check):
            return None
        self.summary.retract(row, cell, UNEXPLAINED)
        return UNEXPLAINED


def capture(
    file: str | Path,
    plan: Plan | str | dict[str, Any] | None = None,
    model: Any = None,
    *,
    components: Iterable[str] | None = None,
    scheduler: Any = None,
    overwrite: bool = False,
    dry_run: bool = False,
    memory: int = 2 << 30,
    source: str = "",
    quiet: bool = False,
) -> Capture:
    """Context manager that records the attention of `model` into the capture file `file`.

        with capture("run.h5", Plan(layers="25%", timesteps="::10"), model=pipe) as run:
            pipe(prompt)

    plan        a Plan, its text or dictionary form (see `Plan`); everything by default
    model       a torch module, or a pipeline of diffusers (its denoisers) or transformers; None watches every call in
                the block, without names
    components  names of a pipeline's components to watch instead of its denoisers
    scheduler   a diffusers scheduler that steps the model, where `model` is no pipeline that has one
    overwrite   start anew; otherwise cells that an earlier run has written to `file` are kept and the rest added
    dry_run     run one step of the model only, write nothing, print what would be written and how large it is
    memory      bytes that may wait for the disk; beyond it the model waits
    source      free text for the file's attribute of that name

    Cells are finished one by one in `file`.parts; `file` appears when the block ends without error. Raises UsageError
    where the plan selects nothing, DataError where no attention is seen or the disk is full.
    """
    if isinstance(plan, str):
        plan = Plan.parse(plan)
    elif isinstance(plan, dict):
        plan = Plan.from_dict(plan)
    return Capture(Path(file), plan or Plan(), model, components, scheduler, overwrite, dry_run, memory, source, quiet)
