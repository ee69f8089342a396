"""Other viewers of a run: TensorBoard and Weights & Biases get a copy of the journal's numbers.

Training writes only to the journal. A thread for each viewer follows it from this attempt's first line; none
of its errors reaches the run.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, final

from launcher.track.config import TrackConfig
from launcher.track.journal import iterate_lines, read_events, whole_bytes
from launcher.track.points import Point, flatten_params, line_points, without_unused_layers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from wandb import Run

_POLL_S: Final = 2.0


class Sink(Protocol):
    """A viewer that is open for one attempt."""

    def add(self, points: Sequence[Point]) -> None:
        """The numbers of one line, all of the same step."""

    def go_back(self, step: int) -> None:
        """What was said of later steps holds no longer."""

    def flush(self) -> None:
        """Make what was added visible."""

    def close(self, status: str) -> None:
        """The attempt has ended, in MLflow's words."""


Opener = Callable[[Mapping[str, Any], Callable[[str], None]], Sink]
"""From the attempt's start line, and with somebody to notify."""


@final
class JournalFollower:
    """Sends the lines that this attempt writes to one viewer. Only close() makes the training thread wait."""

    def __init__(self, name: str, journal: Path, opener: Opener, *, notify: Callable[[str], None]) -> None:
        self._name, self._journal, self._open = name, journal, opener
        self._notify = notify
        self._offset = whole_bytes(journal)
        self._status = "FINISHED"
        self._given_up = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=name, daemon=True)

    def start(self) -> None:
        """Follow from here on: the next line is the attempt's first."""
        self._thread.start()

    def close(self, drain_s: float) -> None:
        """Send the rest, for at most `drain_s` seconds."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(drain_s)
        if self._thread.is_alive():
            self._given_up = True
            self._notify(f"{self._name}: no answer within {drain_s:g} s; it may lack the last steps")

    def _follow(self) -> None:
        sink: Sink | None = None
        try:
            while True:
                last = self._closing.is_set()  # asked before the pass, so that the last pass sees every line
                sink = self._send(sink)
                if last:
                    break
                self._closing.wait(_POLL_S)
            if sink is not None:
                sink.close(self._status)
        # No error of a viewer may end a training run.
        except Exception as error:
            if self._given_up:  # nobody waits for it any longer, and that was said
                return
            text = " ".join(str(error).split())[:200]
            self._notify(
                f"{self._name}: {type(error).__name__}: {text}; it gets nothing more of this attempt"
            )

    def _send(self, sink: Sink | None) -> Sink | None:
        end = whole_bytes(self._journal)
        for offset, line in iterate_lines(self._journal, self._offset, end):
            self._offset = offset
            if line["event"] == "start":
                sink = self._open(line, self._notify)
            assert sink is not None, "an attempt's first line is its start"
            if line["event"] == "end":
                self._status = line["status"]
            if "from_step" in line:
                sink.go_back(line["from_step"])
            if points := line_points(line):
                sink.add(points)
        self._offset = end
        if sink is not None:
            sink.flush()
        return sink


def make_followers(
    config: TrackConfig, journal: Path, notify: Callable[[str], None]
) -> Sequence[JournalFollower]:
    """Those that a recipe asks for."""
    openers: dict[str, Opener] = {}
    if (folder := config.tensorboard) is not None:
        openers["tensorboard"] = lambda line, _: TensorBoard(Path(folder) / _label(line))
    if (project := config.wandb) is not None:
        openers["wandb"] = lambda line, tell: open_wandb(project, line, journal, tell)
    return [JournalFollower(name, journal, opener, notify=notify) for name, opener in openers.items()]


def _label(line: Mapping[str, Any]) -> str:
    """A run's name, with its sweep's before it: points of two sweeps may have the same names."""
    _, below, label = line["run_dir"].rpartition("/runs/")
    return str(label) if below else str(line["run_name"])


@final
class TensorBoard:
    """Event files of one run in a folder. Where a run goes back, a new file hides what came after."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer = self._open(None)

    def _open(self, purge_step: int | None) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=purge_step)

    def add(self, points: Sequence[Point]) -> None:
        """See Sink."""
        for point in points:
            self._writer.add_scalar(point.key, point.value, point.step, walltime=point.time_ms / 1000)

    def go_back(self, step: int) -> None:
        """See Sink."""
        self._writer.close()
        self._writer = self._open(step + 1)

    def flush(self) -> None:
        """See Sink."""
        self._writer.flush()

    def close(self, status: str) -> None:
        """See Sink."""
        self._writer.close()


@final
class WeightsAndBiases:
    """A run there; the same one for all attempts. Steps trained twice are in its curves twice."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        run.define_metric("*", step_metric="step")

    def add(self, points: Sequence[Point]) -> None:
        """See Sink."""
        self._run.log({"step": points[0].step} | {point.key: point.value for point in points})

    def go_back(self, step: int) -> None:
        """See Sink: nothing there can be taken back."""

    def flush(self) -> None:
        """See Sink: it sends by itself."""

    def close(self, status: str) -> None:
        """See Sink."""
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)


def open_wandb(
    project: str, line: Mapping[str, Any], journal: Path, notify: Callable[[str], None]
) -> WeightsAndBiases:
    """Online with credentials, else in ./wandb for `wandb sync`; so too if the server gives no answer."""
    import wandb

    first = next(read_events(journal, "start"))
    key = hashlib.sha256(f"{first['run_dir']} {first['time']}".encode()).hexdigest()[:16]
    settings = wandb.Settings(console="off", silent=True, save_code=False, disable_git=True, init_timeout=10)

    def connect(mode: Literal["offline"] | None, key: str = key) -> WeightsAndBiases:
        run = wandb.init(
            project=project,
            name=_label(line),
            id=key,
            resume="allow",
            mode=mode,
            config=flatten_params(without_unused_layers(line["recipe"])),
            settings=settings,
        )
        return WeightsAndBiases(run)

    wandb.setup(settings=settings)
    try:
        return connect(None if wandb.login(prompt=False, verify=False) else "offline")
    except wandb.errors.CommError as error:
        notify(f"wandb: {str(error).splitlines()[0]}; it is kept in ./wandb, for `wandb sync`")
        # Under another id: its service still holds that of the run that could not be opened.
        return connect("offline", f"{key}-{line['attempt']}")
