"""`launch eval RUN|CHECKPOINT`: loss, perplexity, bits per byte and accuracy on validation data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher import files
from launcher.checkpoint.catalog import open_verified
from launcher.cli.arguments import A_RUN, add_overrides, parse, positive
from launcher.cli.parser import Parser
from launcher.json_text import dump_json
from launcher.named_runs import find_run
from launcher.table import table_lines
from launcher.track.console import perplexity

if TYPE_CHECKING:
    from launcher.parallel.engine import Evaluation


def evaluate_checkpoint(arguments: Sequence[str]) -> int:
    """Print a row for all of the data, and for each part of a mixture."""
    parser = Parser(
        prog="launch eval",
        description="What a checkpoint's model is worth on the validation data of its recipe, or on other "
        "data: data.source=..., data.seq_len=..., train.validation_sequences=N. On this machine alone; "
        "windows are read one by one, without states carried between them.",
    )
    parser.add_argument("run", help=f"folder of a checkpoint, or a run: {A_RUN}")
    add_overrides(parser)
    parser.add_argument("--step", type=positive, metavar="N", help="checkpoint of a run; default: its newest")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parse(parser, arguments)
    saved = open_verified(find_run(options.run), options.step)

    import torch

    from launcher.scoring import Scorer

    scorer = Scorer(saved, options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    found, sequences = scorer.score(options.overrides)
    if options.json:
        numbers = {"checkpoint": saved.url, "step": saved.manifest.step, "sequences": sequences}
        print(dump_json(numbers | _fields(found), indent=1))
        return 0
    print(f"checkpoint  {files.shortest(saved.url)}, {sequences} sequences\n")
    print("\n".join(table_lines(_rows(found), right_align=True)))
    return 0


def _fields(found: "Evaluation") -> dict[str, object]:
    fields: dict[str, object] = {"loss": found.loss, "perplexity": perplexity(found.loss)}
    fields |= {"accuracy": found.accuracy, "bits_per_byte": found.bits_per_byte}
    if found.loss_by_part is not None:
        fields |= {"loss_by_part": found.loss_by_part, "bits_per_byte_by_part": found.bits_per_byte_by_part}
    return fields


def _rows(found: "Evaluation") -> list[list[str]]:
    rows = [["", "loss", "perplexity", "accuracy", "bits/byte"]]
    rows.append(_row("all", found.loss, found.accuracy, found.bits_per_byte))
    for name, loss in (found.loss_by_part or {}).items():
        rows.append(_row(name, loss, None, (found.bits_per_byte_by_part or {}).get(name)))
    return rows


def _row(name: str, loss: float, accuracy: float | None, bits: float | None) -> list[str]:
    shown = ["" if accuracy is None else f"{accuracy:.4f}", "" if bits is None else f"{bits:.4f}"]
    return [name, f"{loss:.4f}", f"{perplexity(loss):.4g}", *shown]
