"""What the processors of each rank do in a few steps: RUN/traces, for Perfetto or chrome://tracing."""

import contextlib
import gzip
import tempfile
from pathlib import Path
from typing import final

from torch.profiler import ProfilerActivity, profile, record_function

from launcher import files
from launcher.clock import Phase
from launcher.track.config import TraceConfig
from launcher.world import World

FOLDER = "traces"
_OPERATORS = 40
"""Rows of the table."""


@final
class StepTracer:
    """Records steps `from_step` and some more, once in an attempt. Each rank writes a file of its own."""

    def __init__(self, config: TraceConfig, run_url: str, world: World) -> None:
        self._first, self._after = config.from_step, config.from_step + config.steps
        self._url = files.join(run_url, FOLDER)
        self._world = world
        self._profile: profile | None = None

    def begin_step(self, step: int) -> None:
        """See launcher.clock.Tracer."""
        if self._profile is not None and step >= self._after:
            self._profile.stop()
            self._write(self._profile)
            self._profile = None
        elif step == self._first:
            kinds = [ProfilerActivity.CPU]
            kinds += [ProfilerActivity.CUDA] if self._world.device.type == "cuda" else []
            self._profile = profile(activities=kinds)
            self._profile.start()

    def inside(self, name: Phase) -> contextlib.AbstractContextManager[object]:
        """See launcher.clock.Tracer."""
        return contextlib.nullcontext() if self._profile is None else record_function(f"phase {name}")

    def _write(self, found: profile) -> None:
        name = f"step-{self._first:010}-rank-{self._world.rank}"
        try:
            self._write_files(found, name)
        except OSError as error:  # it must not end a run
            print(f"the trace is not written: {error.strerror or error}", flush=True)
            return
        if self._world.is_main:
            print(f"traced steps {self._first} to {self._after - 1}: {FOLDER}/{name}.json.gz", flush=True)

    def _write_files(self, found: profile, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            found.export_chrome_trace(str(path))
            files.write_bytes(files.join(self._url, f"{name}.json.gz"), gzip.compress(path.read_bytes(), 6))
        order = "self_cuda_time_total" if self._world.device.type == "cuda" else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=order, row_limit=_OPERATORS, max_name_column_width=60)
        files.write_text(files.join(self._url, f"{name}.txt"), table)


def make_tracer(config: TraceConfig | None, run_url: str, world: World) -> StepTracer | None:
    """None where nothing is to be traced."""
    return None if config is None else StepTracer(config, run_url, world)
