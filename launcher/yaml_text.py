"""The only module that imports YAML: text -> values with places, by YAML 1.2, and values -> text.

Stricter than YAML: one document, no tags, no anchors or aliases, no merge keys, no repeated keys, keys are
text. So the meaning of a line never depends on another line, and reading never executes anything.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from launcher.errors import Problem, UserError
from launcher.recipe.line_habits import culprit
from launcher.recipe.tree import Node, plain

MAX_DEPTH = 40
MAX_KEY = 200
"""Characters."""
Scalar = str | int | float | bool | None

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

# The parser's message -> ours, and what to do. The first pattern that matches wins.
_SYNTAX = (
    (r"found character '\\t'", "a tab where YAML allows only spaces", "indent with spaces"),
    (r"found character '(.)'", r"a plain value cannot start with {0}", "put the value in quotes"),
    (
        r"mapping values are not allowed",
        "a `key:` where none can begin",
        "one key a line, indented like its neighbours, with a space after each colon",
    ),
    (
        r"could not find expected ':'",
        "a line that is not `key: value`",
        "add the colon, and a space after it",
    ),
    (
        r"expected ',' or '([]}])'",
        "a list or section that is not closed by {0}",
        "add the missing `,` or `{0}`",
    ),
    (r"expected <block end>", "indentation that fits no section above", "indent keys of one section alike"),
    (r"node content, but found '(.+)'", "a value is missing here", "add the value, and close every list"),
    (r"end of stream", "a quote that is not closed", "add the closing quote"),
    (r"expected '<document start>'", "text after the end of the recipe", "check the indentation"),
    (r"unknown escape character '(.*)'", r"an unknown escape \{0} in a quoted value", "use single quotes"),
)


def parse_yaml(text: str, name: str) -> Any:
    """Read one YAML document into plain values. Raises UserError placed in `name`."""
    node, problems = parse_tree(text, name)
    if problems:
        raise UserError(*problems)
    return plain(node)


def parse_argument(text: str, name: str) -> tuple[Node, list[Problem]]:
    """Read a word of the command line, where `#` begins no comment: a value with one is text as it stands."""
    try:
        *tokens, _end = yaml.scan(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return parse_tree(text, name)  # which explains it
    if text[tokens[-1].end_mark.index :].strip():
        return Node(text.strip(), name, name), []
    return parse_tree(text, name)


def parse_tree(text: str, name: str, *, most: int | None = None) -> tuple[Node, list[Problem]]:
    """Read one YAML document into nodes, and find what our rules forbid. Raises UserError on bad syntax.

    `most`: keys and values that are read; with more, the text is refused at once.
    """
    try:
        reader = _Reader(name, most, yaml.parse(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader))
        node = reader.document()
    except yaml.reader.ReaderError as error:
        raise UserError(_character_problem(text, name, error.position)) from None
    except yaml.MarkedYAMLError as error:
        raise UserError(_syntax_problem(name, error, text)) from None
    if node is None:
        raise UserError(Problem(f"{name}:1:1", "is empty", "write `key: value` lines"))
    return node, reader.problems


def decode(content: bytes, name: str) -> str:
    """UTF-8 text of a file. Raises UserError at the first byte that is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"byte 0x{content[error.start]:02x} is not UTF-8 text"
        raise UserError(Problem(f"{name}:{line}:{column}", message, "save the file as UTF-8")) from None


