"""Batches of one rank: its part of each step's global batch, prepared ahead."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from launcher.data.dataset import Batch, Dataset
from launcher.data.order import evenly_spaced, windows_of_streams
from launcher.errors import Problem, UserError
from models.loss import IGNORED


@final
class Batches:
    """The micro batches of one rank, by data step.

    Row j = (rank * num_micro + micro) * micro_batch_size + row of the global batch goes to (rank, micro,
    row): read in that order, the samples are the same at any world size. `at` is a pure function of the data
    step, so a resume or a jump needs no state. A background thread prepares the next steps.

    With `streams`, row j of each step continues row j of the step before.
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
        """The micro batches of a data step (from 0). An error in the thread is raised here."""
        if self._thread is None:
            return self.read(data_step)
        # In a run this range moves by one step per call, so one read is added. A jump leaves reads that
        # nobody wants: one that has started cannot be cancelled, but its result is dropped.
        wanted = range(data_step, data_step + self._prefetch + 1)
        for stale in [s for s in self._pending if s not in wanted]:
            self._pending.pop(stale).cancel()
        for ahead in wanted:
            if ahead not in self._pending:
                self._pending[ahead] = self._thread.submit(self.read, ahead)
        return self._pending.pop(data_step).result()

    def close(self) -> None:
        """Stop the thread; it finishes the read in progress, whose result is dropped."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._pending.clear()

    def read(self, data_step: int) -> list[Batch]:
        """As `at`, in this thread, and without preparing the steps after it."""
        windows, begins = self._choose(data_step)
        return [replace(self._samples.batch(windows[rows]), begins=begins) for rows in self._rows]

    def windows(self, data_step: int) -> list[NDArray[np.int64]]:
        """Numbers of the samples in each micro batch of a data step."""
        return [self._choose(data_step)[0][rows] for rows in self._rows]

    def _choose(self, data_step: int) -> tuple[NDArray[np.int64], bool | None]:
        """Windows of the global batch and, for streams, whether they begin here."""
        shape = data_step, self._global_batch_size, self._samples.num_samples, self._seed
        # Of streams, row j is stream j at every step, and so always on the same rank and micro batch: the
        # state that the model carries from step to step never has to move.
        if self._streams:
            return windows_of_streams(*shape)
        return self._samples.order(data_step, self._global_batch_size, self._seed), None


def _check_streams(num_windows: int, num_streams: int) -> None:
    """Raise UserError where every stream would be one window long: no state would be carried."""
    if num_windows < 2 * num_streams:
        message = f"{num_streams} streams side by side are more than half of the {num_windows} windows"
        remedy = f"use at most {num_windows // 2}, shorter windows or more data, or no train.truncated_bptt"
        raise UserError(Problem.at("train.global_batch_size", message, remedy))


def _rows_of_rank(total: int, micro_batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Rows of the global batch in each of a rank's micro batches."""
    # Global batch 8, 2 ranks, micro batch 2: rank 0 reads rows [0, 1] then [2, 3], rank 1 [4, 5] then [6, 7].
    # Each rank's rows are contiguous, so on one rank with micro batch 4 the same rows come in the same order.
    per_rank = total // world_size
    return list(np.arange(rank * per_rank, (rank + 1) * per_rank).reshape(-1, micro_batch_size))


def validation_windows(
    samples: Dataset, num_sequences: int, num_streams: int | None = None
) -> NDArray[np.int64]:
    """The samples that an evaluation scores, the same at any world size: (T, R), to be read row by row.

    Without streams: one row of evenly spaced samples. With streams: T consecutive samples from each of R
    evenly spaced starts, about `num_sequences` in all.
    """
    if num_streams is None or num_sequences == 0:
        return evenly_spaced(num_sequences, samples.num_samples)[None]
    # 16 sequences of 4 streams over 100 samples start at 0, 25, 50 and 75 and take T = 4 steps: row 0 is [0,
    # 25, 50, 75], row 1 [1, 26, 51, 76]. At most 25 steps, or a stream would run into the next one's samples.
    first_R = evenly_spaced(num_streams, samples.num_samples)
    most = max(1, samples.num_samples // num_streams)
    return first_R + np.arange(min(most, -(-num_sequences // num_streams)))[:, None]  # (T, R)


def validation_batches(
    samples: Dataset,
    windows_TR: NDArray[np.int64],
    *,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    streams: bool = False,
) -> Iterator[Batch]:
    """This rank's part of the samples, row by row. With `streams`, each row continues the one before it.

    Every rank gets the same number of batches of the same shape, as collectives require. The last ones are
    padded with sequences whose targets are all IGNORED.
    """
    count = windows_TR.shape[1]
    per_forward = micro_batch_size * world_size
    padded = -(-count // per_forward) * per_forward
    # 5 samples, 2 ranks, micro batch 2: padded to 8 rows. Rank 1 reads rows [4, 5] and [6, 7], of which 5 to
    # 7 repeat sample 4 so that there is something to read, and count for nothing.
    for step, windows_R in enumerate(windows_TR):
        for rows in _rows_of_rank(padded, micro_batch_size, rank, world_size):
            batch = samples.batch(windows_R[np.minimum(rows, count - 1)])
            batch.y[np.flatnonzero(rows >= count)] = IGNORED
            yield replace(batch, begins=step == 0) if streams else batch
