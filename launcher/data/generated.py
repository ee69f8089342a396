"""Sources that generate their samples: ListOps, copying, associative recall."""

import hashlib
from collections.abc import Sequence

import numpy as np

from launcher.data.config import CopyingSource, DataConfig, ListOpsSource, RecallSource, SourceSection
from launcher.data.dataset import Dataset, Reader, Splits
from launcher.data.listops import ListOps
from launcher.data.order import NO_END
from launcher.data.synthetic import Copying, Recall


def open_listops(config: DataConfig, source: ListOpsSource, _reader: Reader) -> Splits:
    """ListOps by the rules of Long Range Arena."""
    return _splits(source, [ListOps(source, seq_len=config.seq_len, validation=v) for v in (False, True)])


def open_copying(config: DataConfig, source: CopyingSource, _reader: Reader) -> Splits:
    """Copying, selective or not."""
    return _splits(source, [Copying(source, seq_len=config.seq_len, validation=v) for v in (False, True)])


def open_recall(config: DataConfig, source: RecallSource, _reader: Reader) -> Splits:
    """Multi-query associative recall."""
    return _splits(source, [Recall(source, seq_len=config.seq_len, validation=v) for v in (False, True)])


def _splits(source: SourceSection, samples: Sequence[Dataset]) -> Splits:
    # `validation_samples` was called `held_out_samples` at first. It is hashed under the old name, so that
    # runs from before the rename still find the fingerprint that their checkpoints have.
    identity = source.model_dump_json().replace('"validation_samples"', '"held_out_samples"')
    digest = hashlib.blake2b(identity.encode(), digest_size=16)
    for one in samples:
        # The settings alone would not show a change of the generator's code; its first samples do.
        first = one.batch(np.arange(4))
        digest.update(first.x.numpy().tobytes() + first.y.numpy().tobytes())
    count = samples[0].num_samples
    described = (
        "an endless supply of new sequences" if count == NO_END else f"{count:_} sequences to train on"
    )
    return Splits(samples[0], samples[1], digest.hexdigest(), f"{source.type}: {described}")