def dump_yaml(data: Any) -> str:
    """Write plain values as YAML that YAML 1.1 and 1.2 readers both read back equal."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )


def resolve(text: str) -> Scalar:
    """The value of a plain scalar by the core schema of YAML 1.2, with `_` allowed between digits."""
    # PyYAML resolves by YAML 1.1, where `no` is false, `1e-3` is text (no dot) and `12:30` is 750. In 1.2
    # these are text, a number and text, which is what people mean.
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return text


class _Reader:
    """Builds nodes from parser events, and collects every problem that does not stop the reading."""

    def __init__(self, name: str, most: int | None, events: Iterator[Any]) -> None:
        self.name = name
        self.left = most
        self.events = events
        self.problems: list[Problem] = []

    def document(self) -> Node | None:
        """The only document, or None if there is none."""
        root = None
        for event in self.events:
            if not isinstance(event, yaml.NodeEvent):
                continue
            if root is not None:
                self.refuse(event, "a second document starts here", "keep one recipe per file, without `---`")
                break
            root = self.node(event, depth=0)
        return root

    def node(self, event: Any, depth: int, key_place: str = "") -> Node:
        place = self.place(event.start_mark)
        key_place = key_place or place
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                message = "this is more than a recipe has: too many keys and values"
                raise UserError(Problem(place, message, "give the file of a recipe; data belong into files"))
        if depth > MAX_DEPTH:
            raise UserError(Problem(place, f"nested more than {MAX_DEPTH} deep", "flatten it"))
        self.check_plainness(event)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self.mapping(depth), place, key_place)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self.sequence(depth), place, key_place)
        if isinstance(event, yaml.AliasEvent):
            return Node(None, place, key_place)
        # An empty value has no place of its own; its key is shown instead.
        return Node(
            self.scalar(event), place if event.value or event.style else key_place, key_place, _text(event)
        )

    def mapping(self, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            place = self.place(event.start_mark)
            key = self.key(event, depth)
            value = self.node(next(self.events), depth + 1, place)
            if key is None:
                continue
            if key in members:
                message = f"key {key!r} is given twice, first at {members[key].key_place}"
                self.problems.append(Problem(place, message, "remove one of the two"))
            else:
                members[key] = value
        return members

    def key(self, event: Any, depth: int) -> str | None:
        """The text of a key, or None after recording why it is not one."""
        node = self.node(event, depth + 1)
        if not isinstance(event, yaml.ScalarEvent):
            if not isinstance(event, yaml.AliasEvent):
                self.refuse(event, "a list or section as a key", "keys are names")
            return None
        if node.text == "<<":
            self.refuse(event, "merge keys `<<` are not allowed: a recipe is complete", "write the keys out")
            return None
        if len(node.text or "") > MAX_KEY:
            self.refuse(event, f"a key of {len(node.text or '')} characters", f"keys have at most {MAX_KEY}")
            return None
        if not isinstance(node.value, str):
            remedy = f'write "{event.value}" in quotes'
            if re.fullmatch(r"[0-9]+([eE][-+]?[0-9]+)?", event.value):  # {lr: 0,004}
                remedy += ", or 0.004 with a decimal point: a comma begins the next key"
            self.refuse(event, f"key {event.value or 'null'} is not text", remedy)
            return None
        return node.value

    def sequence(self, depth: int) -> list[Node]:
        items: list[Node] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self.node(event, depth + 1))
        return items

    def scalar(self, event: Any) -> Scalar:
        if not event.value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in event.value):
            self.refuse(event, "half of a surrogate pair is not a character", "write the character itself")
            return "?"
        try:
            return resolve(event.value) if event.style is None else str(event.value)
        except ValueError:  # int() refuses thousands of digits
            self.refuse(
                event, f"a number of {len(event.value)} digits", "write a number that a machine can hold"
            )
            return 0

    def check_plainness(self, event: Any) -> None:
        """Refuse what gives a line a meaning that is written elsewhere, or builds objects."""
        complete = "write the value out: a recipe has no references"
        if isinstance(event, yaml.AliasEvent):
            self.refuse(event, f"alias *{event.anchor} is not allowed", complete)
            return
        if event.anchor is not None:
            self.refuse(event, f"anchor &{event.anchor} is not allowed", complete)
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.refuse(event, f"tag {tag} is not allowed", "write the plain value; quotes make text")

    def refuse(self, event: Any, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.place(event.start_mark), message, remedy))

    def place(self, mark: Any) -> str:
        return f"{self.name}:{mark.line + 1}:{mark.column + 1}"


def _text(event: Any) -> str:
    return event.value if event.style is None else ""


def _syntax_problem(name: str, error: yaml.MarkedYAMLError, text: str) -> Problem:
    """Our message for a parser's error, at the place where the mistake starts."""
    said = error.problem or "broken syntax"
    mark = error.problem_mark or error.context_mark
    # "Here no key can begin": the line before is what is wrong.
    before = culprit(text.splitlines(), mark.line) if mark is not None and "mapping values" in said else None
    if before is not None:
        line, column, message, remedy = before
        return Problem(f"{name}:{line + 1}:{column + 1}", message, remedy)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    for pattern, message, remedy in _SYNTAX:
        found = re.search(pattern, said)
        if found is None:
            continue
        if error.context_mark and ("not closed" in message or "is not `key" in message):
            place = f"{name}:{error.context_mark.line + 1}:{error.context_mark.column + 1}"
        return Problem(place, message.format(*found.groups()), remedy.format(*found.groups()))
    return Problem(place, f"not valid YAML: {said}", "check this line and the one above")


def _character_problem(text: str, name: str, position: int) -> Problem:
    before = text[:position]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return Problem(
        f"{name}:{line}:{column}", f"character {text[position]!r} is not allowed in YAML", "remove it"
    )


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe writer, which also quotes text that only YAML 1.2 would read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(f"^(?:{_FLOAT.pattern}|{_BASED.pattern}|{_SPECIAL.pattern})$"),
    list("-+.0123456789"),
)
