"""What a recipe may contain, from its JSON Schema: keys, types and limits, in plain words."""

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.recipe.tree import Key, Node, child
from models.section import MOST

Schema = Mapping[str, Any]


class Shape:
    """A JSON Schema that can be followed along a recipe. The tag selects a variant of a union of sections."""

    def __init__(self, root: Schema) -> None:
        self.root = root

    def deref(self, schema: Schema) -> Schema:
        """The schema itself, without references and without `or null`."""
        while True:
            if "$ref" in schema:
                schema = self.root["$defs"][schema["$ref"].rpartition("/")[2]]
            elif (
                "anyOf" in schema
                and len(kept := [s for s in schema["anyOf"] if s.get("type") != "null"]) == 1
            ):
                schema = kept[0]
            else:
                return schema

    def variants(self, schema: Schema) -> dict[str, Schema]:
        """Sections of a tagged union by tag; empty for anything else."""
        schema = self.deref(schema)
        mapping = schema.get("discriminator", {}).get("mapping", {})
        return {tag: self.deref({"$ref": ref}) for tag, ref in mapping.items()}

    def tag_key(self, schema: Schema) -> str:
        """The key that selects a variant of a tagged union, such as `type`."""
        return str(self.deref(schema)["discriminator"]["propertyName"])

    def locate(self, tree: Node, loc: tuple[Key, ...]) -> tuple[tuple[Key, ...], Schema]:
        """Turn a validator's location, which has union tags between the keys, into a path and its schema.

        Stops at a union without a tag: an error inside it is reported as one problem of the whole value.
        """
        # pydantic locates a wrong rate at ("optim", "adamw", "lr"). "adamw" is the tag of the union, not a
        # key of the recipe: the path is ("optim", "lr"), and the tag selects the schema in which `lr` is
        # looked up.
        schema: Schema = self.root
        path: tuple[Key, ...] = ()
        node: Node | None = tree
        for step in loc:
            schema = self.deref(schema)
            if variants := self.variants(schema):
                schema = variants.get(str(step), schema)
                continue
            inner = self._inner(schema, step)
            if inner is None:
                break
            path, schema = (*path, step), inner
            node = child(node, step) if node is not None else None
        return path, schema

    def at(self, tree: Node, path: tuple[Key, ...]) -> Schema:
        """The schema of a recipe's value at a path, selected by its tags; {} if nothing fits."""
        schema: Schema = self.root
        node: Node | None = tree
        for key in path:
            schema = self._inner(self.section(schema, node), key) or {}
            node = child(node, key) if node is not None else None
        return self.section(schema, node)

    def section(self, schema: Schema, node: Node | None) -> Schema:
        """The variant of the node's tag, else the schema without references."""
        schema = self.deref(schema)
        if not (variants := self.variants(schema)):
            return schema
        tag = child(node, self.tag_key(schema)) if node is not None else None
        return variants.get(str(tag.value), schema) if tag is not None else schema

    def _inner(self, schema: Schema, key: Key) -> Schema | None:
        # prefixItems: a tuple, with a schema for each position. items: a list, with one schema for all.
        if isinstance(key, int):
            prefix = schema.get("prefixItems", ())
            found = prefix[key] if key < len(prefix) else schema.get("items")
            return found if isinstance(found, Mapping) else None
        if key in schema.get("properties", {}):
            return schema["properties"][key]
        extra = schema.get("additionalProperties")
        return extra if isinstance(extra, Mapping) else None

    def key_paths(
        self, schema: Schema | None = None, path: tuple[str, ...] = ()
    ) -> Iterator[tuple[str, ...]]:
        """The path of every key of every section, through every variant."""
        schema = self.deref(self.root if schema is None else schema)
        for section in self.variants(schema).values() or [schema]:
            for name, inner in section.get("properties", {}).items():
                yield (*path, name)
                yield from self.key_paths(inner, (*path, name))

    def describe(self, schema: Schema) -> str:
        """What is allowed here, such as `a whole number >= 1 or null`."""
        if "$ref" in schema:
            return self.describe(self.root["$defs"][schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            options = list(schema["anyOf"])
            if len(options) == 2 and options[1].get("type") == "null" and (words := allowed(options[0])):
                return any_of([*words, "null"])
            return " or ".join(dict.fromkeys(self.describe(option) for option in options))
        if tags := self.variants(schema):
            return f"a section whose `{self.tag_key(schema)}` is {any_of(tags)}"
        if "const" in schema or "enum" in schema:
            return any_of(allowed(schema))
        kind = schema.get("type")
        if kind == "array":
            return self._describe_list(schema)
        if kind == "object":
            inside = schema.get("properties", {})
            return (
                f"a section with the keys {', '.join(inside)}" if inside else self._describe_mapping(schema)
            )
        return _KINDS.get(str(kind), "something else") + _limits(schema)

    def _describe_list(self, schema: Schema) -> str:
        if prefix := schema.get("prefixItems"):
            kinds = list(dict.fromkeys(self.describe(item) for item in prefix))
            return f"a list of {len(prefix)} values, each {' or '.join(kinds)}"
        few = " at least one of" if schema.get("minItems", 0) == 1 else ""
        return f"a list of{few} {self.describe(schema.get('items', {}))}"

    def _describe_mapping(self, schema: Schema) -> str:
        extra = schema.get("additionalProperties")
        return "a section of names" + (
            f", each with {self.describe(extra)}" if isinstance(extra, Mapping) else ""
        )


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _limits(schema: Schema) -> str:
    # Nobody who wrote 0 steps wants to hear that 2^53 would be too many. Who did is told by the remedy.
    words = [
        f"{sign} {schema[name]}"
        for name, sign in _BOUNDS.items()
        if name in schema and not (name == "maximum" and schema[name] >= MOST)
    ]
    if "multipleOf" in schema:
        words.append(f"a multiple of {schema['multipleOf']}")
    if "pattern" in schema:
        words.append(f"matching {schema['pattern']}")
    if "minLength" in schema:
        words.append(f"of at least {schema['minLength']} letters")
    return (" " + " and ".join(words)) if words else ""


def allowed(schema: Schema) -> list[Any]:
    """The allowed values if they are a fixed list, else empty."""
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


def any_of(words: Any) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *most, last = [str(word) for word in words]
    return f"{', '.join(most)} or {last}" if most else last
