"""A new run that starts with the weights of another one: which it may, and where they come from."""

import hashlib

from launcher import files
from launcher.checkpoint.catalog import Saved, open_saved
from launcher.checkpoint.identity import check_weights
from launcher.checkpoint.manifest import MANIFEST, LineageEntry
from launcher.errors import about
from launcher.plan.parameters import Parameters

WEIGHTS = ("model/", "buffer/")
"""Names of what is taken over. Moments, schedule and data begin again."""


def open_source(place: str, parameters: Parameters) -> Saved:
    """The checkpoint to fork from. Raises UserError without one, or where its weights mean something else."""
    with about("train.init_from"):
        source = open_saved(place)
        check_weights(source, parameters)
    return source


def describe_lineage(source: Saved) -> LineageEntry:
    """What a manifest records of it."""
    content = files.read_bytes(files.join(source.url, MANIFEST))
    return LineageEntry(
        url=source.url,
        step=source.step,
        tokens=source.manifest.tokens,
        manifest_sha256=hashlib.sha256(content).hexdigest(),
    )
