"""A model that cannot take its data is refused, with both places and what to do."""

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe

CLASSIFIER = """\
version: 1
name: tiny
seed: 1
model:
  type: classifier
  num_classes: 10
  vocab_size: 16
  encoder: {type: token}
  d_model: 16
  num_layers: 2
data: {source: {type: listops, min_length: 4}, seq_len: 24}
optim: {type: adamw, lr: 8e-3}
schedule: {type: constant}
mup: {type: sp}
parallel: {engine: torch, strategy: single}
train: {steps: 8, global_batch_size: 8, micro_batch_size: 4}
checkpoint: {every: 4}
track: {}
cluster: {type: local, nproc_per_node: 1}
"""
SIGNALS = "model.encoder={type: linear, num_features: 1}"
DIGITS = "data={source: {type: digits}, seq_len: 64}"
NO_TOKENS = "model.vocab_size=null"
WORDS = "data={source: {type: python-stdlib, unit: words}, seq_len: 64}"
PAIRS = (
    "data={source: {type: labelled, train: x, num_classes: 2, vocab_size: 16, num_sequences: 2}, seq_len: 64}"
)
OWN = "data={source: {type: labelled, train: x, num_classes: 12, num_features: 3}, seq_len: 64}"


def problems(*overrides: str, text: str = CLASSIFIER) -> str:
    with pytest.raises(UserError) as caught:
        compile_recipe(text, "tiny.yaml", overrides)
    return "\n".join(str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.num_classes=12", "model.vocab_size=20"),
        (SIGNALS, NO_TOKENS, DIGITS),
        (SIGNALS.replace("1", "3"), NO_TOKENS, OWN, "model.num_classes=12"),
        (PAIRS, "model.num_sequences=2"),
        (
            "model.encoder={type: char-cnn, num_chars: 30}",
            NO_TOKENS,
            PAIRS.replace("vocab_size", "num_chars"),
            "model.num_sequences=2",
        ),
    ],
)
def test_a_model_with_room_for_its_data_is_taken(overrides: tuple[str, ...]) -> None:
    compile_recipe(CLASSIFIER, "tiny.yaml", overrides)


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (("model.num_classes=9",), ("model.num_classes = 9 is too few for the 10", "listops", "use 10")),
        (("model.vocab_size=15",), ("model.vocab_size = 15 is too small for the 16 symbols", "use 16")),
        ((DIGITS,), ("model.encoder.type = token", "reads tokens", "gives signals", "encoder linear")),
        ((SIGNALS, NO_TOKENS), ("model.encoder.type = linear", "reads signals", "gives tokens")),
        (("data.source={type: python-stdlib}", "model.vocab_size=256"), ("classifier", "says label", "lm")),
        (("data.source={type: copying, num_symbols: 3}",), ("says label", "asks for tokens", "type lm")),
        ((SIGNALS, NO_TOKENS, OWN, "model.num_classes=12"), ("num_features = 1", "has 3", "use 3")),
        ((SIGNALS.replace("1", "3"), NO_TOKENS, OWN), ("num_classes = 10 is too few for the 12",)),
        (
            ("model.encoder={type: char-cnn}", NO_TOKENS),
            ("model.encoder.type = char-cnn", "reads words", "gives tokens", "use encoder token"),
        ),
        ((PAIRS,), ("model.num_sequences = 1 (default), but a label of", "is for 2", "use 2")),
        (("model.num_sequences=2",), ("model.num_sequences = 2 (override", "is for 1", "use 1")),
        (
            (
                "model.encoder={type: char-cnn, num_chars: 9}",
                NO_TOKENS,
                PAIRS.replace("vocab_size", "num_chars"),
            ),
            ("model.encoder.num_chars = 9", "too few for the 16", "use 16 or more"),
        ),
        (
            ("model.encoder={type: char-cnn}", NO_TOKENS, DIGITS),
            ("model.encoder.type = char-cnn", "reads words", "gives signals", "use encoder linear"),
        ),
        (
            (SIGNALS, NO_TOKENS, WORDS),
            (
                "model.encoder.type = linear",
                "reads signals",
                "gives tokens or words",
                "token or encoder char",
            ),
        ),
    ],
)
def test_a_model_that_cannot_take_its_data_is_refused(
    overrides: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    said = problems(*overrides)
    for fragment in fragments:
        assert fragment in said


LM = CLASSIFIER.replace("type: classifier\n  num_classes: 10", "type: lm")


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("{type: python-stdlib}", "use encoder token, or data.source.unit=words"),
        ("{type: files, url: x}", "use encoder token, or data.source.unit=words"),
        ("{type: tokens, train: x}", "use encoder token"),
    ],
)
def test_characters_of_words_are_not_in_bytes_and_tokens(source: str, remedy: str) -> None:
    text = LM.replace("vocab_size: 16", "vocab_size: 256").replace("{type: token}", "{type: char-cnn}")
    said = problems(f"data={{source: {source}, seq_len: 64}}", text=text)
    assert "tiny.yaml:7:19: model.encoder.type = char-cnn (tiny.yaml:7:19) reads words, but " in said
    assert "gives tokens\n" in said
    assert said.rstrip().endswith(remedy)


@pytest.mark.parametrize("encoder", ["{type: token}", "{type: char-cnn}"])
def test_words_are_read_by_number_or_by_their_characters(encoder: str) -> None:
    compile_recipe(LM, "tiny.yaml", (WORDS, f"model.encoder={encoder}"))


def test_an_encoder_must_know_every_byte_of_words() -> None:
    said = problems(WORDS, "model.encoder={type: char-cnn, num_chars: 256}", text=LM)
    assert "model.encoder.num_chars = 256" in said
    assert "too few for the 257 of data.source.type = python-stdlib" in said
    assert "use 257 or more" in said


def test_a_language_model_is_not_asked_for_labels() -> None:
    said = problems(text=LM)
    assert "model.type = lm" in said
    assert "asks for label" in said
    assert "use type classifier" in said
