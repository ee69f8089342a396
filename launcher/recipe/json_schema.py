"""The JSON Schema with which editors complete and check recipes."""

import ast
import inspect
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from launcher.recipe.counts import PATTERN


def editor_schema(recipe: type[BaseModel]) -> dict[str, Any]:
    """The recipe's schema with the docstring of every field, and with whole numbers such as 500M allowed."""
    schema = recipe.model_json_schema(schema_generator=_Documented)
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return _with_counts(described)


class _Documented(GenerateJsonSchema):
    """Adds the docstring under each field to the schema, for editors to show."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        for section in schema["cls"].__mro__:
            if issubclass(section, BaseModel) and section is not BaseModel:
                for name, text in _field_docstrings(section).items():
                    if name in section.model_fields:  # not a constant of the class
                        described["properties"][name].setdefault("description", text)
        return described

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A title would only repeat the key."""
        return False


def _field_docstrings(section: type[BaseModel]) -> dict[str, str]:
    """The string literal under each field of a class, which is its docstring by convention."""
    # Python does not keep these strings, so they are read from the source of the class.
    tree = ast.parse(textwrap.dedent(inspect.getsource(section)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef), f"{section} is not a class statement"
    documented = {}
    for line, following in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            documented[line.target.id] = inspect.cleandoc(str(following.value.value))
    return documented


def _with_counts(schema: Any) -> Any:
    """Allow 500M and the like for every whole number."""
    if isinstance(schema, list):
        return [_with_counts(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") != "integer" or "const" in schema or "enum" in schema:
        return {key: _with_counts(part) for key, part in schema.items()}
    # {"type": "integer", "minimum": 1, "default": 10} becomes {"anyOf": [{"type": "integer", "minimum": 1},
    # {a string of that pattern}], "default": 10}: editors look for description and default outside of the
    # alternatives.
    outside = {key: schema[key] for key in ("description", "default") if key in schema}
    number = {key: part for key, part in schema.items() if key not in outside}
    return {"anyOf": [number, {"type": "string", "pattern": PATTERN}], **outside}
