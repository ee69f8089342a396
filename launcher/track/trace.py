"""What the processors of each rank do in a few steps: RUN/traces, for Perfetto or chrome://tracing."""

import contextlib
import gzip
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile, record_function

from launcher import files
from launcher.clock import Phase, Traced
from launcher.table import table_lines
from launcher.track.config import TraceConfig
from launcher.world import World

FOLDER: Final = "traces"
_OPERATORS: Final = 40
"""Rows of the table."""
_MOST_BYTES: Final = 256 * 2**20
"""Of a trace: what no viewer opens is not written."""
_MOST_ALLOCATIONS: Final = 200_000
"""The newest that a snapshot of memory knows."""
_PHASE: Final = "phase "
Intervals = NDArray[np.float64]
"""(N, 2): beginnings and ends, in microseconds."""


@final
class StepTracer:
    """Records steps `from_step` and some more; again every so many steps, if asked. A file for each rank."""

    def __init__(self, config: TraceConfig, run_url: str, world: World) -> None:
        self._config = config
        self._url = files.join(run_url, FOLDER)
        self._world = world
        self._profile: profile | None = None
        self._first = 0
        self._found: Traced | None = None

    def begin_step(self, step: int) -> None:
        """See launcher.clock.Tracer."""
        config = self._config
        if self._profile is not None and step >= self._first + config.steps:
            self._profile.stop()
            self._finish(self._profile)
            self._profile = None
        late = step - config.from_step
        if self._profile is None and (late == 0 or (late > 0 and config.every and late % config.every == 0)):
            self._first, on_gpu = step, self._world.device.type == "cuda"
            if config.memory and on_gpu:
                torch.cuda.memory._record_memory_history(max_entries=_MOST_ALLOCATIONS)
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
            self._profile = profile(activities=kinds, profile_memory=config.memory)
            self._profile.start()

    def inside(self, name: Phase) -> contextlib.AbstractContextManager[object]:
        """See launcher.clock.Tracer."""
        return contextlib.nullcontext() if self._profile is None else record_function(f"{_PHASE}{name}")

    def take(self) -> Traced | None:
        """See launcher.clock.Tracer."""
        found, self._found = self._found, None
        return found

    def _finish(self, found: profile) -> None:
        name = f"step-{self._first:010}-rank-{self._world.rank}"
        seconds = seconds_of(found.events(), self._config.steps)
        try:
            names = self._write_files(found, name, seconds)
        except OSError as error:  # it must not end a run
            print(f"the trace is not written: {error.strerror or error}", flush=True)
            names = []
        here = files.local_path(self._url) is not None  # MLflow is sent files of this machine
        self._found = Traced(
            step=self._first, steps=self._config.steps, seconds=seconds, files=names if here else []
        )
        if self._world.is_main:
            last = self._first + self._config.steps - 1
            print(f"traced steps {self._first} to {last}: {', '.join(names)}", flush=True)
            print("\n".join(_phase_lines(seconds)), flush=True)

    def _write_files(self, found: profile, name: str, seconds: Mapping[str, float]) -> list[str]:
        """Returns what was written, relative to the run."""
        on_gpu = self._world.device.type == "cuda"
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=order, row_limit=_OPERATORS, max_name_column_width=60)
        written = {f"{name}.txt": "\n".join([*_phase_lines(seconds), "", table]).encode()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            found.export_chrome_trace(str(path))
            written[f"{name}.json.gz"] = gzip.compress(path.read_bytes(), 6)
            if self._config.memory and on_gpu:
                torch.cuda.memory._dump_snapshot(str(path))
                torch.cuda.memory._record_memory_history(enabled=None)
                written[f"{name}.memory.pickle"] = path.read_bytes()
        names = []
        for key, data in written.items():
            if len(data) > _MOST_BYTES:
                print(f"{key} has {len(data) / 1e6:.0f} MB and is not written; trace fewer steps", flush=True)
                continue
            files.write_bytes(files.join(self._url, key), data)
            names.append(f"{FOLDER}/{key}")
        return names


def make_tracer(config: TraceConfig | None, run_url: str, world: World) -> StepTracer | None:
    """None where nothing is to be traced."""
    return None if config is None else StepTracer(config, run_url, world)


def seconds_of(events: Iterable[Any] | None, steps: int) -> dict[str, float]:
    """Seconds a step: of each phase, of communication, and of that the part in which nothing was computed.

    On a GPU of its kernels, else of operators: NCCL's and gloo's against all others. Who waits for a slower
    rank communicates for as long.
    """
    phases: dict[str, float] = {}
    spans: dict[tuple[bool, bool], list[tuple[float, float]]] = {}
    for event in events or ():
        begun, ended = event.time_range.start, event.time_range.end
        on_gpu = event.device_type.name == "CUDA"
        if event.name.startswith(_PHASE):
            if not on_gpu:
                phases[event.name] = phases.get(event.name, 0.0) + (ended - begun) / 1e6 / steps
        elif on_gpu or event.name.startswith(("aten::", "gloo:")):
            talks = "nccl" in event.name.lower() or event.name.startswith("gloo:")
            spans.setdefault((on_gpu, talks), []).append((begun, ended))
    on_gpu = any(key[0] for key in spans)
    talk, compute = (_union(spans.get((on_gpu, talks), [])) for talks in (True, False))
    both = _union([*map(tuple, talk), *map(tuple, compute)])
    per_step = 1e-6 / steps
    communication = {"communication": _total(talk), "communication, alone": _total(both) - _total(compute)}
    return phases | {name: value * per_step for name, value in communication.items()}


def _union(spans: Sequence[tuple[float, ...]]) -> Intervals:
    """Disjoint intervals that cover the same time."""
    if not spans:
        return np.empty((0, 2))
    ordered = np.array(sorted(spans))
    # 0-4, 1-2, 3-5, 7-8: a new one begins where all before have ended, at 0 and 7; each ends at the latest.
    latest = np.maximum.accumulate(ordered[:, 1])
    begins = np.concatenate([[True], ordered[1:, 0] > latest[:-1]])
    ends = np.concatenate([begins[1:], [True]])
    return np.stack([ordered[begins, 0], latest[ends]], axis=1)


def _total(intervals: Intervals) -> float:
    return float((intervals[:, 1] - intervals[:, 0]).sum())


def _phase_lines(seconds: Mapping[str, float]) -> list[str]:
    whole = math.fsum(value for name, value in seconds.items() if name.startswith(_PHASE))
    shares = [
        (name, f"{value * 1e3:,.2f} ms a step", f"{value / whole:.1%}") for name, value in seconds.items()
    ]
    return table_lines(shares)
