"""Data section of a recipe. Torch-free."""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from models.section import Count, Positive, Section, Size, Steps

Seed = Annotated[int, Field(ge=0, lt=2**63)]


InputKind = Literal["tokens", "words", "signals"]
INPUT_KINDS: tuple[InputKind, ...] = ("tokens", "words", "signals")
NUM_CHARS = 257
"""Character ids of words: 0 for none, then one for every byte."""


@dataclass(frozen=True, slots=True)
class TaskShape:
    """What a source requires of a model."""

    inputs: tuple[InputKind, ...]
    """What a model may read: one of these."""
    targets: Literal["tokens", "label"]
    """One target per position, or one label per sequence."""
    vocab_size: int | None = None
    """Token ids are below this; None where it depends on the data."""
    num_classes: int | None = None
    num_features: int | None = None
    """Values at each step of a signal."""
    num_chars: int | None = None
    """Character ids are below this."""
    num_sequences: int = 1
    """Sequences per label."""


class SourceSection(Section):
    """Abstract: what every source declares about itself."""

    type: str
    is_stream: ClassVar[bool] = False
    """Whether samples are consecutive windows, of any length, cut from one long stream."""

    @property
    def any_length(self) -> bool:
        """Whether data.seq_len may be anything."""
        return self.is_stream

    @property
    def single(self) -> "list[SourceSection]":
        """The source itself; of a mixture, those of its parts."""
        return [self]

    def shape(self) -> TaskShape:
        """What a model must read from this source and predict."""
        raise NotImplementedError(
            f"{type(self).__name__} does not declare what a model must read and predict"
        )

    def misfit(self, seq_len: int) -> str | None:
        """Why this source does not fit a sequence length; None where it does."""
        return None


class TextSection(SourceSection):
    """Abstract: the text of files."""

    is_stream = True
    unit: Literal["bytes", "words"] = "bytes"
    """What one token is. Words are names (non-ASCII letters included), numbers, line ends, and every other
    character by itself; blanks only separate them. The vocabulary has model.vocab_size entries: one for all
    unknown words, the NUL, and the most frequent words of the training files. Encoder `char-cnn` reads the
    characters of every word, known or not."""

    def shape(self) -> TaskShape:
        if self.unit == "words":
            return TaskShape(("tokens", "words"), "tokens", num_chars=NUM_CHARS)
        return TaskShape(("tokens",), "tokens", vocab_size=256)


class StdlibSource(TextSection):
    """The source code of the installed Python's standard library: a real corpus on every machine.

    Each file is followed by a NUL. Tests, generated tables and what some distributions omit are not read.
    """

    type: Literal["python-stdlib"]


class FilesSource(TextSection):
    """Text files under any fsspec URL, each followed by a NUL; hidden ones are skipped, links followed."""

    type: Literal["files"]
    url: str
    """Folder, file or glob, such as s3://bucket/corpus/**/*.txt."""


class TokensSource(SourceSection):
    """A file of token ids, read in place, and a second one for validation: flat unsigned little-endian
    integers, llm.c's with a header, or Megatron's .bin with its .idx beside it."""

    type: Literal["tokens"]
    train: str
    """File of token ids."""
    validation: str | None = None
    """File of token ids to validate on; null for none."""
    dtype: Literal["uint8", "uint16", "uint32"] | None = None
    """Little-endian integers of the files; null: what the file says, uint16 for a flat one."""

    is_stream = True

    def shape(self) -> TaskShape:
        return TaskShape(("tokens",), "tokens")

    def required_files(self) -> dict[str, str]:
        """URL of each required file -> the recipe key that names it."""
        return _split_urls(self)


class DatasetSource(SourceSection):
    """A data set that `launch data build` made."""

    type: Literal["dataset"]
    path: str
    """Its folder, local or any fsspec URL."""

    is_stream = True

    def shape(self) -> TaskShape:
        return TaskShape(("tokens",), "tokens")


PartSource = Annotated[StdlibSource | FilesSource | TokensSource | DatasetSource, Field(discriminator="type")]


class MixturePart(Section):
    """One part of a mixture."""

    source: PartSource
    """Where its tokens are: any source of one long stream."""
    weight: Annotated[float, Field(gt=0, le=1e9)]
    """Its share of the tokens, relative to the other weights."""
    max_epochs: Positive | None = None
    """The run is refused where it would read the part more often; null: any number of times."""


