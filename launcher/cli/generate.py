"""`launch generate RUN`."""

import argparse
import codecs
import sys
from collections.abc import Sequence
from typing import final

from launcher import files
from launcher.checkpoint.manifest import find_newest
from launcher.cli.arguments import positive
from launcher.data.config import TextSource
from launcher.errors import Problem, UserError
from launcher.recipe.schema import Recipe
from launcher.run_folder import require_run
from models.config import LMConfig


def generate_text(arguments: Sequence[str]) -> int:
    """Continue a prompt with a run's newest good checkpoint, token by token."""
    parser = argparse.ArgumentParser(
        prog="launch generate",
        description="Continue a prompt with the language model of a run's newest good checkpoint, on this "
        "machine alone. State-space layers need the same time and memory for every token; attention keeps "
        "all tokens before.",
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument(
        "--prompt", required=True, help="text; for a model that was not trained on bytes, token ids: '17 4 9'"
    )
    parser.add_argument("--tokens", type=positive, default=200, metavar="N", help="how many; default 200")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0 takes the likeliest; default 1"
    )
    parser.add_argument("--top-k", type=positive, metavar="K", help="draw from the K likeliest only")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws; default 0")
    options = parser.parse_args(arguments)
    if not 0 <= options.temperature < float("inf"):
        given = f"--temperature {options.temperature:g}"
        raise UserError(Problem(given, "is no temperature", "give 0 or more, such as 0.8"))
    run_url = files.absolute(options.run)
    require_run(run_url)
    saved, rejected = find_newest(run_url, verify=True)
    for bad in rejected:
        print(f"launch: passing over {bad.url}: {bad.reason}", file=sys.stderr)
    if saved is None:
        remedy = f"train it: launch resume {files.shortest(run_url)}"
        raise UserError(Problem(files.shortest(run_url), "has no good checkpoint yet", remedy))

    import torch

    from launcher.checkpoint.model import load_model, saved_recipe
    from models.generate import generate
    from models.lm import LM

    recipe = saved_recipe(saved)
    prompt = encode_prompt(options.prompt, recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(saved, device)
    assert isinstance(model, LM), "encode_prompt has refused every other kind"
    continuation = generate(
        model,
        torch.tensor([prompt], device=device),
        options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        generator=torch.Generator(device).manual_seed(options.seed),
    )
    writer = Writer(is_bytes=_speaks_bytes(recipe))
    writer.write(prompt)
    for token_B in continuation:
        writer.write([int(token_B)])
    writer.close()
    return 0


def encode_prompt(prompt: str, recipe: Recipe) -> list[int]:
    """Token ids of a prompt. Raises UserError for what the model of a recipe cannot continue."""
    model = recipe.model
    if not isinstance(model, LMConfig) or model.inputs != "tokens":
        what = f"model.type is {model.type}, model.encoder.type {model.encoder.type}"
        raise UserError(Problem(recipe.name, what, "only a language model over tokens continues a prompt"))
    if _speaks_bytes(recipe):
        tokens = list(prompt.encode())
    else:
        try:
            tokens = [int(word) for word in prompt.replace(",", " ").split()]
        except ValueError:
            message = f"is no list of token ids, which `{recipe.data.source.type}` is made of"
            raise UserError(Problem(f"--prompt {prompt!r}", message, "give ids, such as '17 4 9'")) from None
    unknown = [token for token in tokens if not 0 <= token < model.vocab_size]
    if unknown:
        message = f"has token {unknown[0]}; model.vocab_size is {model.vocab_size}"
        remedy = f"ids are 0 to {model.vocab_size - 1}"
        raise UserError(Problem(f"--prompt {prompt!r}", message, remedy))
    if not tokens:
        raise UserError(Problem("--prompt ''", "is empty", "give at least one token to continue from"))
    return tokens


def _speaks_bytes(recipe: Recipe) -> bool:
    return isinstance(recipe.data.source, TextSource)


@final
class Writer:
    """Prints tokens as they come: bytes as UTF-8 text, with a mark for what is none, others as ids."""

    def __init__(self, *, is_bytes: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace") if is_bytes else None

    def write(self, tokens: Sequence[int]) -> None:
        """Print some tokens. A character of several bytes appears with its last one."""
        if self._decoder is None:
            print(*tokens, end=" ", flush=True)
        else:
            known = bytes(token if token < 256 else ord("?") for token in tokens)
            print(self._decoder.decode(known), end="", flush=True)

    def close(self) -> None:
        """Print what is left, and end the line."""
        print(self._decoder.decode(b"", final=True) if self._decoder else "", flush=True)
