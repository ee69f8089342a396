"""Tokenizers decode step by step to what the whole would decode to."""

import pytest

from launcher.data.tokenizer import Bytes, Numbers, Words
from launcher.data.words import Vocabulary
from launcher.errors import UserError


def test_bytes_become_characters_as_soon_as_they_are_whole_and_a_rest_is_marked() -> None:
    tokenizer = Bytes(vocab_size=300)
    tokens = tokenizer.encode("aé€").tolist()
    assert [tokenizer.decode(token) for token in tokens] == ["a", "", "é", "", "", "€"]
    assert tokenizer.decode(299) == "?"
    assert tokenizer.decode("€".encode()[0]) == ""
    assert tokenizer.finish() == "\N{REPLACEMENT CHARACTER}"


def test_words_have_a_blank_between_them_but_none_at_a_line_end() -> None:
    words = (b"<unk>", b"\0", b"def", b"f", b"\n")
    tokenizer = Words(Vocabulary(words, vocab_size=8, max_chars=None), vocab_size=8)
    assert tokenizer.suppressed is not None
    assert tokenizer.suppressed.tolist() == [True, False, False, False, False, True, True, True]
    assert tokenizer.encode("def g").tolist() == [2, 0]
    assert tokenizer.echo("def g") == "def g"
    assert [tokenizer.decode(token) for token in (3, 4, 2)] == [" f", "\n", "def"]
    assert tokenizer.finish() == ""


def test_ids_decode_to_themselves_and_an_empty_prompt_is_refused() -> None:
    tokenizer = Numbers(vocab_size=20, source="copying")
    assert tokenizer.encode("17, 4").tolist() == [17, 4]
    assert tokenizer.echo("17, 4") + tokenizer.decode(9) == "17 4 9 "
    with pytest.raises(UserError, match="is empty"):
        tokenizer.encode(" ")
