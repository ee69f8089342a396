"""`launch data train-tokenizer`: the first texts of a corpus, evenly over its files, to a tokenizer.json."""

from collections.abc import Callable, Iterator, Sequence

from launcher import files
from launcher.corpus.raw_files import Format, RawFile, cut_units, find_raw_files
from launcher.corpus.row_readers import DamagedFileError, Document, choose_field, read_documents
from launcher.corpus.unit import damage
from launcher.data.text_tokenizer import FileTokenizer, train_bpe
from launcher.errors import Problem, UserError

_LONGEST = 64 << 20
"""Longer texts are left out, as a build does by default."""


def train_tokenizer(
    sources: Sequence[str],
    out: str,
    vocab_size: int,
    format: Format | None,
    field: str | None,
    sample_bytes: int,
    say: Callable[[str], None],
) -> int:
    """Write a tokenizer; returns its number of tokens. Raises UserError where a file is there already."""
    if files.exists(out):
        raise UserError(Problem(f"-o {out}", "is there already", "choose another name, or remove it"))
    found = find_raw_files(sources, format)
    size = sum(file.bytes for file in found)
    say(f"{size / 1e9:.3g} GB in {len(found):,} file(s): a pass over the text, then merges")
    content = train_bpe(_sample(found, choose_field(found, field), sample_bytes), vocab_size)
    files.write_text(out, content)
    return FileTokenizer(content.encode(), out).vocab_size


def _sample(found: Sequence[RawFile], field: str, most: int) -> Iterator[str]:
    """Texts of about `most` bytes: the same share of every unit, from its beginning."""
    units = cut_units(found)
    for at, unit in enumerate(units):
        left = most * (at + 1) // len(units) - most * at // len(units)
        try:
            for document in read_documents(unit.pieces, field, _LONGEST):
                if isinstance(document, Document):
                    yield document.text
                    left -= len(document.utf8)
                if left <= 0:
                    break
        except DamagedFileError as error:
            raise UserError(damage(error, field)) from None
