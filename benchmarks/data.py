"""What building and reading a data set costs, beside what its parts do alone.

    python benchmarks/data.py [--mib 80] [--folder /tmp]

Text: the *.py files of this Python and of what is installed in it, 32,768 pieces of words. Building over the
`tokenizers` library alone on the same text in memory, and over decompressing, parsing and tokenizing alone,
on all cores, three times in turn, medians; `datasets` streaming, where it is installed. Then reading:
windows of 256 tokens by one thread; a seek to a random step of 10^12 tokens in 1,000 sparse files, and
opening them.
"""

import argparse
import gzip
import json
import os
import resource
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from launcher.corpus.build import Request, build
from launcher.data.batches import Batches
from launcher.data.config import DataConfig, DatasetSource
from launcher.data.dataset import Tokens, Windows
from launcher.data.ids import IdFile, Stored
from launcher.data.splits import open_splits
from launcher.data.text_tokenizer import FileTokenizer, train_bpe
from launcher.table import table_lines

TIMES = 3
CORES = len(os.sched_getaffinity(0))
QUICKSTART_TOKENS_PER_S = 136_000
"""Of recipes/s4d-lm-quickstart.yaml on an H200, the fastest it has run."""


def texts(most: int) -> list[str]:
    """Real text of about that many bytes."""
    found, size = [], 0
    for root in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(root)).rglob("*.py")):
            text = path.read_bytes().decode(errors="ignore")
            if 0 < len(text) < 1 << 20:
                found.append(text)
                size += len(text.encode())
            if size >= most:
                return found
    return found


def limit_threads(count: int) -> None:
    """As the command does."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(count)


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def batches(found: Iterator[str]) -> Iterator[list[str]]:
    """512 texts at a time."""
    batch = []
    for text in found:
        batch.append(text)
        if len(batch) == 512:
            yield batch
            batch = []
    yield batch


def read_gzip(files: list[Path]) -> Iterator[str]:
    """Texts of gzip files of JSON lines."""
    for path in files:
        with gzip.open(path) as stream:
            for line in stream:
                yield json.loads(line)["text"]


def measure_building(folder: Path, found: list[str]) -> list[list[str]]:
    """Rows of the first table."""
    size = sum(len(text.encode()) for text in found) / 1e6
    tokenizer = str(folder / "tokenizer.json")
    Path(tokenizer).write_text(train_bpe(iter(found[::4]), 32_768))
    plain, packed = folder / "plain", folder / "gz"
    plain.mkdir()
    packed.mkdir()
    for part in range(8):
        content = "".join(json.dumps({"text": text}) + "\n" for text in found[part::8]).encode()
        (plain / f"{part}.jsonl").write_bytes(content)
        (packed / f"{part}.jsonl.gz").write_bytes(gzip.compress(content, 6))
    files = sorted(packed.iterdir())

    def encode(source: Iterator[str]) -> None:
        # Opened each time, as by a build: it remembers the words that it has cut.
        limit_threads(CORES)
        library = FileTokenizer.open(tokenizer).library_tokenizer()
        for batch in batches(source):
            library.encode_batch_fast(batch, add_special_tokens=False)

    def made(source: Path) -> None:
        out = folder / f"out-{source.name}"
        shutil.rmtree(out, ignore_errors=True)
        request = Request(
            sources=(str(source),),
            out=out,
            tokenizer=tokenizer,
            workers=CORES,
            limit_threads=limit_threads,
        )
        build(request, lambda line: None)

    actions: dict[str, Callable[[], object]] = {
        "`tokenizers` alone, text in memory": lambda: encode(iter(found)),
        "launch data build, jsonl": lambda: made(plain),
        "gzip + json + `tokenizers` alone": lambda: encode(read_gzip(files)),
        "launch data build, jsonl.gz": lambda: made(packed),
    }
    if find_spec("datasets") is not None:
        actions["`datasets` streaming, jsonl.gz"] = lambda: datasets_streaming(files, tokenizer)
    # In turn, so that a slow minute of the machine is everybody's.
    times = [{name: timed(action) for name, action in actions.items()} for _ in range(TIMES)]
    alone, _, whole, *_ = ([one[name] for one in times] for name in actions)
    rows = []
    for name in actions:
        spent = [one[name] for one in times]
        rate = f"{size / statistics.median(spent):.1f}"
        over = [
            f"{statistics.median(a / b for a, b in zip(base, spent, strict=True)):.2f}"
            for base in (alone, whole)
        ]
        rows.append([name, rate, *(over if "gz" in name else (over[0], ""))])
    return rows


def datasets_streaming(files: list[Path], tokenizer: str) -> None:
    """What Hugging Face's `datasets` does to stream and tokenize the same files."""
    import datasets

    limit_threads(CORES)
    library = FileTokenizer.open(tokenizer).library_tokenizer()
    stream = datasets.load_dataset(
        "json", data_files=[str(path) for path in files], split="train", streaming=True
    )

    def encode(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [one.ids for one in library.encode_batch_fast(rows["text"], add_special_tokens=False)]}

    for _ in stream.map(encode, batched=True, batch_size=512, remove_columns=["text"]):
        pass


def measure_reading(folder: Path) -> list[list[str]]:
    """Rows of the second table."""
    config = DataConfig(source=DatasetSource(type="dataset", path=str(folder / "out-plain")), seq_len=256)
    train = open_splits(config, 32_768).train
    one = Batches(train, global_batch_size=16, micro_batch_size=16, rank=0, world_size=1, seed=0, prefetch=0)
    steps = 2000
    seconds = timed(lambda: [one.at(step) for step in range(steps)])
    rate = steps * 16 * 256 / seconds
    rows = [
        ["windows of 256 tokens, one thread", f"{rate / 1e6:.1f} M tokens/s",
         f"{rate / QUICKSTART_TOKENS_PER_S:.0f} x the quickstart on an H200"],
    ]  # fmt: skip
    sparse = folder / "sparse"
    sparse.mkdir()
    for number in range(1000):
        with open(sparse / f"{number}.bin", "wb") as stream:
            stream.truncate(2 * 10**9)
    kind = np.dtype("<u2")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    stored = Stored([IdFile(str(sparse / f"{n}.bin"), kind, 10**9) for n in range(1000)], kind)
    windows = Windows(Tokens(stored, vocab_size=1 << 16, place="sparse"), 2048)
    opened = time.perf_counter() - began
    far = Batches(windows, global_batch_size=1, micro_batch_size=1, rank=0, world_size=1, seed=0, prefetch=0)
    chosen = np.random.default_rng(0).integers(0, windows.num_samples, 500).tolist()
    times = sorted(timed(lambda step=step: far.at(step)) for step in chosen)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    rows.append(["open 10^12 tokens in 1,000 files", f"{opened * 1e3:.1f} ms", f"{grown:.0f} MiB of memory"])
    rows.append(["seek to a random step of them and read it", f"{times[250] * 1e3:.2f} ms",
                 f"slowest of 500: {times[-1] * 1e3:.2f} ms"])  # fmt: skip
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mib", type=int, default=80, help="of text; default 80")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="data-", dir=options.folder))
    try:
        found = texts(options.mib << 20)
        size = sum(len(text.encode()) for text in found)
        print(f"{len(found):,} texts, {size / 1e6:.0f} MB, {CORES} cores\n")
        head = ["", "MB/s", "over the library", "over its parts"]
        print("\n".join(table_lines([head, *measure_building(folder, found)])))
        print()
        print("\n".join(table_lines([["", "", ""], *measure_reading(folder)])))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
