"""Tables for a terminal, and sizes in bytes as people read them. Torch-free."""

from collections.abc import Sequence


def table_lines(rows: Sequence[Sequence[str]], *, right_align: bool = False) -> list[str]:
    """One line per row, two spaces between columns; `right_align` applies to all columns but the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if right_align and column > 0 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def size_text(num_bytes: float) -> str:
    """In the largest unit that gives at least 1."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = max((p for p in range(1, len(units)) if num_bytes >= 1024**p), default=0)
    return f"{num_bytes / 1024**power:.{2 if power else 0}f} {units[power]}"
