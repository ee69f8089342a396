"""What the tokens of a language model are to people: bytes of a text, words, or bare numbers."""

import abc
import codecs
from typing import final

import torch

from launcher.checkpoint.catalog import Saved
from launcher.checkpoint.restore import saved_recipe
from launcher.data.config import DataConfig, TextSection
from launcher.data.splits import open_splits
from launcher.data.words import Vocabulary, WordWindows, cut, join
from launcher.errors import Problem, UserError
from models.config import LMConfig, max_chars


class Tokenizer(abc.ABC):
    """Reads a prompt for a model, and prints what it says as it comes."""

    suppressed: torch.Tensor | None = None
    """True for each token that is never to be said."""
    chars: torch.Tensor | None = None
    """Characters of each token, for a model that reads those."""

    @abc.abstractmethod
    def encode(self, prompt: str) -> torch.Tensor:
        """A prompt as the model reads it: (L), or (L, W) characters. Raises UserError for what is none."""

    @abc.abstractmethod
    def write_prompt(self, prompt: str) -> None:
        """Print a prompt."""

    @abc.abstractmethod
    def write(self, token: int) -> None:
        """Print a token behind what is printed already."""

    @abc.abstractmethod
    def close(self) -> None:
        """Print what is left, and end the line."""

    def read(self, prompt: str) -> torch.Tensor:
        """As `encode`; raises UserError also for a prompt of nothing."""
        encoded = self.encode(prompt)
        if not len(encoded):
            given = f"--prompt {prompt!r}"
            raise UserError(Problem(given, "is empty", "give at least one token to continue from"))
        return encoded


def open_tokenizer(saved: Saved) -> Tokenizer:
    """How the model of a checkpoint speaks. Raises UserError for one that does not, and for a text that is no
    longer the one whose words it knows."""
    recipe = saved_recipe(saved)
    model, source = recipe.model, recipe.data.source
    if not isinstance(model, LMConfig):
        what = f"model.type is {model.type}, model.encoder.type {model.encoder.type}"
        raise UserError(Problem(recipe.name, what, "only a language model over tokens continues a prompt"))
    if not isinstance(source, TextSection):
        return Numbers(model.vocab_size, source.type)
    if source.unit == "bytes":
        return Bytes(model.vocab_size)
    return Words(_same_lexicon(saved, recipe.data, model), model.vocab_size)


def _same_lexicon(saved: Saved, data: DataConfig, model: LMConfig) -> Vocabulary:
    """The words that a model was trained with, found again in its data: no checkpoint holds them."""
    splits = open_splits(data, model.vocab_size, max_chars(model))
    if splits.fingerprint != saved.manifest.data.fingerprint:
        message = "is not the text that the model was trained on, whose words it knows by number"
        raise UserError(Problem("data.source", message, "generate where the run was trained"))
    assert isinstance(splits.train, WordWindows), "a text by words is windows of words"
    return splits.train.vocabulary


@final
class Bytes(Tokenizer):
    """UTF-8, with a mark for what is none. A character of several bytes appears with its last one."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def encode(self, prompt: str) -> torch.Tensor:
        return _known(list(prompt.encode()), self._vocab_size, prompt)

    def write_prompt(self, prompt: str) -> None:
        print(prompt, end="", flush=True)

    def write(self, token: int) -> None:
        print(self._decoder.decode(bytes([token if token < 256 else ord("?")])), end="", flush=True)

    def close(self) -> None:
        print(self._decoder.decode(b"", final=True), flush=True)


@final
class Words(Tokenizer):
    """Words with blanks between them. The word for all unknown ones is never said."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        self._lexicon = vocabulary
        self._last = b"\n"
        places = torch.arange(vocab_size)
        self.suppressed = (places == 0) | (places >= vocabulary.num_known)
        if vocabulary.has_chars:
            self.chars = vocabulary.show(torch.arange(vocabulary.num_known))

    def encode(self, prompt: str) -> torch.Tensor:
        return self._lexicon.read(prompt.encode())

    def write_prompt(self, prompt: str) -> None:
        self._print(*cut(prompt.encode()))

    def write(self, token: int) -> None:
        self._print(self._lexicon.words[token])

    def close(self) -> None:
        print(flush=True)

    def _print(self, *words: bytes) -> None:
        print(join(words, self._last), end="", flush=True)
        self._last = words[-1]


@final
class Numbers(Tokenizer):
    """Token ids."""

    def __init__(self, vocab_size: int, source: str) -> None:
        self._vocab_size = vocab_size
        self._source = source

    def encode(self, prompt: str) -> torch.Tensor:
        try:
            tokens = [int(word) for word in prompt.replace(",", " ").split()]
        except ValueError:
            message = f"is no list of token ids, which `{self._source}` is made of"
            raise UserError(Problem(f"--prompt {prompt!r}", message, "give ids, such as '17 4 9'")) from None
        return _known(tokens, self._vocab_size, prompt)

    def write_prompt(self, prompt: str) -> None:
        print(*self.encode(prompt).tolist(), end=" ", flush=True)

    def write(self, token: int) -> None:
        print(token, end=" ", flush=True)

    def close(self) -> None:
        print(flush=True)


def _known(tokens: list[int], vocab_size: int, prompt: str) -> torch.Tensor:
    unknown = [token for token in tokens if not 0 <= token < vocab_size]
    if unknown:
        message = f"has token {unknown[0]}; model.vocab_size is {vocab_size}"
        raise UserError(Problem(f"--prompt {prompt!r}", message, f"ids are 0 to {vocab_size - 1}"))
    return torch.tensor(tokens, dtype=torch.int64)
