"""Data section of a recipe. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.section import Section


class StdlibSource(Section):
    """Bytes of the installed Python's own standard-library source: a real corpus every machine has.

    Each file is followed by a NUL. Tests, generated tables and what distributions leave out are not read.
    """

    type: Literal["python-stdlib"]


class FilesSource(Section):
    """Bytes of text files under any fsspec URL, each followed by a NUL; hidden files are left out."""

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
    held_out: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of files kept for evaluation, by a hash of the file's name; null is 0.05. Not for `tokens`."""
    prefetch: Annotated[int, Field(ge=0)] = 2
    """Batches prepared ahead by a background thread; 0 reads in the training thread."""

    @model_validator(mode="after")
    def _held_out_has_files(self) -> "DataConfig":
        if self.held_out is not None and isinstance(self.source, TokensSource):
            raise ValueError(f"held_out is {self.held_out}; `tokens` takes a file, data.source.held_out")
        return self

    @property
    def held_out_share(self) -> float:
        """Share of files kept for evaluation."""
        return 0.05 if self.held_out is None else self.held_out
