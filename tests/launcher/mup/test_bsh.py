"""Base-shapes files: our own, and those of the mup package, both ways."""

from pathlib import Path

import pytest
import yaml

from launcher.errors import UserError
from launcher.mup.base_shapes import hash_shapes
from launcher.mup.bsh import dump_base_shapes, read_base_shapes

SHAPES = {"up.weight": (256, 64), "embedding.weight": (None, 64), "scale": (), "dt": (64,)}

# Written by mup 1.0.0's save_base_shapes for the shapes above less the scalar, on PyYAML 6.0.3.
WRITTEN_BY_MUP = """\
# This is a base shape file encoded in yaml
# - `null` indicates a dimension is "finite", i.e. a non-"width" dimension
# - a number indicates the base dimension of an "infinite" dimension, i.e. some notion of "width"
dt:
- 64
embedding.weight:
- null
- 64
up.weight:
- 256
- 64
"""


def test_a_file_reads_back_equal_and_carries_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "base.bsh"
    path.write_text(dump_base_shapes(SHAPES))
    assert read_base_shapes(str(path)) == SHAPES
    assert hash_shapes(SHAPES) in path.read_text()


def test_the_text_depends_on_content_only() -> None:
    assert dump_base_shapes(SHAPES) == dump_base_shapes(dict(reversed(SHAPES.items())))


def test_a_file_of_the_mup_package_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mup.bsh"
    path.write_text(WRITTEN_BY_MUP)
    assert read_base_shapes(str(path)) == {name: dims for name, dims in SHAPES.items() if dims}


def test_the_mup_package_would_read_our_file() -> None:
    """Its reader is yaml.safe_load and a list of int or None per name."""
    assert yaml.safe_load(dump_base_shapes(SHAPES)) == {name: list(dims) for name, dims in SHAPES.items()}


def test_our_lines_are_the_mup_packages_but_for_the_hash() -> None:
    shapes = {name: dims for name, dims in SHAPES.items() if dims}
    ours = [line for line in dump_base_shapes(shapes).splitlines() if not line.startswith("# sha256:")]
    assert ours == WRITTEN_BY_MUP.splitlines()


def test_names_from_inside_a_wrapper_lose_its_prefix_and_nothing_more(tmp_path: Path) -> None:
    """mup strips the letters of 'module.' from both ends instead: mlp.weight became p.weight."""
    path = tmp_path / "ddp.bsh"
    path.write_text("module.mlp.weight:\n- 4\nmodule.module.bias:\n- 4\n")
    assert read_base_shapes(str(path)) == {"mlp.weight": (4,), "module.bias": (4,)}


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "base.bsh"
    path.write_text(dump_base_shapes(SHAPES).replace("- 256", "- 128"))
    with pytest.raises(UserError, match="its first lines say sha256:"):
        read_base_shapes(str(path))


@pytest.mark.parametrize("text", ["[1, 2]", "a: 3", "a: [x]", "a: [-1]", "a: [true]"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "base.bsh"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a base-shapes file"):
        read_base_shapes(str(path))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="launch shapes RECIPE -o"):
        read_base_shapes(str(tmp_path / "none.bsh"))
