"""The house rules that can be measured: who imports whom, one door per vendor, sizes, what is torch-free."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.clock import PHASES

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "cluster", "launcher")
MAY_IMPORT = {"models": set(), "cluster": set(), "launcher": {"models", "cluster"}}
NEVER = {
    "cluster": {"torch", "deepspeed", "mlflow", "numpy", "yaml"},
    "models": {"deepspeed", "mlflow", "yaml", "fsspec", "os", "pathlib", "subprocess"},
}
# One file, or one folder, may import each of these.
DOORS = {
    "yaml": "launcher/yaml_text.py",
    "mlflow": "launcher/track/mlflow.py",
    "fsspec": "launcher/files.py",
    "deepspeed": "launcher/parallel/deepspeed/deepspeed_engine.py",
    "subprocess": "cluster/",
    "sklearn": "launcher/data/digits.py",
    "matplotlib": "launcher/report/",
    "rich": "launcher/cli/watch.py",
    "pynvml": "launcher/track/nvml.py",
    "psutil": "launcher/track/machine.py",
    "tensorboard": "launcher/track/sinks.py",
    "wandb": "launcher/track/sinks.py",
    "tokenizers": "launcher/data/text_tokenizer.py",
    "pyarrow": "launcher/corpus/row_readers.py",
    "safetensors": "models/exported.py",
    "argparse": "launcher/cli/",
}
ENVIRONMENT_DOORS = ("launcher/world.py", "launcher/cli/", "cluster/")
# Nouns do not know the verbs or the loop, and only these few see the whole recipe.
ABOVE_THE_NOUNS = ("launcher.cli", "launcher.train")
CLUSTER_DOORS = (
    "launcher/submit.py",
    *(f"launcher/recipe/{name}.py" for name in ("schema", "compile", "extended", "extension")),
)
TEMPLATE = ROOT / "launcher/template"  # what `launch init --extension` writes: the user's, not ours
MAX_FILE, MAX_FUNCTION, MAX_LOOP = 400, 60, 80
MAX_LOOP_IMPORTS = 15
# PyTorch's and pickle's own signatures.
PASS_THROUGH_DOORS = {"launcher/checkpoint/storage.py", "launcher/parallel/wrap.py"}


def sources() -> list[Path]:
    found = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [path for path in found if TEMPLATE not in path.parents]


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def test_rooms_import_one_way() -> None:
    wrong = []
    for path in sources():
        room = place(path).split("/")[0]
        for module, line in imports(path):
            top = module.split(".")[0]
            if top in ROOMS and top not in MAY_IMPORT[room] | {room}:
                wrong.append(f"{place(path)}:{line} imports {module}; {room}/ may import {MAY_IMPORT[room]}")
            if top in NEVER.get(room, ()):
                wrong.append(f"{place(path)}:{line} imports {module}; {room}/ must run without it")
            if top == "tests":
                wrong.append(f"{place(path)}:{line} imports {module}; tests are not shipped")
    assert not wrong, "\n".join(wrong)


def test_every_vendor_has_one_door() -> None:
    wrong = [
        f"{place(path)}:{line} imports {module}; only {DOORS[module.split('.')[0]]} may"
        for path in sources()
        for module, line in imports(path)
        if not place(path).startswith(DOORS.get(module.split(".")[0], ""))
    ]
    assert not wrong, "\n".join(wrong)


def test_nouns_do_not_know_the_verbs() -> None:
    wrong = [
        f"{place(path)}:{line} imports {module}"
        for path in sources()
        for module, line in imports(path)
        if module.startswith(ABOVE_THE_NOUNS)
        and not place(path).startswith(
            ("launcher/cli/", "launcher/sweep/", "launcher/train.py", "launcher/__main__.py")
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_and_submission_know_the_cluster() -> None:
    wrong = [
        f"{place(path)}:{line} imports {module}"
        for path in sources()
        for module, line in imports(path)
        if place(path).startswith("launcher/")
        and module.split(".")[0] == "cluster"
        and not place(path).startswith("launcher/cli/")
        and place(path) not in CLUSTER_DOORS
    ]
    assert not wrong, "a rank must not know what launched it:\n" + "\n".join(wrong)


def test_kinds_of_layers_meet_only_in_the_layer_table() -> None:
    wrong = [
        f"{place(path)}:{line} imports {module}"
        for path in sorted((ROOT / "models").glob("*.py"))
        if place(path) not in ("models/layer_table.py", "models/config.py")
        for module, line in imports(path)
        if module.startswith(("models.ssm", "models.ssd"))
    ]
    assert not wrong, "models/ssm and models/ssd stand on the rest of models/:\n" + "\n".join(wrong)


def test_environment_is_read_at_the_doors() -> None:
    wrong = [
        f"{place(path)}:{node.lineno}"
        for path in sources()
        if not place(path).startswith(ENVIRONMENT_DOORS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert not wrong, "pass values in instead of reading the environment:\n" + "\n".join(wrong)


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for path in sources():
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE:
            wrong.append(f"{place(path)}: {lines} lines; at most {MAX_FILE}")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                limit = (
                    MAX_LOOP if (place(path), node.name) == ("launcher/train.py", "train") else MAX_FUNCTION
                )
                if length > limit:
                    wrong.append(f"{place(path)}:{node.lineno} {node.name}: {length} lines; at most {limit}")
    assert not wrong, "\n".join(wrong)


def test_the_loop_stays_a_page_of_nouns_and_phases() -> None:
    path = ROOT / "launcher/train.py"
    tree = ast.parse(path.read_text())
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) <= MAX_LOOP_IMPORTS, f"{len(statements)} imports; at most {MAX_LOOP_IMPORTS}"
    assert "perf_counter" not in path.read_text(), "time is the clock's"
    assert "import time" not in path.read_text(), "time is the clock's"
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [ast.literal_eval(c.args[0]) for c in calls if ast.unparse(c.func) == "clock.phase"]
    assert set(names) == set(PHASES), "every phase of the clock is one of the loop, and the other way round"
    assert len(names) == len(set(names))


def test_no_globals_no_hasattr_no_keyword_pass_through() -> None:
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Global):
                wrong.append(f"{place(path)}:{node.lineno} global")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                wrong.append(f"{place(path)}:{node.lineno} hasattr")
            if (
                isinstance(node, ast.FunctionDef)
                and node.args.kwarg
                and place(path) not in PASS_THROUGH_DOORS
            ):
                wrong.append(f"{place(path)}:{node.lineno} **{node.args.kwarg.arg}")
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_share_a_name() -> None:
    """`config.py` is the one exception: a recipe section beside what it configures."""
    places: dict[str, list[str]] = {}
    for path in sources():
        if path.name not in ("config.py", "__init__.py", "__main__.py"):
            places.setdefault(path.name, []).append(place(path))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_the_functions_that_the_architecture_page_walks_through_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert named
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"docs/architecture.md: {path} has no {name}"
    first_walk = text.split("## Two walks")[1].split("*A checkpoint")[0]
    assert len(re.findall(r"^\d+\. ", first_walk, re.MULTILINE)) <= 12
    for path in re.findall(r"`([\w/]+/)`", text):
        assert (ROOT / path).is_dir(), path


def test_every_module_says_what_lives_in_it() -> None:
    silent = [place(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, silent


def test_recipes_hold_no_python() -> None:
    assert not list((ROOT / "recipes").rglob("*.py"))


TORCH_FREE = [
    place(path).removesuffix(".py").replace("/", ".")
    for path in sources()
    if place(path).startswith(("launcher/recipe/", "cluster/"))
    or path.name == "config.py"
    or place(path)
    in ("launcher/errors.py", "launcher/files.py", "launcher/run_folder.py", "launcher/cli/main.py")
    or place(path) in ("launcher/table.py", "launcher/json_text.py", "launcher/processes.py")
    or place(path)
    in (
        "launcher/cli/run.py",
        "launcher/cli/resume.py",
        "launcher/cli/explain.py",
        "launcher/cli/tracking.py",
        "launcher/cli/inspect.py",
    )
]


def test_the_way_to_a_checked_recipe_imports_no_torch() -> None:
    program = "\n".join(
        [*(f"import {module}" for module in TORCH_FREE), "import sys", "print('torch' in sys.modules)"]
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False", "one of the torch-free modules imports torch"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_where_the_design_says(room: str) -> None:
    assert (ROOT / room / "__init__.py").is_file()
