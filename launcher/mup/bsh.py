"""Base shapes as the `.bsh` text of the mup package: name -> list of base sizes, null where finite."""

import re

from launcher import files
from launcher.errors import Problem, UserError, about
from launcher.mup.base_shapes import BaseShapes, hash_shapes
from launcher.yaml_text import parse_yaml

_HEADER = """\
# This is a base shape file encoded in yaml
# - `null` indicates a dimension is "finite", i.e. a non-"width" dimension
# - a number indicates the base dimension of an "infinite" dimension, i.e. some notion of "width"
"""
_HASH = re.compile(r"^# (sha256:[0-9a-f]{64})$", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def dump_base_shapes(base_shapes: BaseShapes) -> str:
    """The text that the mup package writes and reads, with the content's identity as one more comment."""
    odd = [name for name in base_shapes if not _PLAIN.fullmatch(name)]
    if odd:
        raise ValueError(
            f"parameter names {odd} need quotes in YAML; a name has letters, digits, '_', '.' and '-'"
        )
    lines = [
        f"{name}:\n" + "".join(f"- {'null' if dim is None else dim}\n" for dim in dims)
        if dims
        else f"{name}: []\n"
        for name, dims in sorted(base_shapes.items())
    ]
    return f"{_HEADER}# {hash_shapes(base_shapes)}\n" + "".join(lines)


@about("mup.base_shapes")
def read_base_shapes(url: str) -> BaseShapes:
    """Read a `.bsh` file, ours or the mup package's.

    Raises UserError where it is missing, is not such a file, or was changed.
    """
    if not files.exists(url):
        message = "no such base-shapes file"
        raise UserError(
            Problem(url, message, f"make one with `launch shapes RECIPE -o {url}`, or set mup.base_width")
        )
    text = files.read_text(url)
    data = parse_yaml(text, url)
    if not isinstance(data, dict) or not all(_is_dims(dims) for dims in data.values()):
        message = "is not a base-shapes file"
        raise UserError(Problem(url, message, "each line names a parameter and a list of sizes or null"))
    shapes = {str(name): tuple(dims) for name, dims in data.items()}
    stated = _HASH.search(text)
    if stated is not None and stated[1] != hash_shapes(shapes):
        message = f"its first lines say {stated[1]}, its content is {hash_shapes(shapes)}"
        raise UserError(
            Problem(url, message, "restore the file, or remove that line if the change was meant")
        )
    return _without_wrapper(shapes)


def _without_wrapper(shapes: BaseShapes) -> BaseShapes:
    """Names as the bare model has them, where all were taken from a model inside DistributedDataParallel."""
    if not all(name.startswith("module.") for name in shapes):
        return shapes
    return {name.removeprefix("module."): dims for name, dims in shapes.items()}


def _is_dims(dims: object) -> bool:
    return isinstance(dims, list) and all(
        dim is None or (isinstance(dim, int) and not isinstance(dim, bool) and dim > 0) for dim in dims
    )
