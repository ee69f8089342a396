"""Tables for a terminal: cells padded to the width of their column. Torch-free."""

from collections.abc import Sequence


def table_lines(rows: Sequence[Sequence[str]], *, right_align: bool = False) -> list[str]:
    """One line per row, columns two blanks apart; `right_align` for all columns but the first, of names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if right_align and column > 0 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
