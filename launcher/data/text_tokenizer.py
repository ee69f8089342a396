"""The only door to Hugging Face's `tokenizers`: text to ids and back, by a tokenizer.json; and bytes."""

import abc
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from launcher import files
from launcher.errors import Problem, UserError

ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[SEP]")
"""Special tokens that end a text by convention; the first that a tokenizer has is taken."""
INSTALL = "pip install 'mulaunch[data]'"


class TextTokenizer(abc.ABC):
    """Text to ids, many documents at once."""

    vocab_size: int
    """Ids are below this."""
    end_of_text: int
    """The id that follows each document."""
    special: dict[str, int]
    sha256: str | None
    """Of the file; None where there is none."""
    content: bytes = b""
    """Of the file."""

    @abc.abstractmethod
    def encode(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """The ids of each text; special tokens spelled out in a text are text."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""

    @abc.abstractmethod
    def token_bytes(self) -> NDArray[np.uint32] | None:
        """Bytes of text that each id stands for, 0 for special ones; None where that depends on the text."""


@final
class BytesTokenizer(TextTokenizer):
    """The bytes of UTF-8; NUL ends a text."""

    vocab_size = 256
    end_of_text = 0
    special: dict[str, int] = {}
    sha256 = None

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def token_bytes(self) -> NDArray[np.uint32]:
        return np.ones(256, dtype=np.uint32)


@final
class FileTokenizer(TextTokenizer):
    """A tokenizer.json."""

    def __init__(
        self, content: bytes, place: str, end_of_text: str | None = None, *, any_end: bool = False
    ) -> None:
        """Raises UserError for a file of another kind, and where no token is known to end a text.

        `any_end`: the end of a text does not matter.
        """
        library = _library()
        try:
            self._tokenizer = library.Tokenizer.from_buffer(content)
        except Exception as error:  # the library's own type has no name
            what = " ".join(str(error).split())[:200]
            remedy = "give a tokenizer.json as Hugging Face's `tokenizers` writes it"
            raise UserError(Problem(place, f"is not a tokenizer: {what}", remedy)) from None
        # What a file says of padding and truncation is for batches of one length, and would cut documents.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # A text that contains "<|endoftext|>" must not end there.
        self._tokenizer.encode_special_tokens = True
        self.content, self.sha256 = content, hashlib.sha256(content).hexdigest()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special = {token.content: number for number, token in sorted(added.items()) if token.special}
        # The library's own count leaves gaps between ids out.
        self.vocab_size = max([-1, *self._tokenizer.get_vocab().values()]) + 1
        self.end_of_text = 0 if any_end else self._find_end(end_of_text, place)

    def _find_end(self, wanted: str | None, place: str) -> int:
        vocabulary = self._tokenizer.get_vocab()
        if wanted is not None:
            if wanted not in vocabulary:
                shown = ", ".join(self.special) or "none"
                message = f"is not a token of {place}"
                raise UserError(Problem(f"--end-of-text {wanted}", message, f"its special tokens: {shown}"))
            return int(vocabulary[wanted])
        for name in ENDS:
            if name in self.special:
                return self.special[name]
        shown = ", ".join(self.special) or "none"
        message = "does not say which token ends a text"
        raise UserError(Problem(place, message, f"name it: --end-of-text TOKEN; special tokens: {shown}"))

    @classmethod
    def open(cls, url: str, end_of_text: str | None = None, *, any_end: bool = False) -> Self:
        """Read a file. Raises UserError where there is none, or it is something else."""
        if not files.is_file(url):
            remedy = "make one: launch data train-tokenizer SOURCE -o tokenizer.json; or use `bytes`"
            raise UserError(Problem(url, "there is no such tokenizer", remedy))
        return cls(files.read_bytes(url), url, end_of_text, any_end=any_end)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint32) for one in found]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def library_tokenizer(self) -> Any:
        """The library's own object, to be measured by itself."""
        return self._tokenizer

    def as_json(self) -> dict[str, Any]:
        """The content of a tokenizer.json that says the same."""
        found: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return found

    def stream(self) -> Callable[[int], str | None]:
        """A function that takes one id more and returns the text it adds; None while a character is open."""
        stream = _library().decoders.DecodeStream(skip_special_tokens=False)
        return lambda token: stream.step(self._tokenizer, token)

    def token_bytes(self) -> NDArray[np.uint32] | None:
        # Byte-level tokenizers spell each byte as one character. Others change blanks, case or accents.
        parts = json.loads(self._tokenizer.to_str())
        splits = json.dumps(parts.get("pre_tokenizer"))
        if (
            parts.get("normalizer") is not None
            or "ByteLevel" not in splits
            or '"add_prefix_space": true' in splits
        ):
            return None
        lengths = np.zeros(self.vocab_size, dtype=np.uint32)
        for token, number in self._tokenizer.get_vocab().items():
            lengths[number] = len(token)
        lengths[list(self.special.values())] = 0
        return lengths


def open_text_tokenizer(url: str, end_of_text: str | None = None) -> TextTokenizer:
    """`bytes`, or a tokenizer.json."""
    if url != "bytes":
        return FileTokenizer.open(url, end_of_text)
    if end_of_text is not None:
        raise UserError(Problem(f"--end-of-text {end_of_text}", "bytes end a text with NUL", "leave it out"))
    return BytesTokenizer()


def train_bpe(texts: Iterator[str], vocab_size: int) -> str:
    """A byte-level BPE tokenizer (arXiv 1508.07909; Radford et al. 2019), as tokenizer.json."""
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[ENDS[0]],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str(pretty=True))


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError(Problem("tokenizers", "is not installed", INSTALL)) from None
    return tokenizers
