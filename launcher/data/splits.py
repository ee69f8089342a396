"""Open a recipe's source as a training and a validation split that the model can read."""

from pathlib import Path

from launcher import files
from launcher.data.config import (
    DataConfig,
    DatasetSource,
    FilesSource,
    LabelledSource,
    MixtureSource,
    SourceSection,
    TextSection,
    TokensSource,
)
from launcher.data.dataset import Reader, Splits
from launcher.data.order import evenly_spaced
from launcher.data.source_table import source_kind
from launcher.data.sources import find_files, require_apart
from launcher.data.streams import split_files
from launcher.data.token_files import check_text
from launcher.errors import Problem, UserError, about


@about("data.source")
def open_splits(config: DataConfig, vocab_size: int | None, max_chars: int | None = None) -> Splits:
    """Read, map or set up a source. Raises UserError for what is missing, too short or unfit for the model.

    `vocab_size` is the model's, None where it has none; `max_chars` is how many characters it reads of each
    word, None where it reads no characters.
    """
    source = config.source
    vocab_size = _check_inputs(source, vocab_size, max_chars)
    return source_kind(source).open(config, source, Reader(vocab_size=vocab_size, max_chars=max_chars))


_SMALL_BYTES = 256 << 20
_TEXTS = 64
"""Files of text whose first bytes are looked at."""


def check_data(config: DataConfig, vocab_size: int | None, max_chars: int | None = None) -> None:
    """Raise what the ranks would, before a job is queued: where looking costs little.

    Files of tokens are probed at 64 places; labelled files are read whole up to 256 MiB; of text, files are
    found and split, and the first bytes of 64 are looked at. What is remote is read by the ranks alone.
    """
    source = config.source
    if isinstance(source, FilesSource) and files.local_path(source.url) is not None:
        found = find_files(source.url)
        split_files(found, config.fraction_for_validation)
        for index in evenly_spaced(_TEXTS, len(found)):
            check_text(found[index].url)
    if isinstance(source, MixtureSource):
        for one in source.single:
            check_data(config.model_copy(update={"source": one}), vocab_size, max_chars)
    if isinstance(source, DatasetSource):
        # dataset.json alone, also where it is remote; nothing is copied to this machine's disk.
        open_splits(config.model_copy(update={"stage": None}), vocab_size, max_chars)
    if not isinstance(source, TokensSource | LabelledSource):
        return
    require_apart(source.train, source.validation)
    places = [files.local_path(url) for url in source.required_files()]
    small = isinstance(source, TokensSource) or sum(_bytes(place) for place in places) <= _SMALL_BYTES
    if small and all(place is not None for place in places):
        open_splits(config, vocab_size, max_chars)


def _bytes(place: Path | None) -> int:
    return place.stat().st_size if place is not None and place.exists() else 0


_READS = {
    "tokens": "embeds tokens",
    "words": "reads the characters of words",
    "signals": "takes signals",
}


def _check_inputs(source: SourceSection, vocab_size: int | None, max_chars: int | None) -> int:
    """Raise UserError unless the model reads what the source gives. Returns the vocabulary size, or 0."""
    shape = source.shape()
    reads = "words" if max_chars is not None else "signals" if vocab_size is None else "tokens"
    if reads not in shape.inputs:
        message = f"`{source.type}` gives {' or '.join(shape.inputs)}; the model {_READS[reads]}"
        remedy = "choose a model that " + " or ".join(_READS[kind] for kind in shape.inputs)
        raise UserError(Problem.at("data.source.type", message, remedy))
    if vocab_size is None:
        return 0
    # A text may not use all 256 bytes, so a smaller vocabulary can be right; its bytes are checked when read.
    if not isinstance(source, TextSection) and vocab_size < (shape.vocab_size or 0):
        message = f"{vocab_size} is too few: `{source.type}` has {shape.vocab_size} symbols"
        raise UserError(Problem.at("model.vocab_size", message, f"set it to at least {shape.vocab_size}"))
    return vocab_size
