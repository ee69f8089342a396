"""Validation errors -> problems in our own words, with their place in the recipe and a suggestion."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from launcher.errors import Problem
from launcher.recipe.counts import as_count, as_quantity
from launcher.recipe.habits import known_choice, known_key, list_remedy, value_remedy
from launcher.recipe.renamed import new_name
from launcher.recipe.schema_walk import Schema, Shape, allowed, any_of
from launcher.recipe.suggest import close_matches, did_you_mean
from launcher.recipe.tree import Key, Node, dotted, find, nearest, put, split_key, without

KeyPath = tuple[Key, ...]
_YES_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_SHOWN_LETTERS = 60
_FEW = 4
"""Missing sections that are named one by one."""


@dataclass(slots=True)
class Report:
    """What one validation found, and a guess at what was meant.

    For `optim: {type: adanw, lrr: 1}` the validator reports only that there is no optimizer `adanw`: without
    an optimizer it cannot check the other keys. So that problem is added to `guessed`, `guess` has `adamw`
    instead, and validating the guess finds `lrr`.
    """

    guess: Node
    """The recipe with what was most likely meant; the validated tree itself where nothing was guessed."""
    guessed: list[Problem] = field(default_factory=list)
    """Problems that validating `guess` will not find again, because it has what was meant instead."""
    remaining: list[Problem] = field(default_factory=list)
    """Problems that it will find again; the next round reports them."""


class Explainer:
    """Turns validation errors into problems, with the JSON Schema of a recipe."""

    def __init__(self, schema: Schema) -> None:
        self.shape = Shape(schema)

    def explain(self, tree: Node, errors: Iterable[Mapping[str, Any]]) -> Report:
        """Turn the validator's errors about a tree into problems."""
        report = Report(tree)
        # Collected by section: three missing keys of `model` are one problem with one remedy, not three.
        missing: dict[KeyPath, list[str]] = {}
        found = list(errors)
        for error in found:
            path, schema = self.shape.locate(tree, error["loc"])
            kind = error["type"]
            # A list whose only items are wrong is too short as well, to the validator.
            if kind == "too_short" and any(other["loc"][:-1] == error["loc"] for other in found):
                continue
            if kind == "missing" and isinstance(error["loc"][-1], str):
                missing.setdefault(path[:-1], []).append(str(path[-1]))
            elif kind == "union_tag_not_found":
                missing.setdefault(path, []).append(self.shape.tag_key(schema))
            elif kind == "extra_forbidden":
                self._unknown_key(report, tree, (*path, error["loc"][-1]))
            elif kind == "union_tag_invalid":
                self._wrong_tag(report, tree, path, schema)
            elif kind in ("value_error", "assertion_error"):
                report.remaining.append(self._own_words(tree, path, str(error["ctx"]["error"])))
            else:
                if kind == "missing":  # an item of a list that is too short: the list is wrong
                    path, schema = self.shape.locate(tree, error["loc"][:-1])
                self._wrong_value(report, nearest(tree, path), path, schema, kind)
        report.remaining += [self._missing(tree, path, keys) for path, keys in missing.items()]
        return report

    def _missing(self, tree: Node, path: KeyPath, keys: list[str]) -> Problem:
        section = self.shape.at(tree, path)
        wanted = [f"`{key}: ...` ({self._wanted(section, key)})" for key in keys]
        names = [dotted((*path, key)) for key in keys]
        verb = "is" if len(names) == 1 else "are"
        found = nearest(tree, path)
        remedy = f"add {', '.join(wanted)}"
        if not path and len(names) > _FEW:
            remedy = "start from one that is there: `launch recipes` lists them"
        return Problem(found.key_place, f"{_and(names)} {verb} missing", remedy)

    def _wanted(self, section: Schema, key: str) -> str:
        tags = self.shape.variants(section)
        return any_of(tags) if tags else self.shape.describe(section.get("properties", {}).get(key, {}))

    def _unknown_key(self, report: Report, tree: Node, path: KeyPath) -> None:
        node = find(tree, path)
        assert node is not None, f"{path} is not in the recipe"
        inside = f" in {dotted(path[:-1])}" if len(path) > 1 else ""
        target, remedy = self._intended(tree, path)
        problem = Problem(node.key_place, f"unknown key {str(path[-1])!r}{inside}", remedy)
        # Moved only to a place that is free in the guess too: `lrr` and `l_r` cannot both be taken for `lr`.
        if target is None or find(report.guess, target) is not None:
            report.remaining.append(problem)
        else:
            report.guessed.append(problem)
            report.guess = put(without(report.guess, path), target, node)

    def _intended(self, tree: Node, path: KeyPath) -> tuple[KeyPath | None, str]:
        """Where an unknown key most likely belongs, if there is one such place, and the remedy."""
        # From the most to the least certain: renamed, misspelled in this section, a key of another variant of
        # it (`betas` of sgd), a key of another section (`lr` in `train`), misspelled in another section.
        section, key = path[:-1], str(path[-1])
        if (new := new_name(tree, path)) is not None:
            return (*section, new), f"it is now called {new!r}"
        keys = list(self.shape.at(tree, section).get("properties", {}))
        if near := close_matches(key, keys):
            # Of two that are alike, the one that is not written: batch_size beside a micro_batch_size.
            near = [word for word in near if find(tree, (*section, word)) is None] or near
            given = find(tree, (*section, near[0]))
            if len(near) == 1 and given is not None:
                return None, f"did you mean {near[0]!r}, which is given at {given.key_place}?"
            return (*section, near[0]) if len(near) == 1 else None, did_you_mean(map(repr, near))
        if (known := known_key(dotted(section), key)) is not None:
            return self._free_place(tree, [tuple(known[0].split("."))]), known[1]
        if owners := self._owners(tree, section, key):
            return None, f"{key!r} belongs to {any_of(owners)}; ~{dotted(path)} as an override drops it"
        everywhere = [other for other in self.shape.key_paths() if other != path]
        exact = [other for other in everywhere if other[-1] == key]
        depth = min(map(len, exact), default=0)
        if places := list(dict.fromkeys(other for other in exact if len(other) == depth)):
            return self._free_place(tree, places), did_you_mean(map(dotted, places[:3]))
        names = close_matches(key, {other[-1] for other in everywhere})
        if places := [other for name in names for other in everywhere if other[-1] == name]:
            return None, did_you_mean(dict.fromkeys(map(dotted, places[:3])))
        return None, f"the keys {f'of {dotted(section)}' if section else 'of a recipe'} are {', '.join(keys)}"

    def _owners(self, tree: Node, section: KeyPath, key: str) -> list[str]:
        """The variants of this section that have the key."""
        schema, node = self.shape.locate(tree, section)[1], find(tree, section)
        variants = self.shape.variants(schema)
        if not variants or node is None:
            return []
        tag = self.shape.tag_key(schema)
        return [f"`{tag}: {name}`" for name, known in variants.items() if key in known.get("properties", {})]

    def _free_place(self, tree: Node, places: list[tuple[str, ...]]) -> KeyPath | None:
        """The only place, if its section is written and has the key."""
        if len(places) != 1:
            return None
        section, key = places[0][:-1], places[0][-1]
        found = find(tree, section)
        known = key in self.shape.at(tree, section).get("properties", {})
        return places[0] if known and found is not None and isinstance(found.value, dict) else None

    def _wrong_tag(self, report: Report, tree: Node, path: KeyPath, schema: Schema) -> None:
        key = self.shape.tag_key(schema)
        node = find(tree, (*path, key))
        assert node is not None, f"{path} has no {key}"
        tags = self.shape.variants(schema)
        near = close_matches(str(node.value), tags)
        message = f"{dotted((*path, key))} is {_shown(node)}, must be {any_of(tags)}"
        problem = Problem(node.place, message, did_you_mean(near))
        if len(near) == 1:
            report.guessed.append(problem)
            report.guess = put(report.guess, (*path, key), replace(node, value=near[0]))
        else:
            report.remaining.append(problem)

    def _own_words(self, tree: Node, path: KeyPath, message: str) -> Problem:
        """A problem that a section's own validator found, placed at the key with which its message starts.

        "num_heads 3 does not divide d_model 32" of model.attention is placed at model.attention.num_heads.
        The message of a single key's validator may start with that key, or with another one of its section.
        """
        named = split_key(re.split(r"[^\w.]", message, maxsplit=1)[0])
        for section in (path, path[:-1]):
            if named[0] in self.shape.at(tree, section).get("properties", {}):
                node = nearest(tree, (*section, *named))
                break
        else:
            node = nearest(tree, path)
        place = node.key_place if isinstance(node.value, dict) else node.place
        return Problem(place, f"{dotted(path)}: {message}" if path else message)

    def _wrong_value(self, report: Report, node: Node, path: KeyPath, schema: Schema, kind: str) -> None:
        if isinstance(node.value, float) and not isfinite(node.value):
            return  # reported already by _non_finite
        if kind == "int_type" and (count := as_count(node.text)) is not None:
            # 500M: not a problem, so it is only replaced, and the next round validates the number.
            report.guess = put(report.guess, path, replace(node, value=count))
            return
        quantity = as_quantity(str(path[-1]), node.text) if path and isinstance(node.value, str) else None
        if quantity is not None and (kind == "float_type" or isinstance(quantity, int)):
            report.guess = put(report.guess, path, replace(node, value=quantity))  # 2h, likewise
            return
        if (items := _with_items(node, schema)) is not None:  # pattern.1=ffn, where the recipe has no pattern
            report.guess = put(report.guess, path, items)
            return
        message = f"{dotted(path)} is {_shown(node)}, must be {self.shape.describe(schema)}"
        report.remaining.append(Problem(node.place, message, self._remedy(node, schema)))

    def _remedy(self, node: Node, schema: Schema) -> str:
        """How to fix a value, if what was written shows it."""
        kinds, choices = _kinds(self.shape, schema)
        value, text = node.value, node.text
        if value is None:
            return "give it a value, or remove the line if it has a default"
        if (most := _most(self.shape, schema)) is not None and isinstance(value, int) and value > most:
            return f"the largest possible is {most}"
        if isinstance(value, str) and not {"string", "object"} & kinds:
            number, whole = bool({"integer", "number"} & kinds), "number" not in kinds
            null = any(option.get("type") == "null" for option in schema.get("anyOf", ()))
            said = value_remedy(value, number=number, whole=whole, null=null, place=node.place)
            if said:
                return said
        if (
            choices
            and isinstance(value, str)
            and len(words := value.split()) > 1
            and set(words) <= set(choices)
        ):
            return f"write {', '.join(words)}, with commas between them"
        if choices and isinstance(value, str):
            meant = known_choice(value, list(map(str, choices)))
            return did_you_mean([meant] if meant else close_matches(value, map(str, choices)))
        if "string" in kinds and isinstance(value, (bool, int, float)):
            return f'write "{text}" in quotes'
        if "boolean" in kinds and text.lower() in _YES_NO:
            return f"write {_YES_NO[text.lower()]}"
        if "integer" in kinds and isinstance(value, float) and value.is_integer():
            return f"write {int(value)}"
        if "number" in kinds and (count := as_count(text)) is not None and isinstance(value, str):
            return f"write {float(count):g}"
        if {"integer", "number"} & kinds and isinstance(value, str) and _is_number(value):
            return f"write {value} without quotes"
        if isinstance(value, list) and {"integer", "number"} & kinds and "array" not in kinds:
            return "one run has one value; several are a grid: launch sweep RECIPE key=a,b"
        if "array" in kinds and isinstance(value, str) and re.search(r"^-|,|^\(", value):
            return list_remedy(value)
        if "array" in kinds and "items" in self.shape.deref(schema) and not isinstance(value, (list, dict)):
            simple = re.fullmatch(r"[\w./ -]+", text)
            return f"write [{text if simple else json.dumps(value)}]"
        return ""


