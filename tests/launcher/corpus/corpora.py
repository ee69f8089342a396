"""Small corpora in every format, and the tokens of a data set read without the product's code."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from launcher.corpus.build import Request, build
from launcher.data.token_set import TokenSet

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "Grüße",
    "语言",
    "naïve\n\t0",
    "1",
    "2",
]


def texts(count: int, seed: int = 0, words: int = 40) -> list[str]:
    """Different texts of some hundred bytes."""
    generator = np.random.default_rng(seed)
    return [
        f"{seed}-{number}: " + " ".join(WORDS[at] for at in generator.integers(0, len(WORDS), words))
        for number in range(count)
    ]


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    """JSON lines, compressed as the name says."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        # Two streams in one file, as `cat a.gz b.gz` makes.
        content = gzip.compress(content[:1000]) + gzip.compress(content[1000:])
    elif path.suffix == ".zst":
        halves = (content[:1000], content[1000:])
        content = b"".join(pyarrow.compress(half, codec="zstd", asbytes=True) for half in halves)
    path.write_bytes(content)
    return path


def write_parquet(path: Path, found: Sequence[str | None], name: str = "text") -> Path:
    table = pyarrow.table({name: list(found), "number": list(range(len(found)))})
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    return path


def request(out: Path, *sources: Path | str, **changes: object) -> Request:
    values: dict[str, object] = {"tokenizer": "bytes", "workers": 1, "validation_fraction": 0.0} | changes
    return Request(sources=tuple(map(str, sources)), out=out, **values)  # type: ignore[arg-type]


def made(out: Path, *sources: Path | str, **changes: object) -> TokenSet:
    return build(request(out, *sources, **changes), lambda line: None)


def stream(out: Path, split: str = "train") -> list[int]:
    """All tokens of a split."""
    found = json.loads((out / "dataset.json").read_text())
    names = [shard["name"] for shard in found["splits"][split]["shards"]]
    parts = [np.fromfile(out / f"{name}.bin", dtype=np.dtype(found["dtype"])) for name in names]
    return np.concatenate([np.empty(0, np.uint8), *parts]).tolist()


def as_bytes(found: Sequence[str]) -> list[int]:
    """What the bytes tokenizer makes of texts."""
    return list(b"".join(text.encode() + b"\0" for text in found))


def content(out: Path) -> dict[str, bytes]:
    """Every file of a data set, by name."""
    return {path.name: path.read_bytes() for path in out.iterdir()}
