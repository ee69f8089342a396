"""A sweep in MLflow: one parent run with the verdicts, and a child run for every point."""

import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from launcher import files
from launcher.json_text import dump_json, load_json
from launcher.sweep.transfer import Transfer
from launcher.track.mlflow import MlflowRun, MlflowTarget, open_run
from launcher.track.points import Point
from launcher.track.tracking_uri import mask_secrets

STATE = "mlflow.json"


@final
class SweepRun:
    """The parent run. If the server cannot be reached, the sweep prints a line and continues."""

    def __init__(
        self, run: MlflowRun | None, target: MlflowTarget | None, say: Callable[[str], None]
    ) -> None:
        self._run, self._say = run, say
        self.children = target if run is None or target is None else replace(target, parent_run_id=run.run_id)
        """Where the points send their metrics; None for nowhere."""

    def close(self, transfers: Sequence[Transfer], artifacts: Sequence[Path]) -> None:
        """Store the verdicts and the artifacts."""
        if self._run is None:
            return
        now_ms = round(time.time() * 1000)
        points = [Point(key, value, now_ms, 0) for key, value in verdict_metrics(transfers).items()]
        try:
            self._run.send(points)
            for path in artifacts:
                if path.exists():
                    self._run.send_artifact(path)
            self._run.end_attempt("FINISHED", now_ms)
        except Exception as error:  # no error of a tracking client may end a sweep
            self._say(
                f"mlflow: the sweep's own run is incomplete: {mask_secrets(str(error)).splitlines()[0]}"
            )


def open_parent(
    target: MlflowTarget | None, name: str, out: Path, axes: Sequence[str], say: Callable[[str], None]
) -> SweepRun:
    """Continue the parent run that is saved in the sweep's folder, or create one; none without a target."""
    if target is None:
        return SweepRun(None, None, say)
    path = out / STATE
    saved = load_json(path.read_bytes()) if path.exists() else {}
    # Saved before the run is created: after a crash in between, the next sweep finds the run by its key.
    key = saved.get("run_key", uuid.uuid4().hex)
    files.make_folder(str(out))
    files.write_text(str(path), dump_json({"run_key": key, "run_id": saved.get("run_id")}))
    try:
        run = open_run(
            target,
            run_id=saved.get("run_id"),
            run_key=key,
            run_name=f"sweep {name}",
            start_ms=round(time.time() * 1000),
            retried="run_key" in saved,
        )
        attempt = int(saved.get("attempt", 0)) + 1
        recipe = {"sweep": name, "axes": " ".join(axes)}
        run.begin_attempt({"attempt": attempt, "recipe": recipe, "run_dir": str(out), "world_size": 1})
    except Exception as error:  # as above
        say(f"mlflow: no run for the sweep itself: {mask_secrets(str(error)).splitlines()[0]}")
        return SweepRun(None, target, say)
    state = {"run_key": key, "run_id": run.run_id, "attempt": attempt}
    files.write_text(str(path), dump_json(state))
    return SweepRun(run, target, say)


def verdict_metrics(transfers: Sequence[Transfer]) -> dict[str, float]:
    """The numbers of a sweep as metrics, without those that are not finite."""
    found: dict[str, float] = {}
    for transfer in transfers:
        short = transfer.key.rsplit(".", 1)[-1]
        prefix = f"{transfer.series}/" if transfer.series else ""
        prefix += "" if short == "lr" else f"{short}/"
        found[f"{prefix}optimum_shift_octaves"] = transfer.shift.value
        found[f"{prefix}optimum_range_octaves"] = transfer.range_octaves
        found[f"{prefix}transfer_regret"] = transfer.regret
        found[f"{prefix}wider_is_better"] = float(transfer.wider_is_better)
        for optimum in transfer.optima:
            found[f"{prefix}best_loss/{optimum.d_model}"] = optimum.loss.value
            found[f"{prefix}best_{short}_log2/{optimum.d_model}"] = optimum.log2_value.value
    return {
        # MLflow allows only these letters in a key, and the name of a series has values that the user wrote.
        "".join(c if c.isalnum() or c in "_-. /" else "_" for c in key): value
        for key, value in found.items()
        if math.isfinite(value)
    }
