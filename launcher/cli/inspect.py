"""`launch inspect` and `launch verify`: what is stored, without torch."""

import difflib
from collections.abc import Iterator, Mapping, Sequence

from launcher import files
from launcher.checkpoint.catalog import (
    Rejected,
    Saved,
    list_steps,
    open_saved,
    read_checkpoint,
    step_folder,
    verify_digests,
)
from launcher.checkpoint.index import TensorEntry, check_index, read_index
from launcher.cli.arguments import A_RUN
from launcher.cli.parser import Parser
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run
from launcher.run_folder import require_run
from launcher.table import table_lines

SHOWN = 12
"""Most lines of a list of differences."""


def inspect_checkpoint(arguments: Sequence[str]) -> int:
    """Print what a checkpoint holds, and how it differs from another."""
    parser = Parser(
        prog="launch inspect",
        description="What a checkpoint holds: step, data, engine, tensors, base shapes, digests. With a "
        "second one, how they differ.",
    )
    parser.add_argument("checkpoint", help="folder of a checkpoint, or of a run: its newest good one")
    parser.add_argument("other", nargs="?", help="another one, to compare")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    options = parser.parse_args(arguments)
    saved = open_saved(find_run(options.checkpoint))
    tensors = _tensors(saved)
    lines = list(describe(saved, tensors))
    if options.tensors:
        lines += ["", *tensor_lines(tensors)]
    if options.other is not None:
        other = open_saved(find_run(options.other))
        lines += ["", f"{files.shortest(saved.url)} -> {files.shortest(other.url)}"]
        lines += list(differences(saved, tensors, other, _tensors(other))) or ["no difference"]
    print("\n".join(lines))
    return 0


def verify_run(arguments: Sequence[str]) -> int:
    """Read every checkpoint of a run and compare all digests; 1 where one is damaged."""
    parser = Parser(
        prog="launch verify",
        description="Read every checkpoint of a run and compare the digests of all files. Changes nothing. "
        "The exit code is 1 where one is damaged.",
    )
    parser.add_argument("run", help=A_RUN)
    run_url = find_run(parser.parse_args(arguments).run)
    require_run(run_url)
    steps, damaged = list_steps(run_url), 0
    for step in steps:
        found = read_checkpoint(step_folder(run_url, step))
        bad = (verify_digests(found) or check_index(found)) if isinstance(found, Saved) else found
        size = sum(entry.bytes for entry in found.manifest.files.values()) if isinstance(found, Saved) else 0
        damaged += bad is not None and bad.damaged
        print(f"step {step}: {_verdict(bad, size)}", flush=True)
    print(f"{len(steps)} checkpoints, {damaged} damaged" if steps else "no checkpoint yet")
    return 1 if damaged else 0


def _verdict(bad: Rejected | None, size: int) -> str:
    if bad is None:
        return f"good, {size:,} bytes"
    return f"{'damaged' if bad.damaged else 'unfinished'}: {bad.reason}"


def _tensors(saved: Saved) -> Mapping[str, TensorEntry]:
    try:
        return read_index(saved.url)
    except ValueError as error:
        raise UserError(Problem(files.shortest(saved.url), str(error), "take another checkpoint")) from None


def describe(saved: Saved, tensors: Mapping[str, TensorEntry]) -> Iterator[str]:
    """A line for each thing there is to know."""
    manifest, data = saved.manifest, saved.manifest.data
    sizes: dict[str, list[int]] = {}
    for name, entry in tensors.items():
        sizes.setdefault(name.partition("/")[0], []).append(entry.bytes)
    stage = "" if manifest.zero_stage is None else f" stage {manifest.zero_stage}"
    how = manifest.engine + (f" {manifest.strategy}" if manifest.strategy else "") + stage
    back = f", after {manifest.rollbacks} rollbacks" if manifest.rollbacks else ""
    total = manifest.schedule.total_steps
    rows = [
        ("checkpoint", files.shortest(saved.url)),
        ("step", f"{manifest.step:,} of {total:,}, {manifest.tokens:,} tokens{back}"),
        ("next data", f"global batch {manifest.data_step:,} of {data.global_batch_size} x {data.seq_len}"),
        ("data", _data(saved)),
        ("written by", f"{manifest.written_by}, attempt {manifest.attempt}"),
        ("engine", f"{how} on {manifest.world_size} ranks"),
        ("base shapes", manifest.base_shapes_hash),
    ]
    if (source := manifest.lineage) is not None:
        rows.append(("forked from", f"{source.url}, {source.tokens:,} tokens, {source.manifest_sha256[:16]}"))
    for kind, found in sorted(sizes.items(), key=lambda item: -sum(item[1])):
        rows.append((f"{kind}/", f"{len(found)} tensors, {sum(found):,} bytes"))
    for name, file in manifest.files.items():
        rows.append((name, f"{file.bytes:,} bytes, sha256 {file.sha256[:16]}"))
    yield from table_lines(rows)


def tensor_lines(tensors: Mapping[str, TensorEntry]) -> list[str]:
    """Name and what it is, of each."""
    return table_lines([(name, _shape(entry)) for name, entry in tensors.items()])


def differences(
    first: Saved, tensors: Mapping[str, TensorEntry], second: Saved, others: Mapping[str, TensorEntry]
) -> Iterator[str]:
    """What is not the same in two checkpoints."""
    a, b = first.manifest, second.manifest
    for key in _COMPARED:
        if getattr(a, key) != getattr(b, key):
            yield f"{key}: {getattr(a, key)} -> {getattr(b, key)}"
    if a.data != b.data:
        yield f"data: {_data(first)} -> {_data(second)}"
    both = a.parameters.keys() & b.parameters.keys()
    scaled = sorted(name for name in both if a.parameters[name] != b.parameters[name])
    if scaled:
        yield f"multipliers of {len(scaled)} parameters, such as {scaled[0]}"
    yield from _first(
        [
            f"{name}: {_shape(tensors.get(name))} -> {_shape(others.get(name))}"
            for name in sorted(tensors.keys() | others.keys())
            if tensors.get(name) != others.get(name)
        ]
    )
    changed = difflib.unified_diff(a.recipe.splitlines(), b.recipe.splitlines(), n=0, lineterm="")
    yield from _first(
        [line for line in changed if line[:1] in ("+", "-") and line.strip() not in ("---", "+++")]
    )


_COMPARED = (
    *("step", "tokens", "data_step", "written_by", "engine", "strategy", "zero_stage", "world_size"),
    "base_shapes_hash",
)


def _data(saved: Saved) -> str:
    return f"{saved.manifest.data.fingerprint[:16]}, seed {saved.manifest.data.seed}"


def _shape(entry: TensorEntry | None) -> str:
    return "nothing" if entry is None else f"{entry.kind} {' x '.join(map(str, entry.shape)) or '()'}"


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"and {more} more"]
