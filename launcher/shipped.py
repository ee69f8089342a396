"""What comes with the product beside its code: recipes, by name, from a checkout or an installed wheel."""

import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

_ENDINGS = (".yaml", ".yml")
_HERE = Path(__file__).parents[1]


def shipped_recipes() -> Mapping[str, Path]:
    """By name, such as s4d-lm-quickstart."""
    # In a checkout; as `pip install --target` puts them; as pip lists them of an environment.
    folders = chain((_HERE / "recipes", _HERE / "share" / "mulaunch" / "recipes"), _listed())
    found = next((folder for folder in folders if folder.is_dir()), None)
    places = sorted(found.iterdir()) if found is not None else []
    return {place.stem: place for place in places if place.suffix in _ENDINGS}


def _listed() -> Iterator[Path]:
    try:
        listed = importlib.metadata.files("mulaunch") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for one in listed:
        if one.parent.name == "recipes":
            yield Path(os.path.normpath(str(one.locate()))).parent


def find_recipe(path: str) -> str:
    """The path of a recipe: a file if there is one of that path, else the shipped one that is so called.

    `s4d-lm-quickstart` and `recipes/s4d-lm-quickstart.yaml` are both found; what is neither stays as it is.
    """
    place = Path(path)
    if place.exists() or place.parent not in (Path(), Path("recipes")):
        return path
    found = shipped_recipes().get(place.stem if place.suffix in _ENDINGS else place.name)
    return path if found is None else str(found)
