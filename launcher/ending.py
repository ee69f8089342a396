"""How an attempt ended: one class for each cause that people act on differently. Torch-free."""

from typing import Literal

from launcher.errors import UserError

Ending = Literal["done", "user error", "out of memory", "stopped by user", "bug"]
"""Closed, and written into the journal's last line."""


def classify(error: BaseException | None) -> Ending:
    """The class of what ended an attempt; None is an end without an error."""
    if error is None:
        return "done"
    if isinstance(error, UserError):
        return "user error"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by user"
    # torch's own class, by name: importing torch for it would take seconds where nothing else needs it
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    return "bug"
