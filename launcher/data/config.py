"""Data section of a recipe. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.section import Section


class StdlibSource(Section):
    """Bytes of the installed Python's own standard-library source: a real corpus every machine has."""

    type: Literal["python-stdlib"]


class FilesSource(Section):
    """Bytes of text files under any fsspec URL."""

    type: Literal["files"]
    url: str
    """Folder, file or glob, such as s3://bucket/corpus/**/*.txt."""


class TokensSource(Section):
    """A flat file of unsigned little-endian token ids, memory-mapped; held-out tokens in a second file."""

    type: Literal["tokens"]
    train: str
    held_out: str | None = None
    dtype: Literal["uint8", "uint16", "uint32"] = "uint16"


Source = Annotated[StdlibSource | FilesSource | TokensSource, Field(discriminator="type")]


class DataConfig(Section):
    """What is read, and how it is cut into windows."""

    source: Source
    seq_len: Annotated[int, Field(ge=1)]
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of files kept for evaluation (by a hash of the file's name); not used by `tokens`."""
    prefetch: Annotated[int, Field(ge=0)] = 2
    """Batches prepared ahead by a background thread; 0 reads in the training thread."""
