"""What a data set or a file of tokens holds, in lines; and whether it is whole."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from launcher import files
from launcher.data.text_tokenizer import BytesTokenizer, FileTokenizer, TextTokenizer
from launcher.data.token_set import TOKENIZER, TokenSet, check_sizes, read_token_set
from launcher.errors import Problem, UserError
from launcher.table import table_lines


def describe_lines(done: TokenSet) -> list[str]:
    """Tokens, documents and bytes of each split, and what became of the rows."""
    rows = [["split", "tokens", "documents", "bytes of text", "bytes/token", "shards"]]
    rows += [
        [
            name,
            f"{split.tokens:,}",
            f"{split.documents:,}",
            f"{split.bytes:,}",
            f"{split.bytes / split.tokens:.2f}" if split.tokens else "-",
            f"{len(split.shards):,}",
        ]
        for name, split in done.splits.items()
    ]
    counts = done.rows
    tokenizer = "bytes" if done.tokenizer.sha256 is None else f"{TOKENIZER} {done.tokenizer.sha256[:16]}"
    lines = table_lines(rows)
    lines.append(
        f"rows: {counts.read:,} read, {counts.kept:,} kept, {counts.empty:,} empty, "
        f"{counts.too_long:,} too long, {counts.duplicates:,} duplicates, {counts.bad:,} bad"
    )
    lines += [f"  bad: {line}" for line in done.bad_rows[:10]]
    lines.append(
        f"tokenizer: {tokenizer}, {done.tokenizer.vocab_size:,} ids as {done.dtype}, "
        f"{done.tokenizer.end_of_text} ends a text"
    )
    return [*lines, f"fingerprint: {done.fingerprint}"]


def inspect_lines(place: str, count: int) -> list[str]:
    """A data set with its first documents, or a file of tokens with its first ids."""
    if files.is_file(place):
        from launcher.data.token_formats import open_token_file

        found = open_token_file(place, None)
        first = found.ids[0 : min(32, len(found.ids))]
        return [
            f"{place}: {found.kind}, {len(found.ids):,} tokens of {found.ids.dtype.name}",
            f"first: {' '.join(map(str, first.tolist()))}",
        ]
    done = read_token_set(files.absolute(place))
    return describe_lines(done) + [
        line for text in islice(_documents(place, done), count) for line in ("", text)
    ]


def _documents(place: str, done: TokenSet) -> Iterator[str]:
    """The text of the first documents to train on, each shortened to some lines."""
    tokenizer: TextTokenizer = BytesTokenizer()
    if done.tokenizer.sha256 is not None:
        tokenizer = FileTokenizer.open(files.join(files.absolute(place), TOKENIZER), any_end=True)
    for shard in done.splits["train"].shards:
        ends = np.frombuffer(files.read_bytes(files.join(place, f"{shard.name}.idx")), dtype="<i8")
        with files.open_binary(files.join(place, f"{shard.name}.bin")) as stream:
            begin = 0
            for end_of in ends.tolist():
                dtype = np.dtype(done.dtype).newbyteorder("<")
                content = stream.read((end_of - begin) * dtype.itemsize)
                ids = np.frombuffer(content, dtype=dtype)[:400].tolist()
                more = f" ... ({end_of - begin:,} tokens)" if end_of - begin > 400 else ""
                yield tokenizer.decode(ids) + more
                begin = end_of


def verify_lines(place: str) -> Iterator[str]:
    """Compare sizes and digests of every file. Raises UserError naming all that differ."""
    from launcher.checkpoint.catalog import digest_file

    url = files.absolute(place)
    done = read_token_set(url)
    check_sizes(url, done)
    problems = []
    for split, part in done.splits.items():
        for shard in part.shards:
            wanted = {f"{shard.name}.bin": shard.sha256, f"{shard.name}.idx": shard.index_sha256}
            problems += [
                Problem(files.join(url, name), "has other content than was written", "copy or build it again")
                for name, digest in wanted.items()
                if digest_file(files.join(url, name)) != digest
            ]
        yield f"{split}: {len(part.shards):,} shards read"
    if done.tokenizer.sha256 is not None and digest_file(files.join(url, TOKENIZER)) != done.tokenizer.sha256:
        problems.append(Problem(files.join(url, TOKENIZER), "is another tokenizer", "copy or build it again"))
    if problems:
        raise UserError(*problems)
    yield f"{place}: good, {done.fingerprint}"
