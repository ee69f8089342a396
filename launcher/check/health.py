"""Checks of one small model: initial loss, overfitting one batch, gradients of every layer, states."""

import math
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import nn

from launcher.check.probe import mean_abs
from launcher.check.proxy import ProxyModel, build_proxy, first_batch
from launcher.check.shrink import shrink_recipe
from launcher.data.dataset import Batch
from launcher.recipe.schema import Recipe
from launcher.world import World
from models.auxiliary import is_auxiliary
from models.config import LMConfig
from models.residual import residuals
from models.ssm.ssm_mixer import SSMMixer
from models.ssm.system import Recurrence

INITIAL_LOSS_TOLERANCE = 0.02
OVERFIT_FRACTION, OVERFIT_STEPS = 0.1, 200
"""The loss on one tiny batch must fall below this fraction of the initial loss within this many steps."""
GRADIENT_RATIO = 1e3
"""Largest ratio of the gradient norms of the same parameter in two layers of the stack."""
RADIUS = 1.0 + 1e-5
"""Largest modulus of a state-space layer's eigenvalues: above 1, plus rounding, states explode."""
UNIT_RANGE = (0.5, 2.0)
"""Range of standard deviations that are accepted as 1 under unit scaling."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    name: str
    passed: bool
    value: str
    bound: str
    detail: str = ""


def check_initial_loss(recipe: Recipe, width: int, world: World) -> Finding:
    """The initial loss is that of a uniform guess, ln(number of classes)."""
    # For 256 bytes ln 256 = 5.545. A higher loss means that the initial logits are not near zero, so that the
    # model is confidently wrong and the first steps only undo that; a lower one can mean that targets leak
    # into the inputs.
    proxy = _proxy(recipe, width, world)
    _, loss = proxy.record()
    proxy.close()
    model = recipe.model
    classes = model.vocab_size if isinstance(model, LMConfig) else model.num_classes
    expected = math.log(classes)
    error = loss / expected - 1.0
    return Finding(
        "initial loss",
        abs(error) <= INITIAL_LOSS_TOLERANCE,
        f"{loss:.4f}",
        f"ln {classes} = {expected:.4f} +- {INITIAL_LOSS_TOLERANCE:.0%}",
        "" if abs(error) <= INITIAL_LOSS_TOLERANCE else "the initial logits are too large, or too certain",
    )


def check_overfit(recipe: Recipe, width: int, world: World) -> Finding:
    """Two short sequences can be memorized: a model that fails at this cannot learn."""
    proxy = _proxy(recipe, width, world)
    proxy.batch = _cut(proxy.batch, num_sequences=2, length=32)
    _, first = proxy.record()
    target, loss = OVERFIT_FRACTION * first, first
    for step in range(1, OVERFIT_STEPS + 1):
        proxy.train_step(1.0)
        if step % 10 == 0:
            loss = proxy.engine.evaluate([proxy.batch]).loss
            if not loss > target:
                break
    proxy.close()
    return Finding(
        "overfits one batch",
        loss <= target,
        f"{first:.3f} -> {loss:.3f} in {step} steps",
        f"below {target:.3f} within {OVERFIT_STEPS} steps",
    )


def _cut(batch: Batch, *, num_sequences: int, length: int) -> Batch:
    """Fewer sequences, and shorter ones if every position has its own target."""
    # A classifier's one label belongs to the whole sequence, and a sequence cut from a padded batch may have
    # no target left: those keep their length.
    x, y = batch.x[:num_sequences], batch.y[:num_sequences]
    lengths = None if batch.lengths is None else batch.lengths[:num_sequences]
    if y.ndim == 2 and lengths is None and bool((y[:, :length] >= 0).any()):
        x, y = x[:, :length], y[:, :length]
    return Batch(x, y, lengths)


def check_gradient_flow(recipe: Recipe, width: int, world: World) -> Finding:
    """At full depth every parameter has a finite gradient, of similar size in all layers."""
    shrunk = shrink_recipe(recipe, d_model=width, seed=recipe.seed)
    deep = shrunk.model_copy(
        update={"model": shrunk.model.model_copy(update={"num_layers": recipe.model.num_layers})}
    )
    proxy = build_proxy(deep, first_batch(deep), world)
    norms = proxy.train_step(1.0)
    for _ in range(2):  # a zero readout stops all gradients below it in the first step
        norms = proxy.train_step(1.0)
    proxy.close()
    sizes = dict(zip(norms.names, norms.per_parameter.tolist(), strict=True))
    sizes = {name: size for name, size in sizes.items() if not is_auxiliary(name)}
    bad = [name for name, size in sizes.items() if not (math.isfinite(size) and size > 0.0)]
    ratio, where = _largest_ratio(sizes)
    detail = f"dead or not finite: {', '.join(bad[:5])}" if bad else ""
    if not bad and ratio > GRADIENT_RATIO:
        detail = f"{where} vanishes or explodes along the depth"
    return Finding(
        f"gradients of {recipe.model.num_layers} layers",
        not bad and ratio <= GRADIENT_RATIO,
        f"{len(sizes) - len(bad)} of {len(sizes)} alive; {ratio:.1f}x between layers",
        f"all alive; at most {GRADIENT_RATIO:.0f}x",
        detail,
    )


def _largest_ratio(sizes: dict[str, float]) -> tuple[float, str]:
    """Largest ratio of gradient norms of the same parameter between layers, and which parameter it is."""
    # layers.0.ffn.up.weight and layers.2.ffn.up.weight are one family, `ffn.up.weight`. Different parameters
    # are not compared: a bias and a matrix have gradients of different sizes in any model.
    families: dict[str, list[float]] = {}
    for name, size in sizes.items():
        parts = name.split(".")
        if parts[0] == "layers" and size > 0.0:
            families.setdefault(".".join(parts[2:]), []).append(size)
    ratios = {name: max(found) / min(found) for name, found in families.items()}
    worst = max(ratios, key=lambda name: ratios[name], default="")
    return ratios.get(worst, 1.0), worst


@torch.no_grad()
def check_states(recipe: Recipe, width: int, world: World) -> list[Finding]:
    """State-space layers are stable, and how long they remember; nothing for models without such layers."""
    proxy = _proxy(recipe, width, world)
    proxy.close()
    layers = proxy.model.get_submodule("layers")
    assert isinstance(layers, nn.ModuleList), "every model is a stack of residual layers"
    findings = []
    for index, layer in enumerate(residuals(layers)):
        if isinstance(layer.mixer, SSMMixer):
            moduli = _moduli(layer.mixer)
            radius = float(moduli.max())
            # A mode of modulus m has fallen to 1/e after -1 / ln m steps: 99.5 steps for 0.99.
            memory = -1.0 / moduli.clamp(max=1 - 1e-12).log()
            low, middle, high = (float(torch.quantile(memory, q)) for q in (0.05, 0.5, 0.95))
            findings.append(
                Finding(
                    f"states of layers.{index}.{layer.kind}",
                    radius <= RADIUS,
                    f"spectral radius {radius:.6f}",
                    f"at most {RADIUS:.5f}",
                    f"modes remember {low:.0f} to {high:.0f} steps (5 to 95 %), median {middle:.0f}; "
                    f"sequences have {recipe.data.seq_len}",
                )
            )
    return findings


def _moduli(mixer: SSMMixer) -> torch.Tensor:
    """Moduli of the eigenvalues of every channel's recurrence matrix."""
    return torch.linalg.eigvals(recurrence_matrix(mixer.recurrence())).abs().flatten()


