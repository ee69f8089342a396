"""Recurrent generation: the prompt in one pass, then one token at a time, at a cost that does not grow."""

from collections.abc import Iterator

import torch

from models.lm import LM


@torch.no_grad()
def generate(
    model: LM,
    prompt_BL: torch.Tensor,
    num_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    suppressed_V: torch.Tensor | None = None,
    chars_VW: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """Yield `num_tokens` tokens (B) that continue the prompts; temperature 0 takes the most likely one.

    `suppressed_V` is true for tokens that are never to be generated. A model that reads words by their
    characters, also in the prompt (B, L, W), needs those of every other one.
    """
    if prompt_BL.shape[1] == 0:
        raise ValueError("the prompt has no tokens; at least one is needed to continue from")
    logits_BLV, states = model(prompt_BL, model.initial_states(prompt_BL.shape[0], prompt_BL.device))
    logits_BV, step = logits_BLV[:, -1], model.stepper()
    for index in range(num_tokens):
        if suppressed_V is not None:
            logits_BV = logits_BV.masked_fill(suppressed_V, -torch.inf)
        tokens_B = sample(logits_BV, temperature=temperature, top_k=top_k, generator=generator)
        yield tokens_B
        if index + 1 < num_tokens:  # of the last token nobody asks what comes next
            read = tokens_B if chars_VW is None else chars_VW[tokens_B]
            logits_BV, states = step(read, states)


def sample(
    logits_BV: torch.Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw a token (B) from the softmax of logits / temperature, of the `top_k` most likely ones only."""
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature {temperature}, top_k {top_k}: allowed are >= 0, and >= 1 or None")
    if temperature == 0:
        return logits_BV.argmax(-1)
    if top_k is not None and top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    probabilities_BV = torch.softmax(logits_BV / temperature, dim=-1)
    return torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]
