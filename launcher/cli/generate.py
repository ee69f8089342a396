"""`launch generate RUN`."""

import sys
from collections.abc import Sequence

from launcher import files
from launcher.checkpoint.catalog import find_newest
from launcher.cli.arguments import A_RUN, positive
from launcher.cli.parser import Parser
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run
from launcher.recipe.compile import read_frozen
from launcher.run_folder import RECIPE, require_run


def generate_text(arguments: Sequence[str]) -> int:
    """Continue a prompt with a run's newest good checkpoint, token by token."""
    parser = Parser(
        prog="launch generate",
        description="Continue a prompt with the language model of a run's newest good checkpoint, on this "
        "machine alone. State-space layers need the same time and memory for every token; attention keeps "
        "all earlier tokens.",
    )
    parser.add_argument("run", help=A_RUN)
    parser.add_argument(
        "--prompt", required=True, help="text; for a model that was not trained on text, token ids: '17 4 9'"
    )
    parser.add_argument("--tokens", type=positive, default=200, metavar="N", help="how many; default 200")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0 takes the most likely token; default 1"
    )
    parser.add_argument("--top-k", type=positive, metavar="K", help="sample only from the K most likely")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the sampling; default 0")
    options = parser.parse_args(arguments)
    if not 0 <= options.temperature < float("inf"):
        place = f"--temperature {options.temperature:g}"
        raise UserError(Problem(place, "is not a temperature", "give 0 or more, such as 0.8"))
    run_url = find_run(options.run)
    require_run(run_url)
    saved, rejected = find_newest(run_url, verify=True)
    for bad in rejected:
        print(f"launch: passing over {bad.url}: {bad.reason}", file=sys.stderr)  # stdout is the text
    if saved is None:
        remedy = f"train it: launch resume {files.shortest(run_url)}"
        raise UserError(Problem(files.shortest(run_url), "has no good checkpoint yet", remedy))

    import torch

    from launcher.checkpoint.restore import load_model
    from launcher.data.tokenizer import open_tokenizer
    from models.generation import generate
    from models.lm import LM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe_url = files.join(run_url, RECIPE)
    with read_frozen(files.read_text(recipe_url), recipe_url).locating():
        tokenizer = open_tokenizer(saved)
        prompt = tokenizer.encode(options.prompt)
        model = load_model(saved, device)
    assert isinstance(model, LM), "open_tokenizer refuses every other kind"
    continuation = generate(
        model,
        prompt[None].to(device),
        options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        generator=torch.Generator(device).manual_seed(options.seed),
        suppressed_V=None if tokenizer.suppressed is None else tokenizer.suppressed.to(device),
        chars_VW=None if tokenizer.chars is None else tokenizer.chars.to(device),
    )
    print(tokenizer.echo(options.prompt), end="", flush=True)
    for token_B in continuation:
        print(tokenizer.decode(int(token_B)), end="", flush=True)
    print(tokenizer.finish(), flush=True)
    return 0
