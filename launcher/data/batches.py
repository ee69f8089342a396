"""Batches of one rank: the part of each step's global batch that is its own, prepared ahead."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from launcher.data.dataset import IGNORED, Batch, Dataset
from launcher.data.order import evenly_spaced, windows_of_step, windows_of_streams
from launcher.errors import Problem, UserError


@final
class Batches:
    """The micro batches of one rank, by data step.

    Sample j = (rank * num_micro + micro) * micro_batch_size + row of the global batch goes to (rank, micro,
    row): read in that order, the samples are the same at any world size. `at` is a pure function of the data
    step, so a resume or a jump needs no state; a background thread prepares the steps after the one asked
    for.

    With `streams`, row j goes on at each step where it ended at the step before.
    """

    def __init__(
        self,
        samples: Dataset,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        prefetch: int,
        streams: bool = False,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; allowed: 0 to {world_size - 1}")
        if samples.num_samples < 1:
            raise ValueError("there are no samples; at least 1 is needed")
        if streams:
            _check_streams(samples.num_samples, global_batch_size)
        self._samples = samples
        self._global_batch_size = global_batch_size
        self._seed = seed
        self._streams = streams
        self._prefetch = prefetch
        self._rows = _rows_of_rank(global_batch_size, micro_batch_size, rank, world_size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch") if prefetch else None
        self._pending: dict[int, Future[list[Batch]]] = {}

    def at(self, data_step: int) -> list[Batch]:
        """The micro batches of a data step (from 0). Whatever goes wrong in the thread is raised here."""
        if self._thread is None:
            return self._read(data_step)
        wanted = range(data_step, data_step + self._prefetch + 1)
        for stale in [s for s in self._pending if s not in wanted]:
            self._pending.pop(stale).cancel()
        for ahead in wanted:
            if ahead not in self._pending:
                self._pending[ahead] = self._thread.submit(self._read, ahead)
        return self._pending.pop(data_step).result()

    def close(self) -> None:
        """Stop the thread; what it is preparing is finished and thrown away."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._pending.clear()

    def _read(self, data_step: int) -> list[Batch]:
        begins: bool | None = None
        shape = data_step, self._global_batch_size, self._samples.num_samples, self._seed
        if self._streams:
            windows, begins = windows_of_streams(*shape)
        else:
            windows = windows_of_step(*shape)
        return [replace(self._samples.batch(windows[rows]), begins=begins) for rows in self._rows]


def _check_streams(num_windows: int, num_streams: int) -> None:
    """Raise UserError where no stream is longer than one window: nothing would be carried."""
    if num_windows < 2 * num_streams:
        message = f"{num_streams} streams side by side are more than half of the {num_windows} windows"
        remedy = f"use at most {num_windows // 2}, shorter windows or more data, or no train.truncated_bptt"
        raise UserError(Problem.at("train.global_batch_size", message, remedy))


def _rows_of_rank(total: int, micro_batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Positions in the global batch of each of a rank's micro batches."""
    share = total // world_size
    return list(np.arange(rank * share, (rank + 1) * share).reshape(-1, micro_batch_size))


def validation_windows(
    samples: Dataset, num_sequences: int, num_streams: int | None = None
) -> NDArray[np.int64]:
    """The samples that an evaluation scores, the same at any world size: (T, R), to be read row by row.

    Evenly spaced ones in one row; of streams, R places with T samples each that follow on one another, about
    `num_sequences` in all.
    """
    if num_streams is None or num_sequences == 0:
        return evenly_spaced(num_sequences, samples.num_samples)[None]
    first_R = evenly_spaced(num_streams, samples.num_samples)
    most = max(1, samples.num_samples // num_streams)
    return first_R + np.arange(min(most, -(-num_sequences // num_streams)))[:, None]


def validation_batches(
    samples: Dataset,
    windows_TR: NDArray[np.int64],
    *,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    streams: bool = False,
) -> Iterator[Batch]:
    """This rank's part of the samples, row by row. With `streams`, a row goes on where the one before ended.

    Every rank gets equally many batches of equal shape, as collectives need; what is left over is padding,
    whose targets are all IGNORED.
    """
    count = windows_TR.shape[1]
    per_forward = micro_batch_size * world_size
    padded = -(-count // per_forward) * per_forward
    for place, windows_R in enumerate(windows_TR):
        for rows in _rows_of_rank(padded, micro_batch_size, rank, world_size):
            batch = samples.batch(windows_R[np.minimum(rows, count - 1)])
            batch.y[np.flatnonzero(rows >= count)] = IGNORED
            yield replace(batch, begins=place == 0) if streams else batch
