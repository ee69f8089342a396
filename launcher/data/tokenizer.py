"""Tokenizers: from a prompt to what a model reads, and from tokens to text: bytes, words, or bare numbers."""

import abc
import codecs
from collections.abc import Sequence
from typing import final

import torch

from launcher import files
from launcher.checkpoint.catalog import Saved
from launcher.checkpoint.restore import saved_recipe
from launcher.data.config import DataConfig, DatasetSource, TextSection
from launcher.data.splits import open_splits
from launcher.data.text_tokenizer import FileTokenizer
from launcher.data.token_set import TOKENIZER, tokenizer_of
from launcher.data.words import Vocabulary, WordWindows, cut, join
from launcher.errors import Problem, UserError
from models.config import LMConfig, max_chars


class Tokenizer(abc.ABC):
    """Encodes one prompt and decodes its continuation token by token. Open a new one for each text."""

    suppressed: torch.Tensor | None = None
    """True for each token that is never to be generated."""
    chars: torch.Tensor | None = None
    """Characters of each token, for a model that reads those."""

    def encode(self, prompt: str) -> torch.Tensor:
        """A prompt as the model reads it: (L), or (L, W) characters. Raises UserError where it cannot."""
        encoded = self._encode(prompt)
        if not len(encoded):
            place = f"--prompt {prompt!r}"
            raise UserError(Problem(place, "is empty", "give at least one token to continue from"))
        return encoded

    @abc.abstractmethod
    def _encode(self, prompt: str) -> torch.Tensor: ...

    @abc.abstractmethod
    def echo(self, prompt: str) -> str:
        """The prompt as this tokenizer prints it, before its continuation."""

    @abc.abstractmethod
    def decode(self, token: int) -> str:
        """The text that one more token adds; empty until the bytes of a character are complete."""

    def finish(self) -> str:
        """Text still pending after the last token."""
        return ""


def open_tokenizer(saved: Saved) -> Tokenizer:
    """The tokenizer of a checkpoint's model. Raises UserError for a model that does not generate tokens, and
    for a word vocabulary whose text has changed since."""
    recipe = saved_recipe(saved)
    model, source = recipe.model, recipe.data.source
    if not isinstance(model, LMConfig):
        what = f"{model.type} with encoder {model.encoder.type} does not continue a prompt"
        raise UserError(Problem.at("model.type", what, "only a language model over tokens does"))
    if saved.manifest.data.tokenizer is not None:
        return Pieces(_kept_tokenizer(saved, recipe.data), model.vocab_size)
    if isinstance(source, DatasetSource):
        return Bytes(model.vocab_size)
    if not isinstance(source, TextSection):
        return Numbers(model.vocab_size, source.type)
    if source.unit == "bytes":
        return Bytes(model.vocab_size)
    return Words(_trained_vocabulary(saved, recipe.data, model), model.vocab_size)


def _trained_vocabulary(saved: Saved, data: DataConfig, model: LMConfig) -> Vocabulary:
    """The words that a model was trained on, built from its data again: checkpoints do not contain them."""
    splits = open_splits(data, model.vocab_size, max_chars(model))
    if splits.fingerprint != saved.manifest.data.fingerprint:
        message = "is not the text that the model was trained on, so its words would get other numbers"
        raise UserError(Problem.at("data.source", message, "generate where the run was trained"))
    assert isinstance(splits.train, WordWindows), "a text by words is windows of words"
    return splits.train.vocabulary


def _kept_tokenizer(saved: Saved, data: DataConfig) -> FileTokenizer:
    """The tokenizer's file of the run's folder, or of the data: the one that the model was trained with."""
    run_url = saved.url.rstrip("/").rsplit("/", 2)[0]
    places = [files.join(run_url, TOKENIZER), tokenizer_of(data)]
    for url in places:
        if url is not None and files.is_file(url):
            found = FileTokenizer.open(url, None, any_end=True)
            if found.sha256 == saved.manifest.data.tokenizer:
                return found
    message = f"is not in {run_url}, nor in the data set: the model's tokens have no text"
    raise UserError(Problem(TOKENIZER, message, "put there the file that the data were built with"))


