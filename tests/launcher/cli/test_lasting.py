"""A terminal that closes, or a pipe whose reader leaves, does not end training."""

import os
import subprocess
import sys
from pathlib import Path

from launcher.cli.lasting import LastingOutput
from launcher.track.journal import read_journal
from tests.launch import ENVIRONMENT, LAUNCH
from tests.small_run import RECIPE


def test_a_run_whose_reader_has_left_trains_to_its_end_and_its_output_is_kept(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = [*LAUNCH, "small.yaml", "parallel.strategy=ddp", "--nproc-per-node", "2", "--run-dir", "run"]
    reads, writes = os.pipe()
    process = subprocess.Popen(
        words, cwd=tmp_path, env={**os.environ, **ENVIRONMENT}, stdout=writes, stderr=writes
    )
    os.close(writes)
    with open(reads) as stream:
        assert stream.readline().startswith("run: ")
    assert process.wait(timeout=120) == 0
    records = read_journal(tmp_path / "run/journal.jsonl")
    assert records[-1]["class"] == "done"
    assert sum(record["event"] == "step" for record in records) == 20
    console = (tmp_path / "run/logs/console.log").read_text()
    assert "step 20/20  loss" in console
    assert "launch resume run train.steps=40" in console


def test_what_cannot_be_written_is_dropped_and_nothing_raises_even_at_exit(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from launcher.cli.lasting import LastingOutput\n"
        f"sys.stdout = LastingOutput(sys.stdout, Path({str(tmp_path / 'copy')!r}))\n"
        "[print('x' * 10000) for _ in range(10)]"
    )
    full = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    os.close(full)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "copy").read_text() == ("x" * 10000 + "\n") * 10


def test_a_copy_that_cannot_be_opened_or_written_does_not_matter(tmp_path: Path) -> None:
    for copy in (Path("/dev/full"), Path("/proc/nothing/here")):
        path = tmp_path / "out"
        with open(path, "w") as stream:
            print("said", file=LastingOutput(stream, copy))
        assert path.read_text() == "said\n"
