"""Extensions: rows of installed distributions, as good as ours, and errors that name who brought them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.plan.plan import make_plan
from launcher.recipe.compile import compile_recipe, dump_recipe, read_frozen, recipe_schema
from launcher.recipe.extended import extended_recipe
from launcher.recipe.extension import extension_facts, load_extension
from launcher.track.journal import step_records
from tests.launch import ENVIRONMENT, LAUNCH
from tests.launcher.recipe.extensions import CODE, RECIPE, TOYS, install, install_toys

ROOT = str(Path(__file__).parents[3])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what it held is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    for cache in (extended_recipe, extension_facts, load_extension):
        cache.cache_clear()


def problem(text: str) -> str:
    with pytest.raises(UserError) as caught:
        compile_recipe(text, "toys.yaml")
    return str(caught.value)


def test_a_toy_of_each_kind_is_read_frozen_and_planned(site: Path) -> None:
    install_toys(site)
    loaded = compile_recipe(RECIPE, "toys.yaml")
    recipe = read_frozen(dump_recipe(loaded.recipe), "recipe.yaml").recipe
    assert recipe == loaded.recipe
    assert recipe.model.pattern == ("gate",)
    assert recipe.cluster.model_dump()["inline"] == {"nice": 3}
    plan = make_plan(recipe, 1)
    assert plan.parameters.num_parameters == 7 * 16 * 2 + 2 * (16 * 17 + 32) + 32
    assert plan.extensions["toys"].version == "1.0"
    assert {group.update for group in plan.parameters.groups} == {"sign"}


def test_mistakes_in_its_keys_are_found_as_in_ours(site: Path) -> None:
    install_toys(site)
    text = RECIPE.replace("pattern: [gate]", "pattern: [gaet], gate: {gruops: 2}")
    said = problem(text.replace("type: square", "type: squar"))
    assert "momentum, ssd, ffn or gate" in said
    assert "unknown key 'gruops' in model.gate" in said
    assert "did you mean square?" in said
    said = problem(RECIPE.replace("pattern: [gate]", "pattern: [gate], gate: {groups: 3}"))
    assert "toys.yaml:5:" in said
    assert "gate.groups 3 does not divide d_model 16" in said


def test_the_schema_for_editors_has_its_keys(site: Path) -> None:
    install_toys(site)
    schema = recipe_schema(["toys"])
    text = json.dumps(schema)
    assert "Channels are cut into so many." in text
    assert '"sign-descent"' in text
    assert "sign-descent" not in json.dumps(recipe_schema())


@pytest.mark.parametrize(
    ("modules", "points", "said"),
    [
        ({"__init__.py": ""}, "", "toys declares 0 entry points of launcher.extensions, not one"),
        (
            {"__init__.py": "import nowhere"},
            None,
            "toys cannot be loaded from toys:extension: ModuleNotFoundError",
        ),
        ({"__init__.py": "1 / 0"}, None, "toys cannot be loaded from toys:extension: ZeroDivisionError"),
        ({"__init__.py": "extension = 3"}, None, "toys has toys:extension, which is int"),
        (
            {"__init__.py": TOYS.replace('{"gate": LayerRow', '{"s4": LayerRow'), "code.py": CODE},
            None,
            "toys offers layers['s4'], which there is already",
        ),
        (
            {"__init__.py": TOYS.replace('{"gate": LayerRow', '{"a.b": LayerRow'), "code.py": CODE},
            None,
            "toys offers layers['a.b']; use letters",
        ),
        (
            {"__init__.py": TOYS.replace("groups: int = 1", "groups: int"), "code.py": CODE},
            None,
            "toys: a section does not fit into a recipe: ValidationError: 1 validation error for GateConfig",
        ),
        (
            {"__init__.py": TOYS.replace('type: Literal["square"]', "type: str"), "code.py": CODE},
            None,
            "toys: a section does not fit into a recipe: PydanticUserError: Model 'SquareConfig' needs field",
        ),
        (
            {"__init__.py": TOYS.replace('"square": ScheduleKind(', '"square": dict('), "code.py": CODE},
            None,
            "toys offers schedules['square'], which is a dict, not a ScheduleKind",
        ),
    ],
)
def test_a_wrong_extension_is_refused_at_its_line(
    site: Path, modules: dict[str, str], points: str | None, said: str
) -> None:
    install(site, "toys", modules, points)
    assert f"toys.yaml:4:13: {said}" in problem(RECIPE)


def test_one_that_is_not_installed_is_named_with_those_that_are(site: Path) -> None:
    install_toys(site)
    said = problem(RECIPE.replace("[toys]", "[tois]"))
    assert "toys.yaml:4:13: tois is not installed in this Python" in said
    assert "did you mean toys?" in said
    assert "toys.yaml:4:13: ../x is not installed" in problem(RECIPE.replace("[toys]", '["../x"]'))


def test_one_name_is_read_as_a_list_of_it(site: Path) -> None:
    install_toys(site)
    (line, remedy) = problem(RECIPE.replace("[toys]", "toys")).splitlines()
    assert line.startswith("toys.yaml:4:13: extensions is 'toys', must be a list")
    assert remedy.strip() == "write [toys]"


def test_two_that_offer_the_same_name_are_refused(site: Path) -> None:
    install_toys(site)
    install(site, "others", {"__init__.py": TOYS, "code.py": CODE})
    said = problem(RECIPE.replace("[toys]", "[toys, others]"))
    assert "others and toys both offer layers['gate']" in said


def test_what_fails_in_its_code_names_it(site: Path) -> None:
    install(site, "toys", {"__init__.py": TOYS, "code.py": CODE.replace("2.0 * c.d_model**2", "c.nothing")})
    recipe = compile_recipe(RECIPE, "toys.yaml").recipe
    with pytest.raises(UserError, match="toys fails in <lambda>: AttributeError"):
        make_plan(recipe, 1)


def test_it_trains_and_a_resume_with_other_code_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install_toys(site)
    (tmp_path / "toys.yaml").write_text(RECIPE)
    paths = os.pathsep.join((ROOT, str(site)))
    env = {**os.environ, **ENVIRONMENT, "PYTHONPATH": paths}

    def run(*words: str, env: dict[str, str] = env) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*LAUNCH, *words], cwd=tmp_path, env=env, capture_output=True, text=True)

    done = run("toys.yaml", "--run-dir", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [line["loss"] for line in step_records(tmp_path / "run/journal.jsonl").values()]
    assert losses[-1] < losses[0]
    manifest = json.loads((tmp_path / "run/checkpoints/step-0000000020/manifest.json").read_text())
    digest = manifest["extensions"]["toys"]["digest"]
    assert json.loads((tmp_path / "run/plan.json").read_text())["extensions"]["toys"]["digest"] == digest

    (site / "toys/code.py").write_text(CODE + "# a change\n")
    refused = run("resume", "run", "train.steps=30")
    assert refused.returncode == 2
    assert "was trained with 1.0 (sha256 " + digest[:16] in refused.stderr
    assert "train.init_from" in refused.stderr
    gone = run("resume", "run", "train.steps=30", env={**env, "PYTHONPATH": ROOT})
    assert gone.returncode == 2
    assert "toys is not installed in this Python" in gone.stderr

    (site / "toys/code.py").write_text(CODE)
    again = run("resume", "run", "train.steps=30")
    assert again.returncode == 0, again.stdout + again.stderr
    exported = run("export", "run", "model.safetensors")
    assert exported.returncode == 2
    assert "has gate layers of an extension" in exported.stderr
