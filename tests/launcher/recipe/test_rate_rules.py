"""Rules on schedules and parametrisation: each names the place, both values and the remedy."""

import pytest

from tests.launcher.recipe.small import problems


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("schedule={type: wsd, warmup_steps: 60, decay_steps: 50}",),
            "schedule.decay_steps = 50 and schedule.warmup_steps = 60",
        ),
        (("schedule={type: sine_restarts, period: 1}",), "schedule.period is 1, must be a whole number >= 2"),
        (
            ("schedule={type: sine_restarts, period: 300}",),
            "schedule.period = 300 does not reach its middle, the peak, before train.steps = 100",
        ),
        (("schedule={type: plateau}",), "but train.validate_every is null\n    add train.validate_every"),
        (
            ("schedule={type: plateau}", "train.validate_every=10", "train.validation_sequences=0"),
            "but train.validation_sequences = 0",
        ),
        (
            ("schedule={type: plateau}", "train.validate_every=10", "data.validation_fraction=0"),
            "keep some files for validation",
        ),
        (
            (
                "model.pattern=[attention]",
                "model.attention={num_heads: 2, d_head: null, scale: sqrt}",
            ),
            "use scale mup, or a fixed d_head",
        ),
        (
            ("model.pattern=[ssd]", "model.ssd.d_head=16", "mup.base_width=8"),
            "mup.base_width = 8 (override 'mup.base_width=8') x ssd.expand 2 is no multiple of a group "
            "of model.ssd.heads_per_group = 4 (default) heads of 16\n    use a multiple of 32, or smaller",
        ),
        (
            ("mup={type: umup}",),
            "knows no constants for layers of s4d\n    use attention and ffn, or mup.type=mup",
        ),
        (
            (
                "mup={type: umup}",
                "model.pattern=[attention]",
                "model.attention={d_head: 8}",
                "model.dropout=0.1",
            ),
            "use 0.0, or mup.type=mup",
        ),
        (
            (
                "mup={type: umup}",
                "model.pattern=[attention]",
                "model.attention={d_head: 8}",
                "optim={type: muon, lr: 1, others: {lr: 1}}",
            ),
            "has no rates for optim.type = muon",
        ),
        (
            ("mup={type: umup, base_width: 8}", "model.pattern=[ffn]"),
            "mup.base_width = 8",
        ),
    ],
)
def test_a_broken_rule_is_told_once_with_its_remedy(overrides: tuple[str, ...], words: str) -> None:
    (problem,) = problems(*overrides)
    assert words in problem


@pytest.mark.parametrize(
    "overrides",
    [
        ("schedule={type: wsd, warmup_steps: 10, decay_steps: 90}",),
        ("schedule={type: sine_restarts, period: 2}",),
        ("schedule={type: plateau}", "train.validate_every=10"),
        ("model.pattern=[attention]", "model.attention={num_heads: 2, d_head: null}"),
        ("model.pattern=[attention]", "model.attention={d_head: 8, scale: sqrt}"),
        (
            "model.pattern=[attention]",
            "model.attention={num_heads: 2, d_head: null, scale: sqrt}",
            "mup={type: sp}",
        ),
    ],
)
def test_what_fits_is_let_through(overrides: tuple[str, ...]) -> None:
    assert problems(*overrides) == []