@final
class Pieces(Tokenizer):
    """Pieces of words, by the tokenizer.json that the data were built with."""

    def __init__(self, tokenizer: FileTokenizer, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self._stream = tokenizer.stream()
        # A model may have entries beyond those of the tokenizer, to be of a size that is fast.
        numbers = torch.arange(vocab_size)
        self.suppressed = numbers >= tokenizer.vocab_size

    def _encode(self, prompt: str) -> torch.Tensor:
        return torch.from_numpy(self.tokenizer.encode([prompt])[0].astype("int64"))

    def echo(self, prompt: str) -> str:
        # The stream sees the prompt too: a first token may be the rest of a character.
        for token in self.tokenizer.encode([prompt])[0].tolist():
            self._stream(token)
        return prompt

    def decode(self, token: int) -> str:
        return self._stream(token) or ""


@final
class Bytes(Tokenizer):
    """UTF-8, with a replacement character for invalid bytes. A character appears with its last byte."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def _encode(self, prompt: str) -> torch.Tensor:
        return _checked(list(prompt.encode()), self._vocab_size, prompt)

    def echo(self, prompt: str) -> str:
        return prompt

    def decode(self, token: int) -> str:
        # A vocabulary padded above 256 has tokens that are not bytes; a badly trained model may generate one.
        return self._decoder.decode(bytes([token if token < 256 else ord("?")]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


@final
class Words(Tokenizer):
    """Words with blanks between them. The entry for unknown words is never generated."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        self._vocabulary = vocabulary
        self._last = b"\n"
        # Word 0 has no spelling, and a text may have fewer words than the model has entries.
        numbers = torch.arange(vocab_size)
        self.suppressed = (numbers == 0) | (numbers >= vocabulary.num_known)
        if vocabulary.has_chars:
            self.chars = vocabulary.show(torch.arange(vocabulary.num_known))

    @property
    def words(self) -> Sequence[bytes]:
        """Spelling of each token."""
        return self._vocabulary.words

    def _encode(self, prompt: str) -> torch.Tensor:
        return self._vocabulary.read(prompt.encode())

    def echo(self, prompt: str) -> str:
        return self._join(*cut(prompt.encode()))

    def decode(self, token: int) -> str:
        return self._join(self._vocabulary.words[token])

    def _join(self, *words: bytes) -> str:
        text = join(words, self._last)
        self._last = words[-1]  # no blank follows a line end
        return text


@final
class Numbers(Tokenizer):
    """Token ids with blanks between them."""

    def __init__(self, vocab_size: int, source: str) -> None:
        self._vocab_size = vocab_size
        self._source = source

    def _encode(self, prompt: str) -> torch.Tensor:
        try:
            tokens = [int(word) for word in prompt.replace(",", " ").split()]
        except ValueError:
            message = f"is not a list of token ids, which is what a model of `{self._source}` reads"
            raise UserError(Problem(f"--prompt {prompt!r}", message, "give ids, such as '17 4 9'")) from None
        return _checked(tokens, self._vocab_size, prompt)

    def echo(self, prompt: str) -> str:
        return "".join(map(self.decode, self.encode(prompt).tolist()))

    def decode(self, token: int) -> str:
        return f"{token} "


def _checked(tokens: list[int], vocab_size: int, prompt: str) -> torch.Tensor:
    unknown = [token for token in tokens if not 0 <= token < vocab_size]
    if unknown:
        message = f"has token {unknown[0]}; model.vocab_size is {vocab_size}"
        raise UserError(Problem(f"--prompt {prompt!r}", message, f"ids are 0 to {vocab_size - 1}"))
    return torch.tensor(tokens, dtype=torch.int64)
