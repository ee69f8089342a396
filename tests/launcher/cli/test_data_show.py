"""`launch data show`: the text of a step's batch, also after a rollback has passed over data."""

from pathlib import Path

import pytest

from launcher.data.dataset import Batch
from launcher.data.splits import open_splits
from launcher.track.journal import Journal
from tests.launch import assert_one_screen, launch
from tests.small_run import small_recipe, train_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that a rollback to step 10 has sent on from batch 15 of the data."""
    found = tmp_path_factory.mktemp("show")
    train_run(found / "runs/one")
    journal = Journal(found / "runs/one/journal.jsonl", 1)
    journal.write("rollback", {"from_step": 10, "step": 10, "data_step": 15})
    journal.close()
    return found


def expected(data_step: int) -> dict[int, str]:
    recipe = small_recipe()
    samples = open_splits(recipe.data, 256).train
    numbers = samples.order(data_step, recipe.train.global_batch_size, recipe.seed)
    batch: Batch = samples.batch(numbers)
    texts = [bytes(row).decode(errors="replace") for row in batch.y.tolist()]
    return dict(zip(numbers.tolist(), texts, strict=True))


@pytest.mark.parametrize(("step", "data_step"), [(1, 0), (10, 9), (11, 15), (13, 17)])
def test_it_shows_the_samples_that_the_step_was_trained_on(folder: Path, step: int, data_step: int) -> None:
    done = launch("data", "show", "one", "--step", str(step), folder=folder)
    assert done.returncode == 0, done.stderr
    assert f"global batch {data_step} of the data, 8 samples" in done.stdout
    for number, text in expected(data_step).items():
        assert f"sample {number}, rank 0:\n{text}\n" in done.stdout


def test_one_sample_is_shown_whole_and_others_cut(folder: Path) -> None:
    number, text = next(iter(expected(0).items()))
    done = launch("data", "show", "one", "--step", "1", "--sample", str(number), folder=folder)
    assert text in done.stdout
    assert done.stdout.count("\nsample ") == 1
    done = launch("data", "show", "one", "--step", "1", "--characters", "5", folder=folder)
    assert f"{text[:5]} ... and 27 characters" in done.stdout


def test_what_is_not_there_is_one_line(folder: Path) -> None:
    assert_one_screen(
        launch("data", "show", "one", "--step", "21", folder=folder), "has not trained this step"
    )
    assert_one_screen(
        launch("data", "show", "one", "--step", "1", "--sample", "-1", folder=folder), "is not in this batch"
    )
