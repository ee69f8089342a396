"""The same global order at any world size and micro batch; prefetch changes nothing but the waiting."""

import threading
from typing import final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from launcher.data.batches import Batches, validation_batches, validation_windows
from launcher.data.dataset import Batch, Dataset, Tokens, Windows
from launcher.data.order import windows_of_step
from launcher.errors import UserError
from models.loss import IGNORED


def windows(num_tokens: int = 1000, seq_len: int = 8) -> Windows:
    return Windows(Tokens(np.arange(num_tokens), vocab_size=num_tokens, place="test"), seq_len)


def batches(
    rank: int = 0, world_size: int = 1, micro: int = 8, prefetch: int = 0, total: int = 16
) -> Batches:
    return Batches(
        windows(),
        global_batch_size=total,
        micro_batch_size=micro,
        rank=rank,
        world_size=world_size,
        seed=3,
        prefetch=prefetch,
    )


def test_a_window_predicts_the_next_token() -> None:
    batch = windows().batch(np.array([0, 5]))
    assert batch.x.tolist() == [list(range(8)), list(range(40, 48))]
    assert torch.equal(batch.y, batch.x + 1)
    assert batch.x.dtype == batch.y.dtype == torch.int64
    assert batch.x.is_contiguous()
    assert batch.y.is_contiguous()


@pytest.mark.parametrize(("num_tokens", "count"), [(0, 0), (1, 0), (8, 0), (9, 1), (16, 1), (17, 2)])
def test_windows_use_every_token_that_has_a_next(num_tokens: int, count: int) -> None:
    assert windows(num_tokens).num_samples == count


@pytest.mark.parametrize(("world_size", "micro"), [(1, 16), (1, 8), (1, 1), (2, 8), (2, 2), (4, 4), (4, 1)])
def test_global_order_is_the_same_at_any_world_size_and_micro_batch(world_size: int, micro: int) -> None:
    expected = windows().batch(windows_of_step(5, 16, windows().num_samples, seed=3))
    ranks = [batches(rank, world_size, micro).at(5) for rank in range(world_size)]
    order = [batch for micros in ranks for batch in micros]
    assert torch.equal(torch.cat([batch.x for batch in order]), expected.x)
    assert torch.equal(torch.cat([batch.y for batch in order]), expected.y)


def test_jumps_leave_no_batches_in_memory() -> None:
    jumping = batches(prefetch=2)
    for step in (0, 100, 200, 300):
        jumping.at(step)
    assert sorted(jumping._pending) == [301, 302]


def test_jumping_gives_what_walking_gives() -> None:
    walking = batches(prefetch=2)
    walked = [walking.at(step)[0].x for step in range(12)]
    jumping = batches(prefetch=2)
    for step in (11, 3, 4, 0, 7, 7):
        assert torch.equal(jumping.at(step)[0].x, walked[step])
    walking.close()
    jumping.close()


@pytest.mark.parametrize("prefetch", [1, 2, 7])
def test_prefetch_changes_no_batch(prefetch: int) -> None:
    ahead, plain = batches(prefetch=prefetch), batches(prefetch=0)
    for step in range(30):
        pairs = zip(ahead.at(step), plain.at(step), strict=True)
        assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in pairs)
    ahead.close()


@final
class _Watched(Dataset):
    """Notes what is read, and fails at one sample."""

    def __init__(self, fails_at: int = -1) -> None:
        self.seen: list[int] = []
        self.read_two = threading.Event()
        self.fails_at = fails_at

    @property
    def num_samples(self) -> int:
        return 1000

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        if self.fails_at in indices:
            raise OSError(f"sample {self.fails_at} is gone")
        self.seen.append(int(indices[0]))
        if len(self.seen) == 2:
            self.read_two.set()
        return Batch(torch.from_numpy(indices), torch.from_numpy(indices))


def watched(samples: Dataset, prefetch: int) -> Batches:
    return Batches(
        samples, global_batch_size=1, micro_batch_size=1, rank=0, world_size=1, seed=0, prefetch=prefetch
    )


def test_the_next_step_is_read_before_it_is_asked_for() -> None:
    samples = _Watched()
    ahead = watched(samples, prefetch=1)
    ahead.at(0)
    assert samples.read_two.wait(timeout=60)
    ahead.close()


def test_no_step_is_read_twice() -> None:
    samples = _Watched()
    ahead = watched(samples, prefetch=3)
    for step in range(10):
        ahead.at(step)
    ahead.close()
    assert samples.seen[:10] == [int(windows_of_step(s, 1, 1000, seed=0)[0]) for s in range(10)]
    assert len(samples.seen) == len(set(samples.seen))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_is_raised_at_its_own_step(prefetch: int) -> None:
    bad = int(windows_of_step(2, 1, 1000, seed=0)[0])
    ahead = watched(_Watched(fails_at=bad), prefetch)
    ahead.at(0)
    ahead.at(1)
    for _ in range(2):  # and again, when it is asked for again
        with pytest.raises(OSError, match=f"sample {bad} is gone"):
            ahead.at(2)
    ahead.at(3)
    ahead.close()


def test_a_rank_outside_its_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 2; allowed: 0 to 1"):
        batches(2, 2, 8)


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Batches(windows(3), global_batch_size=1, micro_batch_size=1, rank=0, world_size=1, seed=0, prefetch=0)


