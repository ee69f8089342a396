"""`launch init --extension NAME`: a new extension, from the template. Torch-free."""

import sys
from pathlib import Path

from launcher.errors import Problem, UserError

TEMPLATE = Path(__file__).parents[1] / "template"
_NAME = "gatedconv"
_CLASS = "GatedConv"


def write_extension(name: str, output: str | None) -> list[Path]:
    """Write the template's files into a new folder, with its name replaced. Raises UserError."""
    place = f"--extension {name}"
    if not name.isidentifier() or name.startswith("_") or name != name.lower():
        message, remedy = "cannot name a package", "use small letters, digits and _, such as my_layer"
        raise UserError(Problem(place, message, remedy))
    from launcher.recipe.extension import taken_names

    if name in sys.stdlib_module_names or name in taken_names():
        raise UserError(Problem(place, "is the name of something else already", "choose another"))
    folder = Path(output or name)
    if folder.exists():
        raise UserError(Problem(str(folder), "exists already", "choose another with -o FOLDER"))
    made = []
    for source in sorted(TEMPLATE.rglob("*")):
        if source.is_file() and source.suffix in (".py", ".md", ".toml", ".yaml"):
            path = folder / _renamed(str(source.relative_to(TEMPLATE)), name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(_renamed(source.read_text(), name))
            except OSError as error:
                raise UserError(Problem(str(path), f"cannot be written: {error.strerror}")) from None
            made.append(path)
    return made


def _renamed(text: str, name: str) -> str:
    words = "".join(word.capitalize() for word in name.split("_"))
    return text.replace(_NAME, name).replace(_CLASS, words)
