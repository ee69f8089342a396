"""`launch data build`, `train-tokenizer`, `inspect`, `show` and `verify`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher import files
from launcher.cli.arguments import A_RUN, positive
from launcher.cli.parser import Parser
from launcher.errors import Problem, UserError
from launcher.recipe.counts import as_bytes
from launcher.recipe.suggest import close_matches, did_you_mean

_SOURCE = "file, folder, glob or fsspec URL of text, jsonl or parquet; or python-stdlib"


_HELP = """\
usage: launch data VERB ...

From a corpus to a data set that recipes read.

  build            tokenize a corpus; the same command continues after a stop
  train-tokenizer  a byte-level BPE tokenizer of a corpus
  inspect          what a data set or a file of tokens holds
  show             the samples that a step of a run was trained on, as text
  verify           read a data set whole and compare every digest

`launch data VERB --help` says more.
"""


def data_verb(arguments: Sequence[str]) -> int:
    """Choose what is done."""
    verbs = {
        "build": (_add_build, _build),
        "train-tokenizer": (_add_train, _train),
        "inspect": (_add_inspect, _inspect),
        "show": (_add_show, _show),
        "verify": (_add_verify, _verify),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in verbs:
        remedy = did_you_mean(close_matches(verb, verbs)) or f"verbs are {', '.join(verbs)}"
        raise UserError(Problem(f"launch data {verb}", "is not a verb", remedy))
    add, run = verbs[verb]
    parser = Parser(prog=f"launch data {verb}")
    add(parser)
    return run(parser.parse_args(rest))


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = "What a data set or a file of tokens holds, and its first documents."
    parser.add_argument("place", help="folder of a data set, or a .bin file")
    parser.add_argument("--documents", type=int, default=2, metavar="N", help="show the first N; default 2")


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The samples that a step of a run was trained on, as text: what was in the batch at which the loss "
        "jumped. Rollbacks, which pass over data, are taken into account."
    )
    parser.add_argument("run", help=A_RUN)
    parser.add_argument("--step", type=positive, required=True, metavar="N", help="step of the run, from 1")
    parser.add_argument(
        "--sample", type=int, metavar="I", help="only this one, by its number in the data, whole"
    )
    parser.add_argument("--characters", type=positive, default=300, metavar="K", help="of each; default 300")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read a data set whole and compare every digest."
    parser.add_argument("place", help="folder of a data set")


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tokenize a corpus into a data set. The same command continues after a stop or a kill."
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCE)
    parser.add_argument("-o", dest="out", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--tokenizer", required=True, metavar="FILE", help="a tokenizer.json, or bytes for the bytes of UTF-8"
    )
    parser.add_argument("--field", metavar="NAME", help="of the text; default: text, else content")
    parser.add_argument("--format", choices=("text", "jsonl", "parquet"), help="default: by the file's name")
    parser.add_argument(
        "--validation",
        type=_share,
        default=0.005,
        metavar="SHARE",
        help="of the documents, chosen by a hash of their text; default 0.005",
    )
    parser.add_argument(
        "--dedup", choices=("none", "exact"), default="none", help="drop texts that are there already"
    )
    parser.add_argument(
        "--end-of-text", metavar="TOKEN", help="the special token after each document; default: found"
    )
    parser.add_argument(
        "--max-document", type=_size, default=64 << 20, metavar="SIZE", help="leave longer ones out; 64MiB"
    )
    parser.add_argument(
        "--max-bad", type=_share, default=0.001, metavar="SHARE", help="refuse above; default 0.001 of rows"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="processes; default: one for each core")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train a byte-level BPE tokenizer on a corpus."
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCE)
    parser.add_argument("-o", dest="out", required=True, metavar="FILE", help="tokenizer.json to write")
    parser.add_argument("--vocab-size", type=positive, default=32_768, metavar="N", help="default 32768")
    parser.add_argument("--field", metavar="NAME", help="of the text; default: text, else content")
    parser.add_argument("--format", choices=("text", "jsonl", "parquet"), help="default: by the file's name")
    parser.add_argument(
        "--sample", type=_size, default=1 << 30, metavar="SIZE", help="text to learn from; default 1GiB"
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; write a share from 0 to below 1, such as 0.01")
    return share


def _size(text: str) -> int:
    size = as_bytes(text)
    if not size:
        raise argparse.ArgumentTypeError(f"got {text!r}; write a size, such as 64MiB")
    return size


def _say(line: str) -> None:
    print(f"data: {line}", file=sys.stderr, flush=True)


def _build(options: argparse.Namespace) -> int:
    from launcher.corpus.build import Request, build
    from launcher.corpus.describe import describe_lines

    request = Request(
        sources=tuple(options.sources),
        out=_local(options.out),
        tokenizer=options.tokenizer,
        end_of_text=options.end_of_text,
        format=options.format,
        field=options.field,
        validation_fraction=options.validation,
        dedup=options.dedup == "exact",
        max_document_bytes=options.max_document,
        max_bad=options.max_bad,
        workers=options.workers or len(os.sched_getaffinity(0)),
        limit_threads=_limit_threads,
    )
    done = build(request, _say)
    print("\n".join(describe_lines(done)))
    if options.validation and not done.splits["validation"].documents:
        print(
            f"no document was chosen for validation: --validation above {options.validation:g} chooses more"
        )
    print(f"next: data.source={{type: dataset, path: {options.out}}} in a recipe, and")
    print(f"      model.vocab_size of at least {done.tokenizer.vocab_size}")
    return 0


def _limit_threads(count: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(count)


def _local(place: str) -> Path:
    path = files.local_path(place)
    if path is None:
        remedy = "build on a disk, then copy the folder; recipes read it from any URL"
        raise UserError(Problem(f"-o {place}", "is not a local folder", remedy))
    if path.exists() and not path.is_dir():
        raise UserError(Problem(f"-o {place}", "is a file", "choose a folder"))
    return path


def _train(options: argparse.Namespace) -> int:
    from launcher.corpus.train_tokenizer import train_tokenizer

    if options.vocab_size < 257:
        place = f"--vocab-size {options.vocab_size}"
        raise UserError(Problem(place, "is too few: 256 bytes and one that ends a text", "give 257 or more"))
    _local(str(Path(options.out).parent))
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    size = train_tokenizer(
        options.sources, options.out, options.vocab_size, options.format, options.field, options.sample, _say
    )
    print(f"{options.out}: {size:,} tokens")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from launcher.corpus.describe import inspect_lines

    print("\n".join(inspect_lines(options.place, options.documents)))
    return 0


def _show(options: argparse.Namespace) -> int:
    from launcher.cli.data_show import show_batch

    return show_batch(options)


def _verify(options: argparse.Namespace) -> int:
    from launcher.corpus.describe import verify_lines

    for line in verify_lines(options.place):
        print(line, flush=True)
    return 0
