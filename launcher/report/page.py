"""One HTML file that holds its pictures and asks nobody for anything."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2em auto; max-width: 70em;
  padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { text-align: left; vertical-align: top; padding: 2px 14px 2px 0; border-bottom: 1px solid #ddd;
  overflow-wrap: anywhere }
img { max-width: 100%; height: auto; display: block; margin: .5em 0 }
p.note { color: #666; max-width: 75ch } div.wide { overflow-x: auto }
""".strip()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what is below it."""

    title: str
    note: str = ""
    picture: Path | None = None
    rows: Sequence[Sequence[str]] = ()
    """The first is the head, shown unless all of its cells are empty."""


def make_page(title: str, sections: Sequence[Section]) -> str:
    """The text of the file; whatever a run has written is shown as text, never as markup."""
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.note:
        parts.append(f'<p class="note">{html.escape(section.note)}</p>')
    if section.picture is not None:
        data = base64.b64encode(section.picture.read_bytes()).decode()
        parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{data}">')
    if section.rows:
        parts.append(f'<div class="wide"><table>{_table(section.rows)}</table></div>')
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    lines = [_row(head, "th")] if any(head) else []
    return "\n".join([*lines, *(_row(row, "td") for row in others)])


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
