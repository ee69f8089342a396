"""`launch data build`: units made side by side, each once, and the data set published when all are there."""

import contextlib
import fcntl
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from launcher import files
from launcher.corpus.build_progress import BuildProgress
from launcher.corpus.raw_files import Format, RawFile, Unit, cut_units, find_raw_files, part_id
from launcher.corpus.row_readers import choose_field
from launcher.corpus.unit import Options, Part, Task, hash_documents, make_part
from launcher.data.text_tokenizer import TextTokenizer, open_text_tokenizer
from launcher.data.token_set import (
    DATASET,
    FORMAT,
    SOURCES,
    SPLITS,
    TOKEN_BYTES,
    TOKENIZER,
    Rows,
    Split,
    TokenizerEntry,
    TokenSet,
    read_token_set,
    width_for,
)
from launcher.errors import Problem, UserError
from launcher.processes import Failure, forkserver, run_each

REQUEST, _LOCK = "build.json", ".lock"
_PARTS = "parts"
_EARLY_ROWS = 10_000
"""From so many rows on, a share of bad ones that is too high ends a build before all are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a build was asked for."""

    sources: tuple[str, ...]
    out: Path
    tokenizer: str
    end_of_text: str | None = None
    format: Format | None = None
    field: str | None = None
    validation_fraction: float = 0.005
    dedup: bool = False
    max_document_bytes: int = 64 << 20
    max_bad: float = 0.001
    """Share of bad rows above which a build is refused."""
    workers: int
    limit_threads: Callable[[int], None] = lambda count: None
    """Sets the library's threads in each process: more than one where parts are fewer than cores."""


