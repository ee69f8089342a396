"""A mixture's order is a pure function of (seed, data_step), the same for any number of ranks."""

from pathlib import Path

import numpy as np
import pytest

from launcher.data.batches import Batches
from launcher.data.config import DataConfig, DatasetSource, MixturePart, MixtureSource
from launcher.data.mixture import Mixture, check_epochs
from launcher.data.splits import open_splits
from launcher.data.supply import supplies, supply_lines
from launcher.errors import UserError
from tests.launcher.corpus.corpora import made, texts, write_lines
from tests.small_run import small_recipe

SIZES = {"web": 120, "wiki": 40, "code": 5}
WEIGHTS = {"web": 0.7, "wiki": 0.2, "code": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three data sets: every text of a part has the part's own letter in it."""
    folder = tmp_path_factory.mktemp("parts")
    for number, (name, count) in enumerate(SIZES.items()):
        rows = [{"text": text.translate({ord(" "): f"{number}"})} for text in texts(count, seed=number)]
        made(folder / name, write_lines(folder / f"{name}.jsonl", rows), validation_fraction=0.2)
    return folder


def config(folder: Path, **changes: object) -> DataConfig:
    parts = {
        name: MixturePart(
            source=DatasetSource(type="dataset", path=str(folder / name)), weight=weight, **changes
        )  # type: ignore[arg-type]
        for name, weight in WEIGHTS.items()
    }
    return DataConfig(source=MixtureSource(type="mixture", parts=parts), seq_len=16)


def opened(folder: Path) -> Mixture:
    train = open_splits(config(folder), 256).train
    assert isinstance(train, Mixture)
    return train


def rows(folder: Path, world: int, step: int, seed: int = 3) -> list[list[int]]:
    """The whole global batch of a step, as the ranks of a world read it together."""
    found: list[list[int]] = []
    for rank in range(world):
        batches = Batches(
            opened(folder),
            global_batch_size=12,
            micro_batch_size=1,
            rank=rank,
            world_size=world,
            seed=seed,
            prefetch=0,
        )
        found += [row for micro in batches.at(step) for row in micro.x.tolist()]
        batches.close()
    return found


def test_ranks_of_any_world_read_the_same_samples_in_the_same_order(folder: Path) -> None:
    for step in (0, 1, 57, 10**9):
        assert (
            rows(folder, 1, step) == rows(folder, 2, step) == rows(folder, 3, step) == rows(folder, 4, step)
        )


def test_another_seed_is_another_order_of_the_same_parts(folder: Path) -> None:
    assert rows(folder, 1, 5, seed=3) != rows(folder, 1, 5, seed=4)


def test_every_part_has_its_share_at_every_step_and_its_own_epochs(folder: Path) -> None:
    mixture = opened(folder)
    begins = np.cumsum([0, *(part.samples.num_samples for part in mixture.parts)])
    read: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in range(200):
        windows = mixture.order(step, 12, 3)
        for window in windows:
            part = int(np.searchsorted(begins, window, side="right")) - 1
            read[part].append(int(window - begins[part]))
        total = 12 * (step + 1)
        for part, weight in enumerate(WEIGHTS.values()):
            assert abs(len(read[part]) - total * weight) <= 0.75
    for part, found in read.items():
        size = mixture.parts[part].samples.num_samples
        epochs = [found[at : at + size] for at in range(0, len(found) - size, size)]
        assert epochs, "the test must see a whole epoch of each part"
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(epochs) < 2 or epochs[0] != epochs[1]


def test_a_batch_of_a_mixture_has_the_rows_of_its_parts_in_order(folder: Path) -> None:
    mixture = opened(folder)
    windows = mixture.order(7, 12, 3)
    batch = mixture.batch(windows)
    for row, window in enumerate(windows):
        alone = mixture.batch(np.array([window]))
        assert batch.x[row].tolist() == alone.x[0].tolist()
        assert batch.y[row].tolist() == alone.y[0].tolist()


def test_each_part_is_validated_on_by_itself(folder: Path) -> None:
    splits = open_splits(config(folder), 256)
    assert {part.name for part in splits.parts} <= set(WEIGHTS)
    assert len(splits.parts) >= 2
    for part in splits.parts:
        alone = open_splits(
            DataConfig(source=DatasetSource(type="dataset", path=str(folder / part.name)), seq_len=16), 256
        )
        assert part.samples.num_samples == alone.validation.num_samples


def test_a_part_repeated_beyond_its_limit_is_refused_by_the_plan_and_by_the_ranks(folder: Path) -> None:
    asked = config(folder, max_epochs=2.0)
    mixture = open_splits(asked, 256).train
    check_epochs(mixture, 100)
    with pytest.raises(
        UserError, match=r"data\.source\.parts\.code\.max_epochs: is 2; the run would read its"
    ):
        check_epochs(mixture, 4000)
    found = {one.name: one for one in supplies(asked, 4000, 256)}
    assert isinstance(mixture, Mixture)
    for part in mixture.parts:
        assert found[part.name].windows == part.samples.num_samples
    assert found["code"].asked == 400
    lines = supply_lines(list(found.values()), 16)
    assert lines[0].split() == ["part", "tokens", "there", "tokens", "read", "share", "epochs", "at", "most"]
    assert "10.0%" in lines[3]


def test_a_check_opens_a_mixture(folder: Path) -> None:
    from launcher.check.proxy import first_batch

    recipe = small_recipe().model_copy(update={"data": config(folder)})
    assert first_batch(recipe).x.shape == (8, 16)


def test_another_weight_is_other_data(folder: Path) -> None:
    one, two = config(folder), config(folder)
    assert isinstance(two.source, MixtureSource)
    other = two.source.parts["web"].model_copy(update={"weight": 0.6})
    changed = two.model_copy(
        update={"source": two.source.model_copy(update={"parts": two.source.parts | {"web": other}})}
    )
    prints = [open_splits(found, 256).fingerprint for found in (one, two, changed)]
    assert prints[0] == prints[1] != prints[2]


def test_a_part_smaller_than_one_window_is_named(folder: Path) -> None:
    asked = config(folder).model_copy(update={"seq_len": 4000})
    with pytest.raises(UserError, match=r"4001 tokens for one window.*\(part code\)"):
        open_splits(asked, 256)


def test_parts_with_different_tokenizers_are_refused(folder: Path, tmp_path: Path) -> None:
    from launcher.data.text_tokenizer import train_bpe

    parts = {}
    for name, size in (("a", 300), ("b", 310)):
        (tmp_path / f"{name}.json").write_text(train_bpe(iter(texts(60)), size))
        made(tmp_path / name, folder / "web.jsonl", tokenizer=str(tmp_path / f"{name}.json"))
        parts[name] = MixturePart(source=DatasetSource(type="dataset", path=str(tmp_path / name)), weight=1.0)
    asked = DataConfig(source=MixtureSource(type="mixture", parts=parts), seq_len=16)
    with pytest.raises(UserError, match="the parts have different tokenizers"):
        open_splits(asked, 512)


@pytest.mark.parametrize("weight", ["0", "-1", ".nan", ".inf"])
def test_a_weight_that_cannot_be_a_share_is_refused_at_its_place(weight: str) -> None:
    parts = f"{{a: {{source: {{type: dataset, path: x}}, weight: {weight}}}}}"
    with pytest.raises(
        UserError,
        match=r"data\.source\.parts\.a\.weight is [^m]*(must be a number > 0|write a finite number)",
    ):
        small_recipe(f"data={{source: {{type: mixture, parts: {parts}}}, seq_len: 16}}")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("{}", "parts is a section, must be a section of names, each with"),
        ("{'a b': {source: {type: dataset, path: x}, weight: 1}}", "part 'a b' is in a metric's name"),
        ("{a: {source: {type: listops}, weight: 1}}", "must be dataset, files, python-stdlib or tokens"),
        ("{a: {source: {type: dataset, path: x}, wieght: 1}}", "did you mean 'weight'"),
        ("{a: {source: {type: datasets, path: x}, weight: 1}}", "did you mean dataset"),
        ("{a: {source: {type: python-stdlib, unit: words}, weight: 1}}", "part a is text by words"),
    ],
)
def test_what_cannot_be_a_part_is_refused(parts: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        small_recipe(f"data={{source: {{type: mixture, parts: {parts}}}, seq_len: 16}}")