def test_a_token_outside_the_vocabulary_is_named() -> None:
    tokens = Tokens(np.array([1, 2, 300, 4], dtype=np.uint16), vocab_size=256, place="x.bin")
    assert tokens.read(0, 2).tolist() == [1, 2]
    with pytest.raises(UserError, match=r"x.bin: token 2 is 300; model.vocab_size is 256\n.*at least 301"):
        tokens.read(1, 3)


def test_reading_past_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens 3 to 6 asked for; there are 4"):
        Tokens(np.arange(4), vocab_size=9, place="x").read(3, 3)


def _validation(num_sequences: int, micro: int, world_size: int) -> list[list[Batch]]:
    return [
        list(
            validation_batches(
                windows(),
                validation_windows(windows(), num_sequences),
                micro_batch_size=micro,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]


def _scored_starts(ranks: list[list[Batch]]) -> list[int]:
    rows = [
        (x[0], y[0]) for rank in ranks for b in rank for x, y in zip(b.x.tolist(), b.y.tolist(), strict=True)
    ]
    return sorted(start for start, target in rows if target != IGNORED)


@pytest.mark.parametrize(("world_size", "micro"), [(1, 1), (1, 7), (2, 4), (3, 3), (4, 8)])
@pytest.mark.parametrize("num_sequences", [1, 10, 64])
def test_the_same_validation_windows_are_scored_at_any_world_size(
    world_size: int, micro: int, num_sequences: int
) -> None:
    ranks = _validation(num_sequences, micro, world_size)
    assert _scored_starts(ranks) == _scored_starts(_validation(num_sequences, 1, 1))
    assert len(_scored_starts(ranks)) == num_sequences
    assert len({len(rank) for rank in ranks}) == 1
    assert {tuple(batch.x.shape) for rank in ranks for batch in rank} == {(micro, 8)}


def test_validation_windows_are_evenly_spaced() -> None:
    starts = [start // 8 for start in _scored_starts(_validation(10, 5, 1))]
    assert starts == [i * windows().num_samples // 10 for i in range(10)]


def test_padding_is_ignored_in_every_position() -> None:
    (rank,) = _validation(3, 8, 1)
    assert (rank[0].y[3:] == IGNORED).all()
    assert (rank[0].y[:3] != IGNORED).all()


def test_no_more_is_scored_than_there_is() -> None:
    assert len(_scored_starts(_validation(10_000, 8, 2))) == windows().num_samples


def test_nothing_validation_gives_no_batches() -> None:
    for num_sequences, num_streams in ((8, None), (8, 2), (0, 2)):
        samples = windows(3 if num_sequences else 1000)
        chosen = validation_windows(samples, num_sequences, num_streams)
        assert not list(validation_batches(samples, chosen, micro_batch_size=2, rank=0, world_size=2))


def stream_batches(rank: int, world_size: int, micro: int, num_tokens: int = 1000) -> Batches:
    return Batches(
        windows(num_tokens),
        global_batch_size=8,
        micro_batch_size=micro,
        rank=rank,
        world_size=world_size,
        seed=3,
        prefetch=2,
        streams=True,
    )


@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (1, 2), (2, 4), (2, 2), (4, 1)])
def test_a_rank_keeps_its_streams(world_size: int, micro: int) -> None:
    ranks = [stream_batches(rank, world_size, micro) for rank in range(world_size)]
    for step in range(1, 15):
        before, now = ([batches.at(at) for batches in ranks] for at in (step - 1, step))
        for old, new in zip(before, now, strict=True):
            for a, b in zip(old, new, strict=True):
                assert b.begins is False
                assert torch.equal(a.y[:, -1], b.x[:, 0])  # the next token of the window before
    for batches in ranks:
        batches.close()


def test_streams_begin_together_at_any_world_size() -> None:
    begins = [stream_batches(0, size, 2).at(step)[0].begins for size in (1, 2) for step in (0, 14, 15, 30)]
    assert begins == [True, False, True, True] * 2


def test_windows_in_random_order_begin_nothing() -> None:
    assert batches().at(0)[0].begins is None


def test_streams_of_single_windows_are_refused_with_what_fits() -> None:
    with pytest.raises(UserError, match=r"8 streams side by side .* of the 15 windows\n.*at most 7"):
        stream_batches(0, 1, 8, num_tokens=121)


@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (1, 2), (2, 2), (4, 2)])
def test_validation_streams_continue_and_are_the_same_at_any_world_size(world_size: int, micro: int) -> None:
    chosen = validation_windows(windows(), 30, 8)  # of 124: four after one another in each of eight places
    assert chosen.tolist() == [[j * 124 // 8 + place for j in range(8)] for place in range(4)]
    size = {"micro_batch_size": micro, "world_size": world_size, "streams": True}
    ranks = [list(validation_batches(windows(), chosen, rank=rank, **size)) for rank in range(world_size)]
    assert sorted(row[0] // 8 for rank in ranks for b in rank for row in b.x.tolist()) == sorted(
        chosen.ravel().tolist()
    )
    for rank in ranks:
        a_row = len(rank) // 4
        assert [b.begins for b in rank] == [True] * a_row + [False] * 3 * a_row
        for before, after in zip(rank, rank[a_row:], strict=False):
            assert torch.equal(before.y[:, -1], after.x[:, 0])


def test_few_validation_windows_are_scored_once_each() -> None:
    assert validation_windows(windows(41), 64, 8).tolist() == [[0, 1, 2, 3, 4]]
    assert validation_windows(windows(161), 1000, 8).tolist() == [
        [0, 2, 5, 7, 10, 12, 15, 17],
        [1, 3, 6, 8, 11, 13, 16, 18],
    ]
