"""Damage to a run's files while nothing trains it: torn off at a random byte, or one bit flipped."""

import random
from pathlib import Path

from launcher.checkpoint.catalog import find_newest, list_steps, step_folder

FILES = ("shard", "index", "manifest", "journal", "recipe", "environment", "plan")


def damage_file(run: Path, name: str, how: str, random_: random.Random) -> str | None:
    """Damage one file; returns what was done, None where the run would not survive it by rights."""
    if name in ("shard", "index", "manifest"):
        good = [step for step in list_steps(str(run)) if _is_good(run, step)]
        if len(good) < 2:
            return None
        folder = Path(step_folder(str(run), good[-1]))
        shards = sorted(folder.glob("*.distcp"))
        path = {
            "shard": random_.choice(shards),
            "index": folder / ".metadata",
            "manifest": folder / "manifest.json",
        }[name]
    else:
        if find_newest(str(run), verify=True)[0] is None:
            return None
        path = run / {"journal": "journal.jsonl", "recipe": "recipe.yaml"}.get(name, f"{name}.json")
    content = bytearray(path.read_bytes())
    at = random_.randrange(len(content))
    if how == "tear":
        # A journal loses its end only: what was written a day ago is safe from a torn write.
        at = max(at, len(content) - 2000) if name == "journal" else at
        del content[at:]
    else:
        content[at] ^= 1 << random_.randrange(8)
    path.write_bytes(content)
    return f"{how} {name}"


def _is_good(run: Path, step: int) -> bool:
    found, _ = find_newest(str(run), verify=True, before=step + 1)
    return found is not None and found.step == step
