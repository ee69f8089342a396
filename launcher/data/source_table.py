"""The closed table of sources: the values of a recipe's `data.source.type`. Torch-free.

`open` imports what it needs when it is called, so that a recipe can be checked without torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from launcher.data.config import (
    CopyingSource,
    DataConfig,
    DatasetSource,
    DigitsSource,
    FilesSource,
    LabelledSource,
    ListOpsSource,
    MixtureSource,
    RecallSource,
    SourceSection,
    StdlibSource,
    TokensSource,
)
from launcher.data.sources import find_files, find_stdlib, require_files
from launcher.errors import Problem, UserError, about

if TYPE_CHECKING:
    from launcher.data.dataset import Reader, Splits


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """One source. Its callables receive a section of type `section`."""

    section: type[SourceSection]
    """Declares what it requires of a model (`shape`), and which sequence lengths do not fit (`misfit`)."""
    open: Callable[[DataConfig, Any, "Reader"], "Splits"]
    require: Callable[[Any], object] = lambda source: None
    """Raises UserError for missing files, before a job is queued."""


def source_kind(source: SourceSection) -> SourceKind:
    """The row of a source, from the table or from an extension."""
    return source.row if isinstance(source.row, SourceKind) else SOURCES[source.type]


def _stdlib(config: DataConfig, source: StdlibSource, reader: "Reader") -> "Splits":
    from launcher.data.streams import open_stdlib

    return open_stdlib(config, source, reader)


def _files(config: DataConfig, source: FilesSource, reader: "Reader") -> "Splits":
    from launcher.data.streams import open_files

    return open_files(config, source, reader)


def _tokens(config: DataConfig, source: TokensSource, reader: "Reader") -> "Splits":
    from launcher.data.token_sources import open_tokens

    return open_tokens(config, source, reader)


def _dataset(config: DataConfig, source: DatasetSource, reader: "Reader") -> "Splits":
    from launcher.data.token_sources import open_dataset

    return open_dataset(config, source, reader)


def _mixture(config: DataConfig, source: MixtureSource, reader: "Reader") -> "Splits":
    from launcher.data.mixture import open_mixture

    return open_mixture(config, source, reader)


def _require_parts(source: MixtureSource) -> None:
    problems: list[Problem] = []
    for one in source.single:
        try:
            source_kind(one).require(one)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)


def _require_dataset(source: DatasetSource) -> None:
    from launcher.data.token_set import check_sizes, read_token_set

    check_sizes(source.path, read_token_set(source.path))


def _labelled(config: DataConfig, source: LabelledSource, reader: "Reader") -> "Splits":
    from launcher.data.labelled import open_labelled

    return open_labelled(config, source, reader)


def _listops(config: DataConfig, source: ListOpsSource, reader: "Reader") -> "Splits":
    from launcher.data.generated import open_listops

    return open_listops(config, source, reader)


def _copying(config: DataConfig, source: CopyingSource, reader: "Reader") -> "Splits":
    from launcher.data.generated import open_copying

    return open_copying(config, source, reader)


def _recall(config: DataConfig, source: RecallSource, reader: "Reader") -> "Splits":
    from launcher.data.generated import open_recall

    return open_recall(config, source, reader)


def _digits(config: DataConfig, source: DigitsSource, reader: "Reader") -> "Splits":
    from launcher.data.digits import open_digits

    return open_digits(config, source, reader)


SOURCES: Mapping[str, SourceKind] = {
    "python-stdlib": SourceKind(section=StdlibSource, open=_stdlib, require=lambda source: find_stdlib()),
    "files": SourceKind(section=FilesSource, open=_files, require=lambda source: find_files(source.url)),
    "tokens": SourceKind(
        section=TokensSource, open=_tokens, require=lambda source: require_files(source.required_files())
    ),
    "dataset": SourceKind(section=DatasetSource, open=_dataset, require=_require_dataset),
    "mixture": SourceKind(section=MixtureSource, open=_mixture, require=_require_parts),
    "labelled": SourceKind(
        section=LabelledSource, open=_labelled, require=lambda source: require_files(source.required_files())
    ),
    "listops": SourceKind(section=ListOpsSource, open=_listops),
    "copying": SourceKind(section=CopyingSource, open=_copying),
    "associative-recall": SourceKind(section=RecallSource, open=_recall),
    "digits": SourceKind(section=DigitsSource, open=_digits),
}


@about("data.source")
def check_sources(config: DataConfig) -> None:
    """Raise UserError for missing files, before a job is queued."""
    source_kind(config.source).require(config.source)
