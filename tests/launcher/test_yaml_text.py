"""YAML is read by the rules of 1.2, refused where a line could mean something else, written to read back."""

import math

import pytest
import yaml

from launcher.errors import UserError
from launcher.recipe.tree import plain
from launcher.yaml_text import MAX_DEPTH, decode, dump_yaml, parse_argument, parse_tree, parse_yaml

SCALARS = [
    ("3e-4", 3e-4),
    ("1e9", 1e9),
    ("4E+3", 4000.0),
    (".5", 0.5),
    ("1.", 1.0),
    ("-0.0", -0.0),
    ("+12", 12),
    ("012", 12),
    ("0o17", 15),
    ("0x1F", 31),
    ("1_000", 1000),
    ("1_000.5", 1000.5),
    ("-.inf", -math.inf),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("", None),
    ("on", "on"),
    ("yes", "yes"),
    ("No", "No"),
    ("1:30", "1:30"),
    ("2001-01-01", "2001-01-01"),
    ("500M", "500M"),
    ("1__0", "1__0"),
    ("_1", "_1"),
    ("e3", "e3"),
    ("0b11", "0b11"),
    ("1e", "1e"),
    ("'3e-4'", "3e-4"),
    ('"null"', "null"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text or "empty" for text, _ in SCALARS])
def test_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}", "f")["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan_is_read_as_a_number() -> None:
    assert math.isnan(parse_yaml(".nan", "f"))


REFUSED = [
    ("", "f:1:1", "is empty"),
    ("# a comment only", "f:1:1", "is empty"),
    ("a: 1\nb: 2\na: 3", "f:3:1", "'a' is given twice, first at f:1:1"),
    ("a: {b: 1, b: 2}", "f:1:11", "'b' is given twice"),
    ("a: 1\n---\nb: 2", "f:3:1", "second document"),
    ("a: &x 1", "f:1:4", "anchor &x"),
    ("a: *x", "f:1:4", "alias *x"),
    ("<<: {a: 1}", "f:1:1", "merge keys"),
    ("a: !!python/object:os.system x", "f:1:4", "tag !!python/object:os.system"),
    ("a: !!str 5", "f:1:4", "tag !!str"),
    ("a: !mine 5", "f:1:4", "tag !mine"),
    ("1: a", "f:1:1", 'write "1" in quotes'),
    ("a: {true: b}", "f:1:5", "key true is not text"),
    ("? [a]\n: b", "f:1:3", "as a key"),
    ("a:\n\tb: 1", "f:2:1", "indent with spaces"),
    ("a:1\nb: 2", "f:1:1", "no space after the colon"),
    ("a: b: c", "f:1:5", "one key a line"),
    ("a: 1\n  b: 2", "f:2:4", "indented like its neighbours"),
    ("a:\n  b: 1\n c: 2", "f:3:2", "indentation that fits no section"),
    ("a: [1, 2\nb: 3", "f:1:4", "add the missing `,` or `]`"),
    ("a: {b: 1", "f:1:4", "add the missing `,` or `}`"),
    ("a: [", "f:1:5", "a value is missing"),
    ("a: 'x", "f:1:4", "add the closing quote"),
    ("a: @x", "f:1:4", "put the value in quotes"),
    ('a: "\\q"', "f:1:6", "unknown escape"),
    ("a: 1\nb\n", "f:2:1", "not `key: value`"),
    ("a: \x01", "f:1:4", "is not allowed in YAML"),
    ('a: "\\ud800"', "f:1:4", "half of a surrogate pair"),
    (f"a: {'9' * 5000}", "f:1:4", "5000 digits"),
    ("a: " + "[" * (MAX_DEPTH + 1), f"f:1:{4 + MAX_DEPTH}", "deep"),
]


@pytest.mark.parametrize(("text", "place", "words"), REFUSED, ids=[row[2] for row in REFUSED])
def test_text_that_is_not_plain_yaml_is_refused_at_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "f")
    assert caught.value.problems[0].place == place
    assert words in str(caught.value)


def test_every_forbidden_line_is_told_at_once() -> None:
    _, problems = parse_tree("a: &x 1\nb: *x\n2: !t c\na: 1\n", "f")
    assert [problem.place for problem in problems] == ["f:1:4", "f:2:4", "f:3:1", "f:3:4", "f:4:1"]


def test_bytes_that_are_not_utf8_are_refused_at_their_place() -> None:
    with pytest.raises(UserError, match=r"^f:2:6: byte 0xe9 is not UTF-8"):
        decode("é: 1\nname: ".encode()[:-1] + "é".encode("latin-1"), "f")


def test_windows_line_ends_and_byte_order_mark_are_read() -> None:
    node, _ = parse_tree(decode(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "f"), "f")
    assert isinstance(node.value, dict)
    assert node.value["b"].place == "f:2:4"


AWKWARD = {
    "numbers": [1e-5, 0.1 + 0.2, 1e22, -0.0, 5e-324, 1.7976931348623157e308, 12, -3, 10**30, math.inf],
    "texts": ["3e-4", "1_000", "0o17", "0x1F", "012", "1.", "1e999", ".inf", "-.5e3", "1:30", "2001-01-01"],
    "words": [
        "on",
        "yes",
        "null",
        "~",
        "",
        " x ",
        "a\nb: c\n",
        "é\u2028x",
        "#",
        "!t",
        "&a",
        "*a",
        "=",
        "<<",
        "\t",
    ],
    "on": {"012": "x", "null": None, "a b": True},
    "long": "word " * 60,
    "empty": [[], {}, [[1, [2]], {"a": {"b": []}}]],
}


def test_written_values_read_back_equal() -> None:
    assert parse_yaml(dump_yaml(AWKWARD), "f") == AWKWARD


def test_written_text_is_text_to_a_yaml_1_1_reader_too() -> None:
    texts = {key: AWKWARD[key] for key in ("texts", "words", "long")}
    assert yaml.safe_load(dump_yaml(texts)) == texts


def test_shared_values_are_written_out_in_full() -> None:
    shared = [1, 2]
    assert parse_yaml(dump_yaml({"a": shared, "b": shared}), "f") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data #2", "data #2"),
        ("#2", "#2"),
        ("a#b", "a#b"),
        ("'a # b'", "a # b"),
        ("[1, 2]", [1, 2]),
        ("[1, 2] # two", "[1, 2] # two"),
        ("3", 3),
    ],
)
def test_an_argument_has_no_comment(text: str, value: object) -> None:
    node, problems = parse_argument(text, "override")
    assert (plain(node), problems) == (value, [])
