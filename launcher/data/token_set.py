"""A token set: the folder that `launch data build` writes and the source `dataset` reads. Torch-free.

dataset.json, sources.json, tokenizer.json and token_bytes.bin of a tokenizer from a file, and for each shard
SPLIT-ID.bin (ids, little-endian) and SPLIT-ID.idx (int64, little-endian: the position after the last token of
each document).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal, final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from launcher import files
from launcher.data.config import DataConfig, DatasetSource
from launcher.errors import Problem, UserError

DATASET, SOURCES, TOKENIZER, TOKEN_BYTES = "dataset.json", "sources.json", "tokenizer.json", "token_bytes.bin"
FORMAT = 1
SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = ("train", "validation")
Width = Literal["uint8", "uint16", "uint32"]
Number = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """A typed part of dataset.json: no unknown keys, and none left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@final
class Shard(Record):
    """Consecutive documents of one split, each followed by the token that ends a text."""

    name: Annotated[str, Field(pattern=r"^(train|validation)-[0-9a-f]{16}$")]
    """Its files are this with .bin and .idx."""
    tokens: Number
    documents: Number
    bytes: Number
    """Of the text, in UTF-8."""
    sha256: Digest
    index_sha256: Digest


@final
class Split(Record):
    """The shards of one split, in order."""

    tokens: Number
    documents: Number
    bytes: Number
    shards: list[Shard]


@final
class TokenizerEntry(Record):
    """How the text became ids."""

    type: Literal["bytes", "file"]
    sha256: Digest | None
    """Of tokenizer.json; null for bytes."""
    vocab_size: Annotated[int, Field(ge=1, le=1 << 32)]
    """Ids are below this."""
    end_of_text: Number
    """The id that follows each document."""
    special: dict[str, Number]
    """Ids of the tokenizer's special tokens."""


@final
class Rows(Record):
    """What became of the rows and files of the sources."""

    read: Number
    kept: Number
    empty: Number
    too_long: Number
    duplicates: Number
    bad: Number


@final
class TokenSet(Record):
    """The content of dataset.json."""

    format: int
    tokenizer: TokenizerEntry
    dtype: Width
    """Of the ids: the narrowest that holds the vocabulary."""
    options: dict[str, str | int | float | bool]
    """Of the build: what else decides which tokens come out."""
    rows: Rows
    bad_rows: list[str]
    """The first of them, each with its place and what is wrong."""
    splits: dict[SplitName, Split]

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer and of every shard: what a run's samples depend on."""
        shards = {
            name: [(shard.tokens, shard.sha256, shard.index_sha256) for shard in split.shards]
            for name, split in sorted(self.splits.items())
        }
        content = [self.format, self.dtype, self.tokenizer.model_dump(), shards]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def tokenizer_of(config: DataConfig) -> str | None:
    """URL of the tokenizer's file of a data set, or of a mixture's first one; None for other sources."""
    sources = config.source.single
    urls = [files.join(one.path, TOKENIZER) for one in sources if isinstance(one, DatasetSource)]
    return next((url for url in urls if files.is_file(url)), None)


def fingerprint_of(config: DataConfig) -> tuple[str, str | None] | None:
    """What a run on a data set records of it: fingerprint and tokenizer. None for other sources."""
    if not isinstance(config.source, DatasetSource):
        return None
    found = read_token_set(config.source.path)
    return found.fingerprint, found.tokenizer.sha256


def width_for(vocab_size: int) -> Width:
    """The narrowest ids that hold a vocabulary: one too narrow would wrap around."""
    return "uint8" if vocab_size <= 1 << 8 else "uint16" if vocab_size <= 1 << 16 else "uint32"


def read_token_set(url: str) -> TokenSet:
    """Raises UserError for a folder that is not a token set, or not yet, or of another version."""
    place = files.join(url, DATASET)
    names = files.list_names(url)
    if DATASET not in names:
        message, remedy = "there is no such folder", "check the path, or make it: launch data build"
        if "build.json" in names:
            message, remedy = "is a data set whose build has not ended", "call the same command again"
        elif names:
            message, remedy = (
                "is not a data set: it has no dataset.json",
                "give what `launch data build` wrote",
            )
        raise UserError(Problem(url, message, remedy, key="data.source.path"))
    try:
        found = json.loads(files.read_bytes(place))
        if isinstance(found, Mapping) and found.get("format") != FORMAT:
            raise UserError(
                Problem(
                    place,
                    f"has format {found.get('format')!r}; this version reads {FORMAT}",
                    "build it again, or use the version that wrote it",
                )
            )
        return TokenSet.model_validate(found)
    except (ValidationError, ValueError, RecursionError) as error:
        what = error.errors()[0] if isinstance(error, ValidationError) else None
        where = ".".join(str(part) for part in what["loc"]) + ": " + what["msg"] if what else str(error)
        raise UserError(Problem(place, f"is damaged: {where}", "copy it again, or build it again")) from None


def check_sizes(url: str, token_set: TokenSet) -> None:
    """Raise UserError for shards that are missing or have another size: a copy that was cut off."""
    wrong = []
    itemsize = np.dtype(token_set.dtype).itemsize
    sizes = files.list_sizes(url)
    for split in token_set.splits.values():
        for shard in split.shards:
            wanted = {f"{shard.name}.bin": shard.tokens * itemsize, f"{shard.name}.idx": shard.documents * 8}
            for name, size in wanted.items():
                if sizes.get(name) != size:
                    there = f"has {sizes[name]:,} bytes" if sizes.get(name) is not None else "is missing"
                    message = f"{there}; {size:,} were written" if name in sizes else there
                    remedy = "copy the data set again, or build it again"
                    wrong.append(Problem(files.join(url, name), message, remedy, key="data.source.path"))
    if wrong:
        raise UserError(*wrong)


def check_vocabulary(path: str, token_set: TokenSet, vocab_size: int) -> None:
    """Raise UserError for a model with fewer entries than the tokenizer has ids."""
    least = token_set.tokenizer.vocab_size
    if vocab_size < least:
        message = f"{vocab_size} is too few: the tokenizer of {path} has {least} ids"
        raise UserError(Problem.at("model.vocab_size", message, f"set it to at least {least}"))
