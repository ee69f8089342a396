"""Wait for what another process does."""

import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], bool], explain: Callable[[], str] = lambda: "", limit_s: float = 120.0
) -> None:
    """Until a condition holds; fails after a limit that no working program comes near."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in {limit_s} s: {explain()}"
        time.sleep(0.05)
