"""Rules between data and model: the model reads and predicts what a source provides, and has room for it."""

import posixpath
from collections.abc import Iterator

from launcher.data.config import LabelledSource, TextSection, TokensSource
from launcher.errors import Problem
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.refuse import Rule, refuse, room_for
from models.config import KEEP_APART, CharCNNEncoder, ClassifierConfig, LinearEncoder

_ENCODERS = {
    "tokens": "encoder token",
    "words": "encoder char-cnn",
    "signals": "encoder linear, in a classifier",
}
_OFF = "or turn train.truncated_bptt off"


def encoder_reads_the_source(loaded: LoadedRecipe) -> Iterator[Problem]:
    """The encoder reads what the source provides: tokens, words or signals."""
    model, source = loaded.recipe.model, loaded.recipe.data.source
    given = source.shape().inputs
    if model.inputs not in given:
        message = f"<model.encoder.type> reads {model.inputs}, but <data.source.type> gives "
        remedy = "use " + " or ".join(_ENCODERS[kind] for kind in given)
        if model.inputs == "words" and isinstance(source, TextSection):
            remedy += ", or data.source.unit=words"
        yield refuse(loaded, "model.encoder.type", message + " or ".join(given), remedy)


def encoder_knows_every_character(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`model.encoder.num_chars` has room for every character of the source's words."""
    if isinstance(loaded.recipe.model.encoder, CharCNNEncoder):
        least = loaded.recipe.data.source.shape().num_chars
        yield from room_for(loaded, "model.encoder.num_chars", least, "characters of <data.source.type>")


def model_says_what_is_asked(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A language model needs targets at every position, a classifier one label."""
    model, asked = loaded.recipe.model, loaded.recipe.data.source.shape().targets
    if model.targets != asked:
        message = f"<model.type> predicts {model.targets}, but <data.source.type> has targets of type {asked}"
        remedy = f"use type {'lm' if asked == 'tokens' else 'classifier'}, or another source"
        yield refuse(loaded, "model.type", message, remedy)


def vocabulary_has_room(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`model.vocab_size` has room for every symbol of the source."""
    # From the section alone: shape() opens no file, so that a recipe can be checked where its data are not.
    # Files of tokens are compared with the vocabulary when the data are opened.
    least = loaded.recipe.data.source.shape().vocab_size
    return room_for(loaded, "model.vocab_size", least, "symbols of <data.source.type>")


def ids_reach_the_vocabulary(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`data.source.dtype` can hold every id below `model.vocab_size`."""
    # Ids of 32 bits that are read as 16 are noise of the right range: nothing else would notice.
    source, model = loaded.recipe.data.source, loaded.recipe.model
    if isinstance(source, TokensSource) and source.dtype in ("uint8", "uint16"):
        most = 256 if source.dtype == "uint8" else 65536
        if (model.vocab_size or 0) > most:
            message = f"<data.source.dtype> holds ids below {most}, but <model.vocab_size>"
            remedy = f"use the dtype that the file was written with, or a vocab_size of at most {most}"
            yield refuse(loaded, "data.source.dtype", message, remedy)


def validation_is_apart(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`data.source.validation` is not what is trained on."""
    source = loaded.recipe.data.source
    if (
        isinstance(source, TokensSource | LabelledSource)
        and source.validation is not None
        and posixpath.normpath(source.validation) == posixpath.normpath(source.train)
    ):
        message = "<data.source.validation> is what is trained on: <data.source.train>"
        yield refuse(loaded, "data.source.validation", message, "use other data, or leave it out")


def classes_have_room(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`model.num_classes` has room for every label of the source."""
    if isinstance(loaded.recipe.model, ClassifierConfig):
        least = loaded.recipe.data.source.shape().num_classes
        yield from room_for(loaded, "model.num_classes", least, "classes of <data.source.type>")


def pairs_are_read_as_pairs(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`model.num_sequences` is the number of sequences per label of the source."""
    model, wanted = loaded.recipe.model, loaded.recipe.data.source.shape().num_sequences
    if isinstance(model, ClassifierConfig) and model.num_sequences != wanted:
        message = f"<model.num_sequences>, but a label of <data.source.type> is for {wanted}"
        yield refuse(loaded, "model.num_sequences", message, f"use {wanted}")


def encoder_reads_every_feature(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`model.encoder.num_features` is the number of values at each step of the source's signals."""
    encoder, wanted = loaded.recipe.model.encoder, loaded.recipe.data.source.shape().num_features
    if isinstance(encoder, LinearEncoder) and wanted not in (None, encoder.num_features):
        message = f"<model.encoder.num_features>, but <data.source.type> has {wanted}"
        yield refuse(loaded, "model.encoder.num_features", message, f"use {wanted}")


def carried_data_continue(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`train.truncated_bptt` needs a source that is one long stream, with consecutive windows."""
    if loaded.recipe.train.truncated_bptt and not loaded.recipe.data.source.is_stream:
        message = (
            "<train.truncated_bptt> carries states from window to window, but the sequences of "
            "<data.source.type> stand alone"
        )
        yield refuse(loaded, "train.truncated_bptt", message, f"use a source of text or tokens, {_OFF}")


def attention_is_not_carried(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`train.truncated_bptt` needs states of fixed size; that of attention grows with every position."""
    if loaded.recipe.train.truncated_bptt and "attention" in loaded.recipe.model.pattern:
        # The carried state is a tensor of fixed shape in every checkpoint. A cache of keys and values would
        # grow by seq_len positions per step.
        message = (
            "<model.pattern> has attention, whose state is every past position, but <train.truncated_bptt>"
        )
        yield refuse(loaded, "model.pattern", message, f"leave attention out, {_OFF}")


def growing_modes_are_not_carried(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`train.truncated_bptt` needs states that stay finite; those of DSS-softmax may grow."""
    model = loaded.recipe.model
    if loaded.recipe.train.truncated_bptt and "dss" in model.pattern and model.dss.version == "softmax":
        # Its modes may have a positive real part: the softmax bounds them over one window of max_length steps
        # only.
        message = "<model.dss.version> lets modes grow from step to step, but <train.truncated_bptt>"
        yield refuse(loaded, "model.dss.version", message, f"use version exp, {_OFF}")


_JOIN = "or set data.documents=joined"


def documents_have_borders(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`data.documents: separate` needs a source that knows where documents end: `dataset`, mixtures of it."""
    data = loaded.recipe.data
    if data.documents == "separate" and any(source.type != "dataset" for source in data.source.single):
        message = "<data.source.type> does not say where documents end, but <data.documents>"
        yield refuse(loaded, "data.documents", message, f"use data of `launch data build`, {_JOIN}")


def stage_is_for_data_sets(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`data.stage` copies data sets of `launch data build`; other sources are read where they are."""
    data = loaded.recipe.data
    if data.stage is not None and all(source.type != "dataset" for source in data.source.single):
        message = "<data.stage> has nothing to copy of <data.source.type>"
        yield refuse(loaded, "data.stage", message, "leave it out, or use data of `launch data build`")


def layers_keep_documents_apart(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`data.documents: separate` needs layers that keep them apart, and states that are not carried."""
    recipe = loaded.recipe
    if recipe.data.documents != "separate":
        return
    if mixed := [kind for kind in dict.fromkeys(recipe.model.pattern) if not recipe.model.keeps_apart(kind)]:
        message = f"<model.pattern> has {', '.join(mixed)}, which mixes documents, but <data.documents>"
        yield refuse(loaded, "model.pattern", message, f"use {', '.join(sorted(KEEP_APART))}, {_JOIN}")
    if recipe.model.norm == "batch":
        message = "<model.norm> normalises by the other documents, but <data.documents>"
        yield refuse(loaded, "model.norm", message, f"use layer or rms, {_JOIN}")
    if recipe.train.truncated_bptt:
        message = "<train.truncated_bptt> carries states into the next document, but <data.documents>"
        yield refuse(loaded, "train.truncated_bptt", message, f"turn it off, {_JOIN}")
    if recipe.parallel.compile:
        message = "<parallel.compile> would compile again for every layout of documents, but <data.documents>"
        yield refuse(loaded, "parallel.compile", message, f"turn it off, {_JOIN}")


DATA_RULES = (
    Rule("encoder-reads-source", encoder_reads_the_source),
    Rule("characters-have-room", encoder_knows_every_character),
    Rule("targets-are-asked-for", model_says_what_is_asked),
    Rule("vocabulary-has-room", vocabulary_has_room),
    Rule("ids-reach-vocabulary", ids_reach_the_vocabulary),
    Rule("validation-is-apart", validation_is_apart),
    Rule("classes-have-room", classes_have_room),
    Rule("sequences-per-label", pairs_are_read_as_pairs),
    Rule("features-per-step", encoder_reads_every_feature),
    Rule("bptt-needs-stream", carried_data_continue),
    Rule("bptt-without-attention", attention_is_not_carried),
    Rule("bptt-stays-finite", growing_modes_are_not_carried),
    Rule("documents-have-borders", documents_have_borders),
    Rule("documents-are-kept-apart", layers_keep_documents_apart),
    Rule("stage-is-for-data-sets", stage_is_for_data_sets),
)
