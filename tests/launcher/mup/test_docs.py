"""docs/mup.md shows the rules that the code has."""

from pathlib import Path

from launcher.mup.scaling import MUP_LAYERS, MUP_UPDATES, Powers

DOC = Path(__file__).parents[3] / "docs" / "mup.md"


def show(powers: Powers) -> str:
    names = [(powers.fan_in, "in"), (powers.fan_out, "out")]
    parts = [name + ("" if power == 1 else f"^{power:g}") for power, name in names if power]
    return " ".join(parts) or "1"


def table() -> list[str]:
    """One line per layer row and one per row of an update."""
    lines = ["| role | init | forward | source |", "|---|---|---|---|"]
    for role, layer in MUP_LAYERS.items():
        lines.append(f"| {role} | {show(layer.init)} | {show(layer.forward)} | {layer.source} |")
    lines += ["", "| update | role | rate | eps | source |", "|---|---|---|---|---|"]
    for update, rows in MUP_UPDATES.items():
        merged: dict[object, list[str]] = {}
        for role, row in rows.items():
            merged.setdefault(row, []).append(str(role))
        for row, roles in merged.items():
            cells = (update, ", ".join(roles), show(row.lr), show(row.eps), row.source)
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def test_the_table_in_the_docs_is_the_table_of_the_code() -> None:
    text = DOC.read_text()
    assert "\n".join(table()) in text, "put this into docs/mup.md:\n" + "\n".join(table())