_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class MixtureSource(SourceSection):
    """Several sources in fixed shares: after any number of samples, each part has had its share of them to
    within one sample. Each part has its own order and epochs, and a validation loss of its own."""

    type: Literal["mixture"]
    parts: Annotated[dict[str, MixturePart], Field(min_length=1, max_length=256)]
    """By name, as in the metric validation_loss/NAME."""

    @property
    def any_length(self) -> bool:
        """See SourceSection: every part is one long stream."""
        return True

    @property
    def single(self) -> list[SourceSection]:
        """See SourceSection."""
        return [part.source for part in self.parts.values()]

    @model_validator(mode="after")
    def _parts_fit(self) -> "MixtureSource":
        for name, part in self.parts.items():
            if _PART_NAME.fullmatch(name) is None:
                raise ValueError(f"part {name!r} is in a metric's name; use letters, digits, _, . and -")
            if isinstance(part.source, TextSection) and part.source.unit == "words":
                raise ValueError(
                    f"part {name} is text by words, which has a vocabulary of its own; use unit bytes"
                )
        return self

    def shape(self) -> TaskShape:
        sizes = [source.shape().vocab_size or 0 for source in self.single]
        return TaskShape(("tokens",), "tokens", vocab_size=max(sizes) or None)


class ListOpsSource(SourceSection):
    """ListOps (arXiv 1804.06028) by the rules of Long Range Arena (arXiv 2011.04006): classify a nested list
    expression by its value, 0 to 9. Expressions are `min_length` to `data.seq_len` tokens long.

    The defaults with data.seq_len 1999 follow Long Range Arena's dataset, but generate new expressions.
    """

    type: Literal["listops"]
    min_length: Count = 501
    """Fewest symbols of a sample."""
    max_depth: Annotated[int, Field(ge=2, le=200)] = 10
    """Deepest nesting."""
    max_args: Size = 10
    """Most arguments of an operator."""
    train_samples: Steps = 96_000
    """Samples to train on."""
    validation_samples: Steps = 2_000
    """Samples to validate on."""
    seed: Seed = 0
    """Selects the dataset; the recipe's own seed sets the order of its samples."""

    def shape(self) -> TaskShape:
        return TaskShape(("tokens",), "label", vocab_size=16, num_classes=10)

    def misfit(self, seq_len: int) -> str | None:
        if self.min_length > seq_len:
            return f"seq_len is {seq_len}; source.min_length {self.min_length} is more"
        return None


class CopyingSource(SourceSection):
    """Copying (Hochreiter and Schmidhuber 1997; Arjovsky et al., arXiv 1511.06464): symbols, then blanks,
    then one cue per symbol, at which that symbol is to be predicted. An endless supply of new sequences."""

    type: Literal["copying"]
    num_symbols: Count = 10
    """Symbols to remember."""
    alphabet: Size = 8
    """Different symbols."""
    selective: bool = False
    """Scatter the symbols among the blanks (arXiv 2312.00752, section 3.1)."""
    seed: Seed = 0
    """Of the samples, apart from that of the run."""

    def shape(self) -> TaskShape:
        return TaskShape(("tokens",), "tokens", vocab_size=self.alphabet + 2)

    def misfit(self, seq_len: int) -> str | None:
        if (least := 2 * self.num_symbols) > seq_len:
            return f"seq_len is {seq_len}; {self.num_symbols} symbols need at least {least}"
        return None


class RecallSource(SourceSection):
    """Multi-query associative recall (arXiv 2312.04927): pairs of key and value, then blanks, then keys, at
    each of which its value is to be predicted. An endless supply of new sequences."""

    type: Literal["associative-recall"]
    num_pairs: Count = 8
    """Keys with a value in a sample."""
    num_queries: Count = 8
    """Keys that are asked for."""
    num_keys: Count = 32
    """Different keys."""
    num_values: Size = 32
    """Different values."""
    seed: Seed = 0
    """Of the samples, apart from that of the run."""

    def shape(self) -> TaskShape:
        return TaskShape(("tokens",), "tokens", vocab_size=1 + self.num_keys + self.num_values)

    def misfit(self, seq_len: int) -> str | None:
        if (least := 2 * self.num_pairs + self.num_queries) > seq_len:
            return f"seq_len is {seq_len}; the pairs and queries need at least {least}"
        if self.num_pairs > self.num_keys:
            return f"source.num_pairs is {self.num_pairs}; num_keys {self.num_keys} is less"
        if self.num_queries > self.num_pairs:
            return f"source.num_queries is {self.num_queries}; num_pairs {self.num_pairs} is less"
        return None


