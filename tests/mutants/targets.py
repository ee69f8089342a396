"""What is mutated, and which tests are nearest to it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutate import Mutant, change, function_at, mutants_of

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A part of the core; globs are below the root."""

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    """In the order in which they run: the quick ones first. The mirror of a mutated file precedes all."""


ROOMS = (
    Room(
        name="optim",
        sources=("launcher/optim/**/*.py",),
        tests=(
            "tests/launcher/optim/**/test_[!i]*.py",
            "tests/launcher/mup/test_mup_package.py",
            "tests/launcher/plan/test_*.py",
            "tests/launcher/optim/test_in_the_loop.py",
        ),
    ),
    Room(
        name="mup",
        sources=("launcher/mup/**/*.py",),
        tests=("tests/launcher/mup/**/test_*.py", "tests/launcher/plan/test_*.py"),
    ),
    Room(
        name="parallel",
        sources=("launcher/parallel/**/*.py", "launcher/world.py"),
        tests=(
            "tests/launcher/test_world.py",
            "tests/launcher/parallel/test_[!r]*.py",
            "tests/launcher/parallel/test_r*.py",
            "tests/launcher/parallel/deepspeed/test_*.py",
            "tests/launcher/test_train.py",
        ),
    ),
    Room(
        name="checkpoint",
        sources=("launcher/checkpoint/**/*.py", "launcher/files.py"),
        tests=(
            "tests/launcher/checkpoint/test_*.py",
            "tests/launcher/test_files.py",
            "tests/launcher/parallel/test_resume.py",
            "tests/launcher/test_train.py",
        ),
    ),
    Room(
        name="data order",
        sources=("launcher/data/order.py", "launcher/data/batches.py", "launcher/data/dataset.py"),
        tests=(
            "tests/launcher/data/test_order.py",
            "tests/launcher/data/test_batches.py",
            "tests/launcher/test_train.py",
        ),
    ),
    Room(name="cluster", sources=("cluster/**/*.py",), tests=("tests/cluster/test_*.py",)),
)
# The loop around the core: only mutants written by hand.
LOOP = Room(
    name="loop",
    sources=("launcher/*.py", "launcher/track/*.py", "launcher/cli/*.py"),
    tests=(
        "tests/launcher/test_clock.py",
        "tests/launcher/track/test_tracker.py",
        "tests/launcher/track/test_[!m]*.py",
        "tests/launcher/test_train.py",
    ),
)


def room_of(root: Path, path: str) -> Room:
    """The first room that has a file. Raises StopIteration where none has."""
    return next(room for room in (*ROOMS, LOOP) if path in _expand(root, room.sources))


def nearest_tests(root: Path, mutant: Mutant) -> tuple[str, ...]:
    """Test files of a mutant in the order in which they run."""
    source = Path(mutant.path)
    mirror = str("tests" / source.with_name(f"test_{source.name}"))
    globs = (*mutant.tests, mirror, *room_of(root, mutant.path).tests)
    return tuple(dict.fromkeys(_expand(root, globs)))


def drawn_mutants(root: Path, seed: int, count: int) -> list[Mutant]:
    """`count` generated mutants, as many from each room."""
    rooms = []
    for room in ROOMS:
        mutants = [
            mutant
            for path in _expand(root, room.sources)
            for mutant in mutants_of(path, (root / path).read_text())
        ]
        rooms.append(sorted(mutants, key=lambda mutant: mutant.rank(seed)))
    each = -(-count // len(rooms))
    return [mutant for room in rooms for mutant in room[:each]][:count]


def written_mutants(root: Path) -> list[Mutant]:
    """Those written by hand. Raises ValueError where an old text is not there, or is there twice."""
    mutants = []
    for entry in tomllib.loads((HERE / "written.toml").read_text())["mutant"]:
        found = [
            (path, content, content.find(entry["old"].encode()))
            for path in _expand(root, (entry["file"],))
            if entry["old"].encode() in (content := (root / path).read_bytes())
        ]
        if len(found) != 1 or found[0][1].count(entry["old"].encode()) != 1:
            raise ValueError(f"written.toml: {entry['old']!r} is not in {entry['file']} exactly once")
        path, content, start = found[0]
        function = function_at(content.decode(), content.count(b"\n", 0, start) + 1)
        end = start + len(entry["old"].encode())
        tests = tuple(entry.get("tests", ()))
        mutants.append(change(path, content, start, end, entry["new"], function, tests))
    return mutants


def explained_keys() -> dict[str, str]:
    """Why each accepted survivor is accepted, by its key."""
    entries = tomllib.loads((HERE / "explained.toml").read_text()).get("survivor", [])
    return {entry["key"]: entry["reason"] for entry in entries}


def _expand(root: Path, globs: tuple[str, ...]) -> list[str]:
    return [path.relative_to(root).as_posix() for glob in globs for path in sorted(root.glob(glob))]
