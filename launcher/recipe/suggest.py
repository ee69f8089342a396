"""Suggestions for a misspelled word."""

from collections.abc import Iterable
from difflib import SequenceMatcher

GOOD = 0.7
"""Similarity from which a suggestion is more useful than a list of all words."""
TIE = 0.1
"""Words less similar than the best one by up to this much are suggested as well."""


def close_matches(given: str, known: Iterable[str]) -> list[str]:
    """Known words similar to the given one, the most similar first; several only if about equally similar."""
    scored = sorted(((_likeness(given, word), word) for word in known), key=lambda pair: (-pair[0], pair[1]))
    if not scored or scored[0][0] < GOOD:
        return []
    best = scored[0][0]
    if best == 1.0:
        return [scored[0][1]]
    return [word for score, word in scored[:3] if score >= max(GOOD, best - TIE)]


def did_you_mean(words: Iterable[str]) -> str:
    """`did you mean a or b?`, or nothing for no words."""
    found = list(words)
    return f"did you mean {' or '.join(found)}?" if found else ""


def _likeness(given: str, word: str) -> float:
    """1 for the same letters, without case and separators; 0.9 for a part; 0.8 if swapped; else a ratio."""
    # difflib's ratio alone is too strict with short words: warmup for warmup_steps has 0.67 and rl for lr
    # 0.5, both below GOOD. Here they have 0.9 and 0.8, and dModel for d_model has 1.
    given_words, words = _words(given), _words(word)
    if "".join(given_words) == "".join(words):
        return 1.0
    ratio = SequenceMatcher(None, "_".join(given_words), "_".join(words), autojunk=False).ratio()
    part = len(given) > 2 and (word.lower().startswith(given.lower()) or set(given_words) < set(words))
    swapped = sorted(given) == sorted(word)
    return max(ratio, 0.9 if part else 0.8 if swapped else 0.0)


def _words(name: str) -> list[str]:
    return [part for part in name.lower().replace("-", "_").replace(".", "_").split("_") if part]
