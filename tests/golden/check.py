"""Golden files: text that changes only on purpose. `UPDATE_GOLDEN=1 pytest ...` writes them again."""

import os
from pathlib import Path

HERE = Path(__file__).parent


def check_golden(name: str, text: str) -> None:
    """Compare with the golden file of this name."""
    path = HERE / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs; UPDATE_GOLDEN=1 rewrites it if that is meant"
