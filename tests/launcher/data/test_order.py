"""The order is a bijection, uniform, and a function of (seed, step) alone."""

import numpy as np
import pytest

from launcher.data.order import (
    choose,
    draw,
    evenly_spaced,
    permute,
    sample_keys,
    stream_key,
    windows_of_step,
    windows_of_streams,
)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 10_007, 2**20 + 1])
def test_permute_is_a_bijection(size: int) -> None:
    image = permute(np.arange(size), size, seed=3)
    assert np.array_equal(np.sort(image), np.arange(size))


def test_permute_maps_an_index_alone_as_among_others() -> None:
    together = permute(np.arange(1000), 1000, seed=5)
    assert [int(permute(np.array([i]), 1000, seed=5)[0]) for i in range(1000)] == together.tolist()


def test_permute_reaches_into_the_largest_domain() -> None:
    size = 2**62
    image = permute(np.array([0, 1, size - 1]), size, seed=1)
    assert len(set(image.tolist())) == 3
    assert image.min() >= 0


@pytest.mark.parametrize(
    ("index", "size", "message"),
    [
        ([0], 0, "size is 0"),
        ([5], 5, "spans 5 to 5; allowed: 0 to 4"),
        ([-1], 5, "spans -1"),
        ([0], 2**63, "allowed: 1 to"),
    ],
)
def test_permute_refuses_what_is_outside_its_domain(index: list[int], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        permute(np.array(index), size, seed=0)


def test_order_never_changes_between_versions() -> None:
    """A resumed run continues the order of the code that began it: these numbers are a file format."""
    assert permute(np.arange(8), 1000, seed=1).tolist() == [66, 223, 551, 24, 189, 132, 84, 129]
    assert windows_of_step(3, 4, 7, seed=1).tolist() == [6, 1, 1, 6]


def _chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def _bound(cells: int) -> float:
    """Six standard deviations above a chi-square's mean: k degrees of freedom have mean k, variance 2k.
    A fair order exceeds it with a chance below 1e-3 (at k = 2, exp(-7); less at larger k); the seeds are
    fixed, so that the test never flickers."""
    degrees = cells - 1
    return degrees + 6 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("size", [3, 4, 10, 100, 130])
def test_every_place_is_equally_likely_for_every_index(size: int) -> None:
    trials = 20 * size
    index = np.arange(min(size, 5))
    images = np.stack([permute(index, size, seed=stream_key(7, trial)) for trial in range(trials)])
    for column in images.T:
        assert _chi_square(np.bincount(column, minlength=size)) < _bound(size)


def test_all_orders_of_four_are_equally_likely() -> None:
    orders = [tuple(permute(np.arange(4), 4, seed=trial).tolist()) for trial in range(24 * 100)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert _chi_square(counts) < _bound(24)


def test_neighbours_end_up_far_apart() -> None:
    """The distance of two random places in [0, n) is n/3 on average, with variance n**2/18; of n nearly
    independent pairs, six standard errors of the mean are n * 6 / sqrt(18 * n)."""
    n = 100_003
    distance = np.abs(np.diff(permute(np.arange(n), n, seed=2)))
    assert abs(distance.mean() - n / 3) < n * 6 / (18 * n) ** 0.5


def test_every_epoch_visits_every_window_once() -> None:
    num_windows, batch = 103, 8  # the epochs end inside a batch
    stream = np.concatenate([windows_of_step(step, batch, num_windows, seed=4) for step in range(52)])
    epochs = stream[: 4 * num_windows].reshape(4, num_windows)
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(num_windows))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_a_batch_larger_than_the_corpus_spans_several_epochs() -> None:
    windows = windows_of_step(0, 10, 3, seed=0)
    assert [sorted(windows[i : i + 3].tolist()) for i in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_seeds_give_different_orders() -> None:
    orders = {tuple(windows_of_step(0, 64, 1000, seed=seed).tolist()) for seed in range(50)}
    assert len(orders) == 50


def test_stream_keys_of_different_parts_differ() -> None:
    keys = {stream_key(a, b) for a in range(100) for b in range(100)} | {stream_key(a) for a in range(100)}
    assert len(keys) == 10_100
    assert all(0 <= key < 2**64 for key in keys)


@pytest.mark.parametrize("below", [2, 3, 10, 1000])
def test_drawn_numbers_are_equally_likely(below: int) -> None:
    numbers = draw(sample_keys(np.arange(100), 1), 20 * below, below)
    assert numbers.shape == (100, 20 * below)
    assert _chi_square(np.bincount(numbers.ravel(), minlength=below)) < _bound(below)


def test_chosen_numbers_differ_and_are_equally_likely() -> None:
    chosen = choose(sample_keys(np.arange(5000), 2), 3, 7)
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    for column in chosen.T:
        assert _chi_square(np.bincount(column, minlength=7)) < _bound(7)


def test_samples_and_streams_have_keys_of_their_own() -> None:
    keys = [sample_keys(np.arange(1000), seed, split) for seed in range(5) for split in range(2)]
    assert len(np.unique(np.concatenate(keys))) == 10_000


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(3, 9, [0, 3, 6]), (5, 3, [0, 1, 2]), (2, 0, []), (0, 9, [])]
)
def test_evaluated_samples_are_evenly_spaced(count: int, size: int, expected: list[int]) -> None:
    assert evenly_spaced(count, size).tolist() == expected


def test_evaluated_samples_of_an_endless_source_do_not_overflow() -> None:
    spaced = evenly_spaced(2**15, 2**62)
    assert (np.diff(spaced) == 2**47).all()


@pytest.mark.parametrize(("streams", "windows"), [(1, 7), (4, 8), (4, 11), (5, 103)])
def test_a_stream_continues_where_it_ended_until_it_begins_again(streams: int, windows: int) -> None:
    length = windows // streams
    for epoch in range(3):
        steps = [
            windows_of_streams(epoch * length + place, streams, windows, seed=2) for place in range(length)
        ]
        assert [begins for _, begins in steps] == [True] + [False] * (length - 1)
        read = np.stack([row for row, _ in steps], axis=1)  # (streams, length)
        assert np.array_equal(np.diff(read, axis=1), np.ones((streams, length - 1)))
        assert len(np.unique(read)) == streams * length
        assert 0 <= read.min() <= read.max() < windows


def test_every_window_is_read_in_some_epoch() -> None:
    seen = {int(w) for step in range(2 * 60) for w in windows_of_streams(step, 4, 11, seed=0)[0]}
    assert seen == set(range(11))


def test_streams_depend_on_seed_and_step_alone() -> None:
    firsts = [int(windows_of_streams(2, 8, 31, seed=seed)[0][0]) for seed in range(20)]
    assert len(set(firsts)) > 1
    assert firsts == [int(windows_of_streams(2, 8, 31, seed=seed)[0][0]) for seed in range(20)]
