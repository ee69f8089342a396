"""A data section that cannot work is refused with the values that clash."""

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from launcher.data.config import DataConfig, Source

SOURCES = [
    {"type": "python-stdlib"},
    {"type": "files", "url": "x"},
    {"type": "files", "url": "x", "unit": "words"},
    {"type": "tokens", "train": "x"},
    {"type": "listops"},
    {"type": "copying"},
    {"type": "associative-recall"},
    {"type": "digits"},
    {"type": "labelled", "train": "x", "num_classes": 3, "vocab_size": 7},
    {"type": "labelled", "train": "x", "num_classes": 3, "num_features": 2},
    {"type": "labelled", "train": "x", "num_classes": 3, "num_chars": 9, "num_sequences": 2},
]


@pytest.mark.parametrize(
    ("source", "seq_len", "message"),
    [
        ({"type": "listops"}, 500, "seq_len is 500; source.min_length 501 is more"),
        ({"type": "copying"}, 19, "seq_len is 19; 10 symbols need at least 20"),
        ({"type": "associative-recall"}, 23, "seq_len is 23; the pairs and queries need at least 24"),
        ({"type": "associative-recall", "num_keys": 7}, 99, "num_pairs is 8; num_keys 7 is less"),
        ({"type": "associative-recall", "num_queries": 9}, 99, "num_queries is 9; num_pairs 8 is less"),
        ({"type": "digits"}, 63, "seq_len is 63; a digit has 64 steps"),
    ],
)
def test_a_length_that_does_not_fit_is_refused(source: dict[str, object], seq_len: int, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({"source": source, "seq_len": seq_len})


@pytest.mark.parametrize("source", SOURCES[3:])
def test_a_share_of_files_is_refused_where_there_are_none(source: dict[str, object]) -> None:
    message = f"validation_fraction is 0.1, a fraction of files; `{source['type']}` does not use it"
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({"source": source, "seq_len": 64, "validation_fraction": 0.1})


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_says_what_it_asks_of_a_model(source: dict[str, object]) -> None:
    shape = TypeAdapter[Source](Source).validate_python(source).shape()
    assert ("signals" in shape.inputs) == (shape.num_features is not None)
    assert ("words" in shape.inputs) == (shape.num_chars is not None)
    assert (shape.targets == "label") == (shape.num_classes is not None)


def test_the_section_imports_no_torch_and_no_numpy() -> None:
    code = "import launcher.data.config, launcher.data.sources, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "numpy"} & set(loaded)
    assert "launcher.data.config" in loaded
