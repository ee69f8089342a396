"""`launch generate RUN`."""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import files
from launcher.checkpoint.catalog import Saved, find_newest, open_verified
from launcher.checkpoint.manifest import MANIFEST
from launcher.cli.arguments import A_RUN, positive
from launcher.cli.parser import Parser
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json
from launcher.named_runs import find_run
from launcher.recipe.compile import read_frozen
from launcher.run_folder import RECIPE, is_run, require_run

if TYPE_CHECKING:
    import torch

    from launcher.data.tokenizer import Tokenizer
    from models.lm import LM


def generate_text(arguments: Sequence[str]) -> int:
    """Continue a prompt with a run's newest good checkpoint, token by token."""
    options = _make_parser().parse_args(arguments)
    if not 0 <= options.temperature < float("inf"):
        place = f"--temperature {options.temperature:g}"
        raise UserError(Problem(place, "is not a temperature", "give 0 or more, such as 0.8"))
    url = find_run(options.run)
    saved = _find_saved(url, options.step)
    recipe = (files.read_text(files.join(url, RECIPE)), files.join(url, RECIPE)) if is_run(url) else None

    import torch

    from launcher.checkpoint.restore import load_model
    from launcher.data.tokenizer import open_tokenizer
    from models.lm import LM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = _read_prompt(options.prompt)
    with read_frozen(*recipe or (saved.manifest.recipe, saved.url)).locating():
        tokenizer = open_tokenizer(saved)
        prompt = tokenizer.encode(given)  # refuses what cannot be continued, before the model is loaded
        model = load_model(saved, device)
    assert isinstance(model, LM), "open_tokenizer refuses every other kind"
    generator = torch.Generator(device).manual_seed(options.seed)
    texts = []
    for number in range(options.n):
        if number:
            tokenizer = open_tokenizer(saved)  # one for each text: it waits for the rest of a character
        # Also where it is not printed: what comes first depends on what the prompt ends with.
        echo = tokenizer.echo(given)
        pieces = _continue(model, tokenizer, prompt, options, generator)
        if options.json:
            texts.append("".join(pieces))
            continue
        if options.n > 1:
            print(f"--- {number + 1} of {options.n} ---")
        print(echo, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
    if options.json:
        print(dump_json({"checkpoint": saved.url, "prompt": given, "continuations": texts}, indent=1))
    return 0


def _make_parser() -> Parser:
    parser = Parser(
        prog="launch generate",
        description="Continue a prompt with the language model of a run's newest good checkpoint, on this "
        "machine alone. State-space layers need the same time and memory for every token; attention keeps "
        "all earlier tokens.",
    )
    parser.add_argument("run", help=f"folder of a checkpoint, or a run: {A_RUN}")
    parser.add_argument("--step", type=positive, metavar="N", help="of this checkpoint; default: the newest")
    parser.add_argument(
        "--prompt",
        required=True,
        metavar="TEXT|@FILE|-",
        help="text, a file's, or standard input; for a model that was not trained on text, ids: '17 4 9'",
    )
    parser.add_argument("-n", type=positive, default=1, metavar="K", help="how many continuations; default 1")
    parser.add_argument("--stop", metavar="TEXT", help="end before this text")
    parser.add_argument("--json", action="store_true", help="print prompt and continuations as JSON")
    parser.add_argument("--tokens", type=positive, default=200, metavar="N", help="how many; default 200")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0 takes the most likely token; default 1"
    )
    parser.add_argument("--top-k", type=positive, metavar="K", help="sample only from the K most likely")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the sampling; default 0")
    return parser


def _find_saved(run_url: str, step: int | None) -> Saved:
    """A checkpoint that was read whole; says which newer ones were passed over. Raises UserError."""
    if step is not None or files.exists(files.join(run_url, MANIFEST)):
        return open_verified(run_url, step)
    require_run(run_url)
    newest, rejected = find_newest(run_url, verify=True)
    for bad in rejected:
        print(f"launch: passing over {bad.url}: {bad.reason}", file=sys.stderr)  # stdout is the text
    if newest is None:
        remedy = f"train it: launch resume {files.shortest(run_url)}"
        raise UserError(Problem(files.shortest(run_url), "has no good checkpoint yet", remedy))
    return newest


def _read_prompt(word: str) -> str:
    """The prompt itself, that of @FILE, or standard input for `-`."""
    if word == "-":
        return sys.stdin.read()
    if not word.startswith("@"):
        return word
    try:
        return Path(word[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(Problem(f"--prompt {word}", f"cannot be read as text: {error}")) from None


def _continue(
    model: "LM",
    tokenizer: "Tokenizer",
    prompt: "torch.Tensor",
    options: argparse.Namespace,
    generator: "torch.Generator",
) -> Iterator[str]:
    """Text as it comes, but for what may be the beginning of the text to stop at."""
    from models.generation import generate

    device = generator.device
    tokens = generate(
        model,
        prompt[None].to(device),
        options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        generator=generator,
        suppressed_V=None if tokenizer.suppressed is None else tokenizer.suppressed.to(device),
        chars_VW=None if tokenizer.chars is None else tokenizer.chars.to(device),
    )
    held, most = "", len(options.stop or "x") - 1
    for piece in itertools.chain((tokenizer.decode(int(token_B)) for token_B in tokens), [None]):
        held += tokenizer.finish() if piece is None else piece
        if options.stop and options.stop in held:
            yield held[: held.index(options.stop)]
            return
        ready = len(held) if piece is None else max(0, len(held) - most)
        yield held[:ready]
        held = held[ready:]
