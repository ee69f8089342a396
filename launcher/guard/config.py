"""Guard section of a recipe. Torch-free."""

from typing import Annotated

from pydantic import Field

from models.section import Count, Section, StepsOrZero

Seconds = Annotated[float, Field(gt=0)]


class OutlierConfig(Section):
    """Skip updates whose gradient norm is far above those of the last steps."""

    window: Annotated[int, Field(ge=8, le=4096)] = 128
    """Steps whose norms are compared with."""
    factor: Annotated[float, Field(gt=1)] = 10.0
    """A norm above median + factor x (median absolute deviation) of the window is an outlier."""


class GuardConfig(Section):
    """What a run survives, and when it gives up. Updates that are not finite are never applied."""

    max_skips: Count = 5
    """Skipped updates in a row after which the run goes back to its newest good checkpoint."""
    max_rollbacks: StepsOrZero = 2
    """Rollbacks, in the whole run, after which it ends as non-finite."""
    outliers: OutlierConfig | None = None
    """Skip outlier gradient norms as well; null applies them."""
    stall_s: Seconds | None = None
    """A step that takes longer is a hang; null learns the limit from recent steps."""
    start_s: Seconds = 1800.0
    """Limit for what comes before the second step: building, loading, compiling."""
    time_limit_min: Seconds | None = None
    """Save and stop after this time; null follows the scheduler's limit, where there is one."""
    notify: str | None = None
    """A URL (http://, https://) or a command, called once per final ending or stall."""
