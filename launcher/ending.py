"""How an attempt ended: one class for each cause that needs a different reaction. Torch-free."""

from typing import Literal

from launcher.errors import UserError

Ending = Literal["done", "user error", "out of memory", "stopped by user", "bug"]
"""A closed set; written into the journal's last line."""


def classify(error: BaseException | None) -> Ending:
    """The class of an attempt's ending; None means that there was no error."""
    if error is None:
        return "done"
    if isinstance(error, UserError):
        return "user error"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by user"
    # torch's own class, by name: importing torch takes seconds, and nothing else here needs it.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory"
    return "bug"
