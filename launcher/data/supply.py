"""How often a run reads its data: windows there are and windows asked for, by part. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launcher import files
from launcher.data.config import DataConfig, DatasetSource, MixtureSource, SourceSection, TokensSource
from launcher.data.shares import Shares
from launcher.data.token_set import DATASET, check_vocabulary, read_token_set
from launcher.errors import Problem, UserError
from launcher.table import table_lines


@dataclass(frozen=True, slots=True)
class Supply:
    """One part of the training data, or all of it."""

    name: str
    windows: int | None
    """There are; None where only reading the text would show it."""
    asked: int
    """Windows that the run reads of it."""
    max_epochs: float | None = None

    @property
    def epochs(self) -> float | None:
        """How often each window is read, on average."""
        return self.asked / self.windows if self.windows else None


def check_supplies(found: Sequence[Supply]) -> None:
    """Raise UserError for each part that a run would repeat beyond its limit."""
    problems = [
        Problem.at(
            f"data.source.parts.{one.name}.max_epochs",
            f"is {one.max_epochs:g}; the run would read its {one.windows:,} windows {one.epochs:.2f} times",
            f"lower its weight, train for fewer steps, add data, or allow {one.epochs:.2f}",
        )
        for one in found
        if one.max_epochs is not None and one.epochs is not None and one.epochs > one.max_epochs
    ]
    if problems:
        raise UserError(*problems)


def supplies(config: DataConfig, total: int, vocab_size: int | None) -> list[Supply]:
    """What dataset.json and the sizes of files show of a run of `total` windows; nothing for other sources.

    Raises UserError for a tokenizer that the model has no room for.
    """
    source = config.source
    if isinstance(source, MixtureSource):
        counts = Shares([part.weight for part in source.parts.values()]).up_to(total).tolist()
        return [
            Supply(name, _windows(part.source, config.seq_len, vocab_size), count, part.max_epochs)
            for (name, part), count in zip(source.parts.items(), counts, strict=True)
        ]
    windows = _windows(source, config.seq_len, vocab_size)
    return [] if windows is None else [Supply(source.type, windows, total)]


def _windows(source: SourceSection, seq_len: int, vocab_size: int | None) -> int | None:
    tokens = 0
    if isinstance(source, DatasetSource) and files.is_file(files.join(source.path, DATASET)):
        token_set = read_token_set(source.path)
        check_vocabulary(source.path, token_set, vocab_size or 0)
        tokens = token_set.splits["train"].tokens
    elif isinstance(source, TokensSource) and source.dtype is not None and files.is_file(source.train):
        tokens = files.size(source.train) // np.dtype(source.dtype).itemsize
    return max(0, tokens - 1) // seq_len or None


def supply_lines(found: Sequence[Supply], seq_len: int) -> list[str]:
    """A row for each part: tokens there are, tokens that are read, and how often."""
    rows = [["part", "tokens there", "tokens read", "share", "epochs", "at most"]]
    total = sum(one.asked for one in found)
    for one in found:
        rows.append(
            [
                one.name,
                "not known" if one.windows is None else f"{one.windows * seq_len:,}",
                f"{one.asked * seq_len:,}",
                f"{one.asked / total:.1%}",
                "-" if one.epochs is None else f"{one.epochs:.3g}",
                "-" if one.max_epochs is None else f"{one.max_epochs:g}",
            ]
        )
    return table_lines(rows)
