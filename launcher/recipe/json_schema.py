"""The JSON Schema with which editors complete and check recipes."""

import ast
import inspect
import textwrap
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from launcher.recipe.counts import NUMBER, PATTERN

ID = "https://mulaunch.invalid/recipe.schema.json"
"""A name, not an address: the schema is in docs/ and comes from `launch schema`."""


def editor_schema(recipe: type[BaseModel]) -> dict[str, Any]:
    """The recipe's schema, for editors that read YAML 1.1 or 1.2.

    Every key is described; of sections with a `type`, it chooses which keys there are; whole numbers may be
    500M, and numbers 4e-3, which is text in YAML 1.1.
    """
    schema = recipe.model_json_schema(schema_generator=_Documented)
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": ID, **schema}
    result: dict[str, Any] = _for_editors(described)
    return result


class _Documented(GenerateJsonSchema):
    """Adds the docstring under each field to the schema, for editors to show."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        section = schema["cls"]
        texts: dict[str, str] = {}
        for base in reversed(section.__mro__):
            if issubclass(base, BaseModel) and base is not BaseModel:
                texts |= _field_docstrings(base)
        for name, field in section.model_fields.items():
            text = texts.get(name) or _section_text(field.annotation)
            if text is None and name in ("type", "version"):
                text = _first_line(section)
            if text is not None:
                described["properties"][name].setdefault("description", text)
        return described

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A title would only repeat the key."""
        return False


def _first_line(section: type[BaseModel]) -> str:
    """Of what a section says of itself; an extension's may say nothing."""
    return inspect.cleandoc(section.__doc__ or section.__name__).splitlines()[0]


def _section_text(annotation: Any) -> str | None:
    """What is said of a section, for a key that holds one; of several, what they have in common."""
    sections = [annotation, *get_args(annotation)]
    sections += [kind for part in sections for kind in get_args(part)]
    found = [kind for kind in sections if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if not found:
        return None
    texts = [_first_line(kind) for kind in dict.fromkeys(found)]
    return texts[0] if len(texts) == 1 else f"By its type: {' '.join(texts)}"


def _field_docstrings(section: type[BaseModel]) -> dict[str, str]:
    """The string literal under each field of a class, which is its docstring by convention."""
    # Python does not keep these strings, so they are read from the source of the class.
    try:
        source = inspect.getsource(section)
    except OSError:  # an extension's module that keeps no source
        return {}
    tree = ast.parse(textwrap.dedent(source))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef), f"{section} is not a class statement"
    documented = {}
    for line, following in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            documented[line.target.id] = inspect.cleandoc(str(following.value.value))
    return documented


def _for_editors(schema: Any) -> Any:
    """What the compiler takes and JSON Schema would refuse, and unions as choices by their `type`."""
    if isinstance(schema, list):
        return [_for_editors(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "discriminator" in schema:
        return _by_type(schema)
    kind = schema.get("type")
    if kind not in ("integer", "number") or "const" in schema or "enum" in schema:
        return {key: _for_editors(part) for key, part in schema.items()}
    # {"type": "integer", "minimum": 1, "default": 10} becomes {"anyOf": [{"type": "integer", "minimum": 1},
    # {a string of that pattern}], "default": 10}: editors look for description and default outside of the
    # alternatives.
    outside = {key: schema[key] for key in ("description", "default") if key in schema}
    number = {key: part for key, part in schema.items() if key not in outside}
    pattern = PATTERN if kind == "integer" else NUMBER
    return {"anyOf": [number, {"type": "string", "pattern": pattern}], **outside}


def _by_type(union: dict[str, Any]) -> dict[str, object]:
    """A union as one section: `type` names the variant, and only that one is then held against it."""
    # With oneOf, an editor marks the whole section where one key is wrong: "not valid under any".
    key, variants = union["discriminator"]["propertyName"], union["discriminator"]["mapping"]
    outside: dict[str, object] = {name: union[name] for name in ("description", "default") if name in union}
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": list(variants)}},
        "allOf": [
            {"if": {"properties": {key: {"const": name}}, "required": [key]}, "then": {"$ref": reference}}
            for name, reference in variants.items()
        ],
        **outside,
    }