def recurrence_matrix(recurrence: Recurrence) -> torch.Tensor:
    """A of x' = A x + b u per channel (H, N, N), in float64: steps from a unit state are columns."""
    exact = Recurrence(
        **{field.name: getattr(recurrence, field.name).double() for field in fields(recurrence)}
    )
    # The layers have recurrences of several forms (diagonal, diagonal plus low rank), and A is not stored as
    # a matrix. What they share is one step x' = A x + b u. With u = 0 and x the n-th unit vector, it gives
    # column n of A.
    H, N = exact.b.shape
    units_NHN = torch.eye(N, dtype=torch.float64)[:, None].expand(N, H, N)
    _, columns_NHN = exact.step(exact.b.new_zeros(N, H), units_NHN)
    return columns_NHN.permute(1, 2, 0)


def check_unit_variance(recipe: Recipe, width: int, world: World) -> Finding:
    """Under unit scaling, every module's initial output has a standard deviation near one."""
    proxy = _proxy(recipe, width, world)
    recording, _ = proxy.record()
    proxy.close()
    deviations = {name: float(out.std()) for name, out in recording.outputs.items() if mean_abs(out) > 0.0}
    low, high = UNIT_RANGE
    off = {name: std for name, std in deviations.items() if not low <= std <= high}
    return Finding(
        "unit variance",
        not off,
        f"{min(deviations.values()):.2f} to {max(deviations.values()):.2f} over {len(deviations)} outputs",
        f"{low:g} to {high:g}",
        ", ".join(f"{name} {std:.2f}" for name, std in list(off.items())[:5]),
    )


def _proxy(recipe: Recipe, width: int, world: World) -> ProxyModel:
    shrunk = shrink_recipe(recipe, d_model=width, seed=recipe.seed)
    return build_proxy(shrunk, first_batch(shrunk), world)
