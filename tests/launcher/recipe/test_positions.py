"""Whatever refuses a value of a recipe, and however late, names the line and column where it is written."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from launcher.check.gate import require_passed
from launcher.check.shrink import choose_widths
from launcher.cli.main import main
from launcher.cli.tracking import find_target
from launcher.data.batches import Batches
from launcher.data.open_data import check_same_data
from launcher.data.source_table import check_sources
from launcher.data.splits import open_splits
from launcher.errors import UserError
from launcher.mup.base_shapes import check_finite
from launcher.mup.bsh import dump_base_shapes
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import compile_recipe
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.submit import prepare
from models.config import max_chars
from tests.launch import launch, launch_rank
from tests.small_run import RECIPE, make_run, small_recipe

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Late:
    """A recipe that compiles: RECIPE with `old` replaced. What is wrong is written where `at` begins."""

    old: str
    new: str
    at: str
    words: str
    more: tuple[str, str] = ("", "")
    """A second replacement."""


SOURCE = "{type: python-stdlib}"
FILES = "{type: files, url: FOLDER/text}"
BASE = "base_width: 8"
CLASSIFIER = ("type: lm\n", "type: classifier\n  num_classes: 2\n  encoder: {type: token}\n")
MUON = ("{type: adamw, lr: 8e-3, grad_clip: 1.0}", "{type: muon, lr: 1e-2, scale: rms, others: {lr: 1e-3}}")


def labelled(train: str, more: str = "vocab_size: 256") -> str:
    return f"{{type: labelled, train: FOLDER/{train}, num_classes: 2, {more}}}"


LATE = [
    Late(BASE, "base_shapes: FOLDER/none.bsh", "FOLDER/none", "no such base-shapes file"),
    Late(BASE, "base_shapes: FOLDER/list.bsh", "FOLDER/list", "base-shapes file"),
    Late(BASE, "base_shapes: FOLDER/syntax.bsh", "FOLDER/syntax", "syntax.bsh:1:"),
    Late(
        BASE, "base_shapes: FOLDER/deeper.bsh", "FOLDER/deeper", "layers.2.norm.weight: is in the base shapes"
    ),
    Late(BASE, "base_shapes: FOLDER/flat.bsh", "FOLDER/flat", "does not fit base shape"),
    Late(BASE, "base_shapes: FOLDER/finite.bsh", "FOLDER/finite", "growing dimension"),
    Late(BASE, "base_shapes: FOLDER/tall.bsh", "rms", "fan_out", MUON),
    Late(SOURCE, "{type: files, url: FOLDER/nowhere}", "FOLDER/nowhere", "there are no files here"),
    Late(SOURCE, "{type: files, url: 'nosuch://x'}", "'nosuch", "cannot be opened"),
    Late(SOURCE, "{type: tokens, train: FOLDER/none.bin}", "FOLDER/none", "there is no such file"),
    Late(
        SOURCE,
        "{type: tokens, train: FOLDER/t.bin, validation: FOLDER/v.bin}",
        "FOLDER/v.bin",
        "there is no such file",
    ),
    Late(SOURCE, "{type: tokens, train: FOLDER/odd.bin, dtype: uint16}", "uint16", "not a whole number"),
    Late(SOURCE, "{type: tokens, train: FOLDER/odd.bin}", "source:", "not a whole number"),
    Late(
        SOURCE,
        "{type: tokens, train: FOLDER/t.bin}",
        "100",
        "model.vocab_size is 100",
        ("size: 256", "size: 100"),
    ),
    Late("32}", "32, validation_fraction: 0.001}", "0.001", "keeps none of 2 files", (SOURCE, FILES)),
    Late("32}", "32, validation_fraction: 0.999}", "0.999", "keeps all 2 files", (SOURCE, FILES)),
    Late("seq_len: 32}", "seq_len: 9999, validation_fraction: 0}", "9999", "for one window", (SOURCE, FILES)),
    Late(
        "global_batch_size: 8",
        "truncated_bptt: true, global_batch_size: 1000",
        "1000",
        "streams side by side",
        (SOURCE, "{type: tokens, train: FOLDER/t.bin}"),
    ),
    Late(SOURCE, labelled("none"), "FOLDER/none", "there is no such file", CLASSIFIER),
    Late(SOURCE, labelled("short"), "FOLDER/short", "data.seq_len is 32", CLASSIFIER),
    Late(SOURCE, labelled("junk"), "FOLDER/junk", "cannot be read", CLASSIFIER),
    Late(SOURCE, labelled("classes"), "2, vocab_size", "allowed are 0 to 1", CLASSIFIER),
    Late(SOURCE, labelled("tokens", "vocab_size: 200"), "200", "has token 255", CLASSIFIER),
    Late(
        SOURCE,
        "{type: listops, min_length: 31, max_depth: 2, max_args: 2}",
        "{type: listops",
        "none of 20000 expressions",
        ("type: lm\n", "type: classifier\n  num_classes: 10\n  encoder: {type: token}\n"),
    ),
    Late(
        SOURCE + ", seq_len: 32",
        "{type: digits}, seq_len: 64",
        "digits",
        "scikit-learn",
        (
            "lm\n  vocab_size: 256",
            "classifier\n  num_classes: 10\n  encoder: {type: linear, num_features: 1}",
        ),
    ),
    Late("type: local", "type: slurm", "slurm", "sbatch is not on PATH"),
    Late(
        "type: local, nproc",
        "type: auto, nodes: 2, nproc",
        "2, nproc",
        "this machine is one node",
        ("single", "ddp"),
    ),
    Late("enabled: false", "tracking_uri: here", "here", "is not a tracking store"),
    Late("enabled: false", "tracking_uri: 'sqlite:///'", "'sqlite", "does not name a file"),
    Late("checkpoint:", "check: {gate: true}\ncheckpoint:", "true}\ncheckpoint", "none is recorded"),
    Late(
        "d_model: 16\n  num_layers: 2\n  pattern: [s4d]",
        "d_model: 1000\n  num_layers: 2\n  pattern: [attention]\n  attention: {d_head: 1000}",
        "type: lm",
        "no small widths fit",
        ("{type: mup, base_width: 8}", "{type: sp}"),
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data and base shapes, each wrong in its own way, on a host without sbatch and scikit-learn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "text" / name).write_text("some text\n" * 20)
    np.arange(256).repeat(8).astype(np.uint16).tofile(tmp_path / "t.bin")
    (tmp_path / "odd.bin").write_bytes(bytes(101))
    shapes = dict(make_plan(small_recipe(), 1).parameters.base_shapes)
    muon = make_plan(small_recipe("=".join(("optim", MUON[1]))), 1).parameters
    matrix = next(name for group in muon.groups if group.update == "unit_rms" for name in group.parameters)
    changed = {
        "deeper": {**shapes, "layers.2.norm.weight": (8,)},
        "flat": {**shapes, matrix: (8,)},
        "finite": {**shapes, matrix: (None, shapes[matrix][1])},
        "tall": {**shapes, matrix: (2, 8)},
    }
    for name, dims in changed.items():
        (tmp_path / f"{name}.bsh").write_text(dump_base_shapes(dims))
    (tmp_path / "list.bsh").write_text("- 1\n")
    (tmp_path / "syntax.bsh").write_text("a: [1\n")
    good = {"x": np.arange(8 * 32).reshape(8, 32), "y": np.arange(8) % 2}
    for name, arrays in {
        "tokens": good,
        "short": {**good, "x": good["x"][:, :9]},
        "classes": {**good, "y": np.arange(8)},
    }.items():
        (tmp_path / name).mkdir()
        for array, values in arrays.items():
            np.save(tmp_path / name / f"{array}.npy", values)
    (tmp_path / "junk").mkdir()
    for array in good:
        (tmp_path / "junk" / f"{array}.npy").write_text("not of NumPy")
    return tmp_path


def write(folder: Path, late: Late) -> tuple[str, str]:
    """The text of a wrong recipe, and the place where it is wrong."""
    text = RECIPE
    for old, new in ((late.old, late.new), late.more):
        assert old in text
        text = text.replace(old, new, 1) if old else text
    text, at = (part.replace("FOLDER", str(folder)) for part in (text, late.at))
    assert text.count(at) >= 1
    before = text[: text.rindex(at) if at.startswith("FOLDER") else text.index(at)]
    return text, f"bad.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def start(loaded: LoadedRecipe, folder: Path) -> None:
    """All that `launch` and its ranks do with a recipe before the first step, without torchrun."""
    recipe, world_size = loaded.recipe, planned_ranks(loaded.recipe)
    with loaded.locating():
        check_sources(recipe.data)
        require_passed(recipe, "bad.yaml")
        plan = prepare(recipe, str(folder / "run"), env={}).plan
        choose_widths(recipe)
        splits = open_splits(recipe.data, recipe.model.vocab_size, max_chars(recipe.model))
        Batches(
            splits.train,
            global_batch_size=plan.batch.global_batch_size,
            micro_batch_size=plan.batch.micro_batch_size,
            rank=0,
            world_size=world_size,
            seed=0,
            prefetch=0,
            streams=recipe.train.truncated_bptt,
        ).at(0)
        find_target(recipe.track.mlflow, folder)


def test_the_recipe_itself_is_not_refused(folder: Path) -> None:
    start(compile_recipe(RECIPE, "bad.yaml"), folder)


@pytest.mark.parametrize("late", LATE, ids=lambda late: f"{late.new} {late.words}")
def test_what_is_refused_late_names_its_line_and_column(late: Late, folder: Path) -> None:
    text, place = write(folder, late)
    with pytest.raises(UserError) as caught:
        start(compile_recipe(text, "bad.yaml"), folder)
    for problem in caught.value.problems:
        assert problem.place == place, str(problem)
    assert late.words in str(caught.value)


def test_what_no_recipe_of_today_reaches_blames_a_key_as_well() -> None:
    """Models that grow a dimension in one width only, and ranks with other files."""
    loaded = compile_recipe(RECIPE, "bad.yaml")
    with pytest.raises(UserError, match=r"bad.yaml:15:30: w: has shape"), loaded.locating():
        check_finite({"w": (16, 8)}, {"w": (8, 8)}, {"w": (None, 8)})
    with (
        pytest.raises(UserError, match=r"bad.yaml:12:16: data.source: ranks \[1\] read different data"),
        loaded.locating(),
    ):
        check_same_data(["a", "b"])


MISSING = RECIPE.replace("{type: python-stdlib}", "{type: tokens, train: none.bin}")
NO_SHAPES = RECIPE.replace("base_width: 8", "base_shapes: none.bsh")


@pytest.mark.parametrize(
    ("words", "text", "place"),
    [
        (["bad.yaml"], MISSING, "bad.yaml:12:38"),
        (["bad.yaml", "data.source.train=gone.bin"], MISSING, "override 'data.source.train=gone.bin'"),
        (["bad.yaml", "--nodes", "2", "parallel.strategy=ddp", "cluster.type=auto"], RECIPE, "--nodes"),
        (["check", "bad.yaml"], MISSING, "bad.yaml:12:38"),
        (["sweep", "bad.yaml", "seed=1,2"], MISSING, "bad.yaml:12:38"),
        (["plan", "bad.yaml"], NO_SHAPES, "bad.yaml:15:31"),
        (["explain", "bad.yaml"], NO_SHAPES, "bad.yaml:15:31"),
        (["shapes", "bad.yaml"], NO_SHAPES, "bad.yaml:15:31"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_verb_names_the_place(
    words: list[str], text: str, place: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.yaml").write_text(text)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"launch: {place}: ")


def test_a_rank_and_a_resume_name_the_line_in_the_recipe_of_the_run(folder: Path) -> None:
    run = Path(make_run(folder / "run", compile_recipe(MISSING, "bad.yaml").recipe))
    lines = (run / "recipe.yaml").read_text().splitlines()
    (line,) = [number for number, line in enumerate(lines, 1) if "none.bin" in line]
    place = (
        f"launch: {run}/recipe.yaml:{line}:{lines[line - 1].index('none.bin') + 1}: none.bin: there is no "
    )
    for done in (launch_rank("run", folder=Path.cwd()), launch("resume", "run", folder=Path.cwd())):
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(place)


SECTIONS = [
    ("s4d: {d_state: 8", "s4d: {dt_min: 1, d_state: 8", "dt_min: 1"),
    ("s4d: {d_state: 8", "s4d: {d_state: 8, n_ssm: 3", "n_ssm: 3"),
    ("d_state: 8, init: legs", "n_ssm: 1, init: diag", "init: diag"),
    ("s4d: {d_state: 8", "s4d: {d_state: 8, bidirectional: true", "bidirectional: true"),
    ("  s4d: {", "  s4: {init: legt, rank: 1}\n  s4d: {", "rank: 1"),
    ("  s4d: {", "  dss: {max_length: 4, version: exp}\n  s4d: {", "version: exp"),
    ("  s4d: {", "  ssd: {dt_min: 1}\n  s4d: {", "dt_min: 1"),
    ("  s4d: {", "  attention: {num_heads: 2, d_head: 8}\n  s4d: {", "d_head: 8}"),
    ("  s4d: {", "  attention: {rotary: false, causal: false}\n  s4d: {", "causal: false"),
    ("pattern: [s4d]", "pattern: [attention]\n  attention: {rotary: false, d_head: 3}", "d_head: 3"),
    ("pattern: [s4d]", "pattern: [attention]\n  attention: {d_head: 1, rotary: true}", "rotary: true"),
    ("pattern: [s4d]", "pattern: [momentum]\n  momentum: {step_size: 1, d_head: 3}", "d_head: 3"),
    ("pattern: [s4d]", "pattern: [ssd]\n  ssd: {expand: 1, d_head: 3}", "d_head: 3"),
    ("pattern: [s4d]", "pattern: [s4d, ffn, ffn]", "num_layers: 2"),
    ("type: lm", "type: lm\n  encoder: {type: char-cnn}\n  tie_embeddings: true", "tie_embeddings: true"),
    ("type: lm", "type: classifier\n  num_classes: 2\n  encoder: {type: char-cnn}", "encoder: {"),
    (
        "{type: python-stdlib}",
        "{type: labelled, train: x, num_classes: 2, vocab_size: 3, num_chars: 3}",
        "vocab_size: 3",
    ),
    ("{type: python-stdlib}", "{type: copying}, validation_fraction: 0.1", "validation_fraction: 0.1"),
    ("{type: python-stdlib}", "{type: listops, min_length: 50}", "seq_len: 32"),
    ("{type: python-stdlib}", "{type: copying, num_symbols: 17}", "seq_len: 32"),
    ("{type: python-stdlib}", "{type: associative-recall, num_pairs: 16}", "seq_len: 32"),
    ("{type: python-stdlib}", "{type: associative-recall, num_keys: 2, num_pairs: 3}", "num_pairs: 3"),
    ("{type: python-stdlib}", "{type: associative-recall, num_pairs: 2, num_queries: 3}", "num_queries: 3"),
    ("{type: python-stdlib}", "{type: digits}", "seq_len: 32"),
    ("enabled: false", "tracking_uri: 'http://me:secret@host'", "tracking_uri: 'http"),
    ("type: local", "partition: ''", "partition: ''"),
    ("type: local", "sbatch_options: [x]", "[x]"),
    ("type: local", "sbatch_options: [--nodes=3]", "[--nodes=3]"),
    ("type: local", "env: {'A B': x}", "'A B': x"),
]


@pytest.mark.parametrize(("old", "new", "at"), SECTIONS, ids=[new for _, new, _ in SECTIONS])
def test_what_a_section_refuses_stands_at_the_key_that_it_names_first(old: str, new: str, at: str) -> None:
    assert old in RECIPE
    text = RECIPE.replace(old, new, 1)
    line = text[: text.index(at)].count("\n")
    start = text.splitlines()[line].index(at)
    with pytest.raises(UserError) as caught:
        compile_recipe(text, "bad.yaml")
    (problem,) = caught.value.problems
    key, colon, _ = at.partition(": ")
    # at a value, or at the key where the value is a section
    value = start + (len(key + colon) if colon and not at.endswith("{") else at.startswith("["))
    assert problem.place == f"bad.yaml:{line + 1}:{value + 1}", str(problem)


def test_no_place_is_a_recipe_key_that_nobody_can_look_up() -> None:
    """`Problem("data.seq_len", ...)` would stand on the screen as it is; Problem.at is looked up."""
    wrong = []
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
            ):
                continue
            place = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            section = str(place.value).partition(".")[0] if isinstance(place, ast.Constant) else ""
            if section in Recipe.model_fields and "key" not in [keyword.arg for keyword in node.keywords]:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {section}")
    assert not wrong, "use Problem.at, or give key=:\n" + "\n".join(wrong)
