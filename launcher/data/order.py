"""The global order of samples: a pure function of (seed, data_step), the same at any world size.

A seeded permutation of [0, size) in O(1) memory: a Feistel network over the smallest power of two that holds
`size`, applied until the result is inside ("Ciphers with arbitrary finite domains", Black and Rogaway, CT-RSA
2002). A resume therefore needs one integer, the data step.
"""

import numpy as np
from numpy.typing import NDArray

NO_END = 1 << 40
"""Number of samples of a source whose supply is endless."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
# Four rounds already pass for random functions (Luby and Rackoff 1988); small domains need more to mix.
_ROUNDS = 10


def stream_key(*parts: int) -> int:
    """Hash integers into one 64-bit key, with splitmix64's finalizer (Steele et al., OOPSLA 2014)."""
    # The order of the parts matters, so (seed, epoch) and (epoch, seed) differ. The constant is there because
    # the finalizer maps 0 to 0.
    key = 0
    for part in parts:
        key = _mix_int((key + _GOLDEN) ^ _mix_int((part + _GOLDEN) & _MASK))
    return key


def _mix_int(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each integer: random bits that stay the same in every version of every library."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permute(index: NDArray[np.integer], size: int, seed: int) -> NDArray[np.int64]:
    """Map each index in [0, size) to its position in a seeded permutation of [0, size)."""
    if not 1 <= size <= 1 << 62:
        raise ValueError(f"size is {size}; allowed: 1 to 2**62")
    at = np.atleast_1d(np.asarray(index))
    if at.size and not (int(at.min()) >= 0 and int(at.max()) < size):
        raise ValueError(f"index spans {at.min()} to {at.max()}; allowed: 0 to {size - 1}")
    value = _feistel(at.astype(np.uint64), size, seed)
    outside = value >= np.uint64(size)
    # Cycle walking: what falls outside is permuted again until it is inside. The result is still a
    # permutation, because the walk follows a cycle that began inside, and no two walks meet. The domain is
    # below 2 * size, so each pass brings about half or more of the rest inside.
    while outside.any():
        value[outside] = _feistel(value[outside], size, seed)
        outside = value >= np.uint64(size)
    return value.astype(np.int64)


def _feistel(value: NDArray[np.uint64], size: int, seed: int) -> NDArray[np.uint64]:
    """Permute [0, 2**bits). The two halves change alternately, so that an odd number of bits works too."""
    bits = (size - 1).bit_length()
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = value & low_mask, value >> low_bits
    # A round XORs one half with a hash of the other. The same hash undoes it, so every round is invertible
    # although mix() need not be once its result is masked.
    for number in range(_ROUNDS):
        key = np.uint64(stream_key(seed, number))
        if number % 2:
            low = low ^ (mix(high + key) & low_mask)
        else:
            high = high ^ (mix(low + key) & high_mask)
    return (high << low_bits) | low


def windows_of_step(data_step: int, global_batch_size: int, num_windows: int, seed: int) -> NDArray[np.int64]:
    """Window of each sample of a global batch; data steps count from 0.

    The samples of all steps are numbered consecutively; each epoch reads every window once, in its own order.
    """
    # 10 windows, global batch 8: step 0 is samples 0 to 7 of epoch 0. Step 1 is samples 8 to 15: the last two
    # of epoch 0, then the first six of epoch 1. No window is dropped where epochs meet.
    samples = np.arange(data_step * global_batch_size, (data_step + 1) * global_batch_size, dtype=np.int64)
    return shuffled(samples, num_windows, seed)


def shuffled(samples: NDArray[np.int64], num_windows: int, *key: int) -> NDArray[np.int64]:
    """Window of each of these samples, which are in rising order, if every epoch has its own permutation."""
    windows = np.empty_like(samples)
    if len(samples):
        for epoch in range(int(samples[0]) // num_windows, int(samples[-1]) // num_windows + 1):
            inside = samples // num_windows == epoch
            windows[inside] = permute(samples[inside] % num_windows, num_windows, stream_key(*key, epoch))
    return windows


def windows_of_streams(
    data_step: int, num_streams: int, num_windows: int, seed: int
) -> tuple[NDArray[np.int64], bool]:
    """Window of each stream at a data step (from 0), and whether the streams start there.

    The windows are cut into streams of equal length, which are read side by side, epoch after epoch. The
    remaining windows are skipped, some before the first stream and the others after the last one; how many of
    them come before is drawn in each epoch.
    """
    # 11 windows, 3 streams: length 3, rest 2. In an epoch with first = 1, step 0 reads windows 1, 4, 7, step
    # 1 reads 2, 5, 8, step 2 reads 3, 6, 9, and windows 0 and 10 are skipped. Drawing `first` changes which
    # windows those are. Nothing is shuffled: a state is worth carrying only into the text that follows.
    length, rest = divmod(num_windows, num_streams)
    epoch, step = divmod(data_step, length)
    first = stream_key(seed, epoch) % (rest + 1)
    return first + step + length * np.arange(num_streams, dtype=np.int64), step == 0


def evenly_spaced(count: int, size: int) -> NDArray[np.int64]:
    """At most `count` indices in [0, size), as far apart as possible: what an evaluation scores."""
    count = min(count, size)
    return np.array([at * size // count for at in range(count)], dtype=np.int64)


def draw(keys: NDArray[np.uint64], count: int, below: int) -> NDArray[np.int64]:
    """`count` random integers in [0, below) for each key, as (keys, count).

    Scales 32 random bits by a product, not by a remainder: no value is more likely than another by more than
    a factor of 1 + below / 2**32.
    """
    positions = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = mix(keys[:, None] + positions) >> np.uint64(32)
    return ((bits * np.uint64(below)) >> np.uint64(32)).astype(np.int64)


def choose(keys: NDArray[np.uint64], count: int, size: int) -> NDArray[np.int64]:
    """`count` different integers in [0, size) for each key, in random order, as (keys, count)."""
    # The order of random numbers is a shuffle. Stable, so that equal ones sort alike on every machine.
    positions = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return np.argsort(mix(keys[:, None] + positions), axis=1, kind="stable")[:, :count]


def sample_keys(indices: NDArray[np.int64], *stream: int) -> NDArray[np.uint64]:
    """A key for each sample of a random stream."""
    return mix(mix(indices.astype(np.uint64)) + np.uint64(stream_key(*stream)))
