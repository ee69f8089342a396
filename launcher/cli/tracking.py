"""Which tracking store the command line feeds: of what is written, set in the environment, or remembered."""

import os
from pathlib import Path

from launcher.track.config import MLflowConfig
from launcher.track.mlflow import MlflowTarget
from launcher.track.mlflow_sync import saved_tracking_uri
from launcher.track.tracking_uri import resolve_tracking_uri


def find_target(config: MLflowConfig, folder: Path) -> MlflowTarget:
    """The store to feed: the recipe's, the environment's, the last attempt's or the default."""
    uri = resolve_tracking_uri(
        config.tracking_uri,
        os.environ.get("MLFLOW_TRACKING_URI"),
        Path.cwd(),
        previous=saved_tracking_uri(folder),
    )
    return MlflowTarget(uri, config.experiment)
