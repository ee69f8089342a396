"""The command line before torch: help, errors and how fast they come."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.main import SCREEN, USAGE, main, print_problems
from launcher.errors import Problem, UserError
from tests.launch import LAUNCH, assert_one_screen, launch
from tests.small_run import RECIPE

ROOT = Path(__file__).parents[3]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_help_names_every_verb_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out == USAGE
    for word in ("--nodes", "--nproc-per-node", "--run-dir", "--dry-run", "plan", "resume", "ui", "schema"):
        assert word in out


@pytest.mark.parametrize(
    "words", [["--help"], ["bad.yaml"], ["plan", "bad.yaml"], ["resume", "nowhere"], ["nonsense"]]
)
def test_help_and_errors_import_no_torch(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(RECIPE.replace("d_model", "d_modle"))
    program = (
        "import sys; from launcher.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    code = 0 if words == ["--help"] else 2
    assert done.stdout.splitlines()[-1] == f"{code} False False"


@pytest.mark.parametrize("module", ["launcher", "launcher.cli.main"])
@pytest.mark.parametrize(("words", "code"), [(("--help",), 0), ((), 2), (("pln",), 2)])
def test_as_a_module_it_is_the_same_command(module: str, words: tuple[str, ...], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stdout == (USAGE if words != ("pln",) else "")
    assert ("did you mean plan?" in done.stderr) == (words == ("pln",))


def test_a_misspelt_verb_gets_the_nearest_one(tmp_path: Path) -> None:
    assert_one_screen(launch("pln", "small.yaml", folder=tmp_path), "launch pln", "plan")


def test_every_mistake_of_a_recipe_is_shown_at_once_with_its_place(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("d_model: 16", "d_modle: 16").replace("steps: 20", "steps: soon"))
    done = launch("small.yaml", "optim.lr=-1", folder=tmp_path)
    assert_one_screen(done, "small.yaml:7:3", "d_model", "small.yaml:17:", "steps", "override 'optim.lr=-1'")


def test_an_impossible_batch_is_refused(tmp_path: Path, recipe: Path) -> None:
    done = launch("small.yaml", "train.global_batch_size=9", "parallel.strategy=ddp", "--nproc-per-node", "2",
                  folder=tmp_path)  # fmt: skip
    assert_one_screen(done, "global_batch_size", "9", "8 or 10")


def test_missing_files_are_named(tmp_path: Path, recipe: Path) -> None:
    assert_one_screen(launch("smal.yaml", folder=tmp_path), "smal.yaml", "small.yaml")
    done = launch("small.yaml", "data.source={type: files, url: nowhere/*.txt}", folder=tmp_path)
    assert_one_screen(done, "nowhere")
    done = launch("small.yaml", "mup={type: mup, base_shapes: none.bsh}", folder=tmp_path)
    assert_one_screen(done, "none.bsh", "base-shapes file")


def test_an_unwritable_run_folder_is_refused(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_one_screen(launch("small.yaml", "--run-dir", "file", folder=tmp_path), "file", "--run-dir")
    assert_one_screen(
        launch("small.yaml", "--run-dir", "file/below", folder=tmp_path), "file/below", "--run-dir"
    )
    assert_one_screen(
        launch("small.yaml", "--run-dir", "/proc/run", folder=tmp_path), "/proc/run", "--run-dir"
    )
    assert (tmp_path / "file").read_text() == "in the way"


def test_errors_are_never_more_than_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    print_problems(UserError(*(Problem(f"p{number}", "is wrong", "fix it") for number in range(10))))
    assert capsys.readouterr().err.count("\n") == SCREEN
    print_problems(UserError(*(Problem(f"p{number}", "is wrong", "fix it") for number in range(500))))
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == SCREEN
    assert shown[0] == "launch: p0: is wrong"
    assert shown[-1] == "launch: 981 more lines are not shown"


def test_shapes_that_cannot_be_written_are_one_line(tmp_path: Path, recipe: Path) -> None:
    done = launch("shapes", "small.yaml", "-o", str(tmp_path), folder=tmp_path)
    assert_one_screen(done, str(tmp_path), "cannot be written: Is a directory")
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def test_an_empty_run_folder_is_not_the_default(tmp_path: Path, recipe: Path) -> None:
    assert_one_screen(launch("small.yaml", "--run-dir", "", folder=tmp_path), str(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_what_is_not_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    assert_one_screen(launch("resume", "nowhere", folder=tmp_path), "nowhere", "is neither a folder")
    assert_one_screen(launch("resume", ".", folder=tmp_path), "not a run")


def test_a_dry_run_prints_plan_and_script_and_writes_nothing(tmp_path: Path, recipe: Path) -> None:
    done = launch("small.yaml", "--dry-run", "--run-dir", "X", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for fragment in ("parameters ", "peak lr", "launcher.cli.agent", "--nproc-per-node=1", "ssm.dt"):
        assert fragment in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.yaml"]


def test_a_reader_that_has_seen_enough_is_not_a_crash(tmp_path: Path, recipe: Path) -> None:
    # a pipe whose reading end is closed from the start: no luck with buffer sizes
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*LAUNCH, "schema"], stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", [("--help",), ("schema",)])
def test_an_output_that_cannot_be_written_is_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*LAUNCH, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert (done.returncode, done.stderr) == (
        1,
        "launch: the output cannot be written: No space left on device\n",
    )


def test_a_closed_output_is_not_an_error() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *LAUNCH, "schema"], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_several_nodes_without_slurm_are_refused(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(RECIPE.replace("type: local", "type: auto"))
    words = ("small.yaml", "--nodes", "2", "parallel.strategy=ddp", "--run-dir", "X")
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no sbatch
    assert_one_screen(launch(*words, folder=tmp_path), "sbatch")
    assert not (tmp_path / "X").exists()


@pytest.mark.parametrize("words", [("-q", "validate"), ("validate", "--quiet")])
def test_quiet_prints_problems_only(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "wrong.yaml").write_text(RECIPE.replace("seed:", "sed:"))
    done = launch(*words, "small.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = launch(*words, "wrong.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown key 'sed'" in done.stderr


def test_a_quiet_run_prints_nothing_and_keeps_its_log(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    done = launch("-q", "small.yaml", "track.mlflow.enabled=false", "--run-dir", "run", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "saved checkpoints/" in (tmp_path / "run/logs/console.log").read_text()


def test_verbose_shows_where_a_problem_was_found(tmp_path: Path) -> None:
    plain, verbose = (launch(*words, "plan", "none.yaml", folder=tmp_path) for words in ((), ("-v",)))
    assert "Traceback" not in plain.stderr
    assert verbose.stderr.startswith("Traceback")
    assert verbose.stderr.endswith(plain.stderr)