def _with_items(node: Node, schema: Schema) -> Node | None:
    """A default list with the items that overrides give by their number; None for anything else."""
    default, given = schema.get("default"), node.value
    if not isinstance(default, list) or not isinstance(given, dict) or not given:
        return None
    if not all(key.isdecimal() and int(key) < len(default) for key in given):
        return None
    items = [Node(item, node.place, node.key_place, str(item)) for item in default]
    for key, item in given.items():
        items[int(key)] = item
    return replace(node, value=items)


def _kinds(shape: Shape, schema: Schema) -> tuple[set[str], list[Any]]:
    """The JSON types that are allowed here, and the fixed list of values if there is one."""
    schema = shape.deref(schema)
    options = [shape.deref(option) for option in schema.get("anyOf", [schema])]
    choices = [value for option in options for value in allowed(option)]
    return {str(option.get("type")) for option in options}, choices


def _most(shape: Shape, schema: Schema) -> int | None:
    """The largest allowed number, if there is one."""
    options = [shape.deref(option) for option in shape.deref(schema).get("anyOf", [schema])]
    return max((int(option["maximum"]) for option in options if "maximum" in option), default=None)


def _shown(node: Node) -> str:
    """A value as the user wrote it, shortened."""
    if isinstance(node.value, dict):
        return "a section"
    if isinstance(node.value, list):
        shown = f"[{', '.join(_shown(item) for item in node.value)}]"
    elif node.value is None and not node.text:
        return "empty"
    else:
        shown = repr(node.value) if isinstance(node.value, str) else node.text or repr(node.value)
    return shown if len(shown) <= _SHOWN_LETTERS else shown[: _SHOWN_LETTERS - 3] + "..."


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _and(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
