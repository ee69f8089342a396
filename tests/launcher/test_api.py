"""The library gives what the command line prints, and its notebook runs from top to bottom."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from launcher import api
from launcher.track.journal import step_records
from tests.small_run import train_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("api")
    train_run(found / "runs/one")
    return found


def test_importing_it_imports_no_torch() -> None:
    program = "import sys; from launcher import api; api.plan; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_a_model_is_loaded_in_evaluation_mode_with_its_tokenizer(folder: Path) -> None:
    found = api.load(str(folder / "runs/one"), step=10)
    assert (found.step, found.model.training, found.recipe.name) == (10, False, "small")
    assert found.tokenizer is not None
    logits = found.model(found.tokenizer.encode("abc")[None])
    assert logits.shape == (1, 3, 256)
    newest = api.load(str(folder / "runs/one"))
    assert not torch.equal(logits, newest.model(found.tokenizer.encode("abc")[None])), "of step 20"


def test_the_journal_s_numbers_are_columns(folder: Path) -> None:
    records = step_records(folder / "runs/one/journal.jsonl")
    found = api.journal(str(folder / "runs/one"))
    np.testing.assert_array_equal(found["step"], list(records))
    np.testing.assert_array_equal(found["loss"], [record["loss"] for record in records.values()])
    matrix = [record["lr_group"]["matrix"] for record in records.values()]
    np.testing.assert_array_equal(found["lr_group/matrix"], matrix)
    assert {len(column) for column in found.values()} == {20}
    assert api.journal(str(folder / "runs/one"), "validation")["step"].tolist() == [10, 20]


def test_what_is_wrong_is_a_user_error(folder: Path) -> None:
    with pytest.raises(api.UserError, match="did you mean 'lr'"):
        api.plan(str(ROOT / "recipes/s4d-lm-quickstart.yaml"), ["optim.lrr=1"])
    with pytest.raises(api.UserError, match="there are 10, 20"):
        api.load(str(folder / "runs/one"), step=15)
    with pytest.raises(api.UserError):
        api.journal(str(folder))


def test_the_notebook_runs_from_top_to_bottom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    cells = json.loads((ROOT / "docs/notebook.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert isinstance(names["found"], api.Loaded)