def build(request: Request, say: Callable[[str], None]) -> TokenSet:
    """Make a data set, or continue one. Raises UserError where it cannot be made, after all that can be."""
    tokenizer = open_text_tokenizer(request.tokenizer, request.end_of_text)
    found = find_raw_files(request.sources, request.format)
    options = Options(
        tokenizer=request.tokenizer,
        end_of_text=request.end_of_text,
        field=choose_field(found, request.field),
        validation_fraction=request.validation_fraction,
        max_document_bytes=request.max_document_bytes,
        dtype=width_for(tokenizer.vocab_size),
    )
    asked = _describe(request, options, tokenizer)
    request.out.mkdir(parents=True, exist_ok=True)
    with _alone(request.out):
        done = _finished(request.out, asked, found)
        if done is not None:
            say(f"{request.out}: is built already")
            _remove_left(request.out, done)  # by a kill between the last two lines of the build
            return done
        _start(request.out, asked)
        units = cut_units(found)
        size = sum(file.bytes for file in found)
        workers = max(1, min(request.workers, len(units)))
        request.limit_threads(max(1, request.workers // workers))
        say(f"{size / 1e9:.3g} GB in {len(found):,} file(s), {len(units):,} part(s), {workers} process(es)")
        dropped = _find_duplicates(units, options, request, say) if request.dedup else [b""] * len(units)
        parts = _make_parts(units, dropped, options, asked, request, say)
        return _publish(request, asked, found, tokenizer, options.dtype, parts)


def _describe(request: Request, options: Options, tokenizer: TextTokenizer) -> dict[str, Any]:
    """What two builds must share to give the same shards for the same files."""
    kept = asdict(options)
    kept.pop("tokenizer")
    kept["end_of_text"] = tokenizer.end_of_text
    return kept | {"tokenizer": tokenizer.sha256 or "bytes", "dedup": "exact" if request.dedup else "none"}


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raise UserError while another process builds in the folder."""
    with open(out / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = "another process is building in this folder"
            raise UserError(Problem(str(out), message, "wait for it, or choose another -o")) from None
        yield
    # Not removed: a process that waited for this file would hold one that nobody else can find.


def _finished(out: Path, asked: dict[str, Any], found: Sequence[RawFile]) -> TokenSet | None:
    """The data set that is there, if it is the one asked for. Raises UserError for another one."""
    if not (out / DATASET).exists():
        if foreign := [path.name for path in out.iterdir() if not _is_ours(path.name)]:
            message = f"is not empty and is not a data set: it holds {', '.join(sorted(foreign)[:5])}"
            raise UserError(Problem(f"-o {out}", message, "choose another folder"))
        return None
    done = read_token_set(str(out))
    lines = _differences(done.options, asked)
    if json.loads((out / SOURCES).read_text()) != _list_sources(found):
        lines.append("the sources: other files")
    if lines:
        message = "holds a data set that was built otherwise:\n    " + "\n    ".join(lines)
        raise UserError(Problem(f"-o {out}", message, "choose another folder"))
    return done


_CUT_OFF = re.compile(r"\.partial-.*|\..*\.[0-9a-f]{32}")
"""Files that a process was writing when it was killed."""
_SHARD = re.compile(rf"({'|'.join(SPLITS)})-[0-9a-f]{{16}}\.(bin|idx)")
_OURS = (REQUEST, _LOCK, _PARTS, SOURCES, TOKENIZER, TOKEN_BYTES)


def _is_ours(name: str) -> bool:
    return name in _OURS or bool(_SHARD.fullmatch(name) or _CUT_OFF.fullmatch(name))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = sorted({*before, *now})
    return [
        f"{key}: {before.get(key)} there, {now.get(key)} asked for"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _start(out: Path, asked: dict[str, Any]) -> None:
    """Record what is built here. Raises UserError where an unfinished build was asked for something else."""
    before = files.read_record(str(out / REQUEST))
    if before and (lines := _differences(before, asked)):
        message = "holds an unfinished build of something else:\n    " + "\n    ".join(lines)
        raise UserError(Problem(f"-o {out}", message, f"choose another folder, or remove {out}"))
    files.write_text(str(out / REQUEST), json.dumps(asked, indent=1, sort_keys=True) + "\n")
    (out / _PARTS).mkdir(exist_ok=True)
    for left in (*out.iterdir(), *(out / _PARTS).iterdir()):
        if _CUT_OFF.fullmatch(left.name):
            left.unlink()


def _find_duplicates(
    units: Sequence[Unit], options: Options, request: Request, say: Callable[[str], None]
) -> list[bytes]:
    """Numbers of the documents of each unit that an earlier one equals; about 50 bytes of memory each."""
    say("looking for duplicates")
    progress = BuildProgress(sum(unit.bytes for unit in units), len(units), say)
    tasks = [Task(unit=unit, id=str(at), out=request.out, options=options) for at, unit in enumerate(units)]
    keys: list[bytes] = [b""] * len(units)
    for task, answer in _run(hash_documents, tasks, request.workers):
        keys[int(task.id)] = answer
        progress.add(task.unit.bytes, 0)
    high_low = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)
    # Stable, so that of equal ones the earliest comes first and stays.
    order = np.lexsort((high_low[:, 1], high_low[:, 0]))
    ordered = high_low[order]
    again = np.zeros(len(order), dtype=bool)
    again[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    ends = np.cumsum([len(one) // 16 for one in keys])
    return [np.flatnonzero(one).astype(np.int64).tobytes() for one in np.split(again, ends[:-1])]


def _make_parts(
    units: Sequence[Unit],
    dropped: Sequence[bytes],
    options: Options,
    asked: dict[str, Any],
    request: Request,
    say: Callable[[str], None],
) -> list[Part]:
    out = request.out
    identity = json.dumps(asked, sort_keys=True)
    ids = [part_id(unit, identity, drop) for unit, drop in zip(units, dropped, strict=True)]
    parts = {id: part for id, unit in zip(ids, units, strict=True) if (part := _read_part(out, id, unit))}
    tasks = [
        Task(unit=unit, id=id, out=out, options=options, dropped=drop)
        for unit, id, drop in zip(units, ids, dropped, strict=True)
        if id not in parts
    ]
    if parts and tasks:
        say(f"{len(parts):,} of {len(units):,} parts are there already")
    tasks.sort(key=lambda task: -task.unit.bytes)  # the last ones are short, and all processes end together
    progress = BuildProgress(sum(task.unit.bytes for task in tasks), len(tasks), say)
    for task, part in _run(make_part, tasks, request.workers):
        files.write_text(str(out / _PARTS / f"{task.id}.json"), part.model_dump_json() + "\n")
        parts[task.id] = part
        progress.add(task.unit.bytes, sum(shard.tokens for shard in part.shards.values()))
        _check_bad(list(parts.values()), request, at_end=False)
    made = [parts[id] for id in ids]
    _check_bad(made, request, at_end=True)
    return made


def _read_part(out: Path, id: str, unit: Unit) -> Part | None:
    """A part that is there whole, of files that have not changed since."""
    try:
        part = Part.model_validate_json((out / _PARTS / f"{id}.json").read_bytes())
    except (OSError, ValidationError):
        return None
    there = all(
        (out / f"{shard.name}.{end}").exists() for shard in part.shards.values() for end in ("bin", "idx")
    )
    return part if there and part.stamps == [piece.file.stamp for piece in unit.pieces] else None


def _run(
    function: Callable[[Task, int], Any], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Any]]:
    """Each task's answer. After all of them, raises UserError for those that met a damaged file."""
    problems = []
    if min(workers, len(tasks)) == 1:  # no process is worth its start
        answers: Iterator[tuple[Task, Any]] = ((task, function(task, 0)) for task in tasks)
    else:
        answers = run_each(function, tasks, jobs=workers, context=forkserver("launcher.corpus.unit"))
    for task, answer in answers:
        if isinstance(answer, Failure):
            raise _as_error(task, answer)
        if isinstance(answer, Problem):
            problems.append(answer)
        else:
            yield task, answer
    if problems:
        raise UserError(*problems)


def _as_error(task: Task, failure: Failure) -> Exception:
    last = failure.reason.strip().splitlines()[-1]
    place = task.unit.pieces[0].file.url
    if "exit code" in last:
        remedy = "if memory ran out, use fewer --workers; what is finished stays"
        return UserError(Problem(place, f"a process that read it was ended: {last}", remedy))
    return RuntimeError(failure.reason)


def _check_bad(parts: Sequence[Part], request: Request, *, at_end: bool) -> None:
    rows = sum(part.rows.read for part in parts)
    bad = sum(part.rows.bad for part in parts)
    if bad <= request.max_bad * rows or (rows < _EARLY_ROWS and not at_end):
        return
    shown = [line for part in parts for line in part.bad_rows][:8]
    message = f"{bad:,} of {rows:,} rows are bad, more than the share of {request.max_bad:g} that is allowed:"
    remedy = "correct the rows, or allow more: --max-bad SHARE"
    raise UserError(Problem(" ".join(request.sources), message + "\n    " + "\n    ".join(shown), remedy))


def _publish(
    request: Request,
    asked: dict[str, Any],
    found: Sequence[RawFile],
    tokenizer: TextTokenizer,
    dtype: Any,
    parts: Sequence[Part],
) -> TokenSet:
    """Write what describes the shards, dataset.json last, and remove what only the build needed."""
    out = request.out
    splits = {
        split: _join([part.shards[split] for part in parts if split in part.shards]) for split in SPLITS
    }
    if not splits["train"].tokens:
        rows = sum(part.rows.read for part in parts)
        message = f"none of {rows:,} rows is a text to train on"
        raise UserError(Problem(" ".join(request.sources), message, "add data, or lower --validation"))
    done = TokenSet(
        format=FORMAT,
        tokenizer=TokenizerEntry(
            type="bytes" if tokenizer.sha256 is None else "file",
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            end_of_text=tokenizer.end_of_text,
            special=tokenizer.special,
        ),
        dtype=dtype,
        options=asked,
        rows=Rows(**{name: sum(getattr(part.rows, name) for part in parts) for name in Rows.model_fields}),
        bad_rows=[line for part in parts for line in part.bad_rows][:100],
        splits=splits,
    )
    if tokenizer.sha256 is not None:
        files.write_bytes(str(out / TOKENIZER), tokenizer.content)
        lengths = tokenizer.token_bytes()
        if lengths is not None:
            files.write_bytes(str(out / TOKEN_BYTES), lengths.astype("<u4").tobytes())
    files.write_text(str(out / SOURCES), json.dumps(_list_sources(found), indent=0) + "\n")
    files.write_text(str(out / DATASET), done.model_dump_json(indent=1) + "\n")
    _remove_left(out, done)
    return done


def _join(shards: Sequence[Any]) -> Split:
    return Split(
        tokens=sum(shard.tokens for shard in shards),
        documents=sum(shard.documents for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
        shards=list(shards),
    )


def _list_sources(found: Sequence[RawFile]) -> list[list[Any]]:
    return [[file.name, file.bytes] for file in found]


def _remove_left(out: Path, done: TokenSet) -> None:
    """Shards of sources that have changed since, and the build's own records."""
    named = {shard.name for split in done.splits.values() for shard in split.shards}
    for path in out.iterdir():
        if _SHARD.fullmatch(path.name) and path.stem not in named:
            path.unlink()
    (out / REQUEST).unlink(missing_ok=True)
    shutil.rmtree(out / _PARTS, ignore_errors=True)