class DigitsSource(SourceSection):
    """The 1797 handwritten digits (8 x 8 gray values) that scikit-learn ships, as signals of 64 steps."""

    type: Literal["digits"]
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of the images of each digit kept for validation."""

    def shape(self) -> TaskShape:
        return TaskShape(("signals",), "label", num_classes=10, num_features=1)

    def misfit(self, seq_len: int) -> str | None:
        return None if seq_len == 64 else f"seq_len is {seq_len}; a digit has 64 steps"


class LabelledSource(SourceSection):
    """Labelled sequences in NumPy files of your own: one folder to train on and one to validate on, each with
    x.npy, y.npy and, where sequences are shorter than data.seq_len, lengths.npy.

    x: tokens (S, L) of any integer type; or characters of words (S, L, W) as integers, 0 for none; or signals
    (S, L, F) as float32, or as uint8 with 0 to 255 read as -1 to 1; F may be left out where it is 1. y and
    lengths: integers (S). For pairs of sequences, x is (S, 2, L, ...) and lengths (S, 2).
    """

    type: Literal["labelled"]
    train: str
    """Folder with x.npy, y.npy and perhaps lengths.npy."""
    validation: str | None = None
    """The same, to validate on; null for none."""
    num_classes: Size
    """Labels are below this."""
    vocab_size: Size | None = None
    """For tokens: ids are below this."""
    num_chars: Size | None = None
    """For words: character ids are below this; each word has model.encoder.max_chars of them."""
    num_features: Count | None = None
    """For signals: values at each step."""
    num_sequences: Literal[1, 2] = 1
    """2: each label is for a pair of sequences."""

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> "LabelledSource":
        sizes = (self.vocab_size, self.num_chars, self.num_features)
        if sum(size is not None for size in sizes) != 1:
            raise ValueError(
                "vocab_size is {}, num_chars {} and num_features {}; "
                "give the first for tokens, the second for words or the third for signals".format(*sizes)
            )
        return self

    def shape(self) -> TaskShape:
        sizes = {"tokens": self.vocab_size, "words": self.num_chars, "signals": self.num_features}
        return TaskShape(
            tuple(kind for kind in INPUT_KINDS if sizes[kind] is not None),
            "label",
            vocab_size=self.vocab_size,
            num_classes=self.num_classes,
            num_features=self.num_features,
            num_chars=self.num_chars,
            num_sequences=self.num_sequences,
        )

    def required_files(self) -> dict[str, str]:
        """URL of each required file -> the recipe key that names it."""
        return {
            f"{folder.rstrip('/')}/{name}": key
            for folder, key in _split_urls(self).items()
            for name in ("x.npy", "y.npy")
        }


def _split_urls(source: TokensSource | LabelledSource) -> dict[str, str]:
    """URL of each split -> the recipe key that names it."""
    urls = {source.train: "data.source.train"}
    return urls | ({source.validation: "data.source.validation"} if source.validation else {})


Source = Annotated[
    StdlibSource
    | FilesSource
    | TokensSource
    | DatasetSource
    | MixtureSource
    | LabelledSource
    | ListOpsSource
    | CopyingSource
    | RecallSource
    | DigitsSource,
    Field(discriminator="type"),
]


class DataConfig(Section):
    """Which source is read, and at which sequence length."""

    source: Source
    seq_len: Count
    """Positions of each sequence."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction of files kept for validation, by a hash of the file's name; null is 0.05.

    Only for `python-stdlib` and `files`: the other sources have validation settings of their own."""
    prefetch: Annotated[int, Field(ge=0, le=1024)] = 2
    """Batches prepared ahead by a background thread; 0 reads in the training thread."""
    documents: Literal["joined", "separate"] = "joined"
    """joined: windows are cut from the stream, whatever borders are in them. separate: rows are packed with
    whole documents, none of which sees another or predicts another's first token. For source `dataset`, and
    mixtures of it."""
    stage: str | None = None
    """Folder of a disk that each node has: a data set is copied there before the first step, and compared
    with its digests. Null reads it where it is."""

    @model_validator(mode="after")
    def _validation_has_files(self) -> "DataConfig":
        has_files = any(isinstance(source, TextSection) for source in self.source.single)
        if self.validation_fraction is not None and not has_files:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}, a fraction of files; "
                f"`{self.source.type}` does not use it"
            )
        return self

    @model_validator(mode="after")
    def _source_fits_seq_len(self) -> "DataConfig":
        if (reason := self.source.misfit(self.seq_len)) is not None:
            raise ValueError(reason)
        return self

    @property
    def fraction_for_validation(self) -> float:
        """Fraction of files kept for validation."""
        return 0.05 if self.validation_fraction is None else self.validation_fraction
