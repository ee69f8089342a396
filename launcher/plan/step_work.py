"""What one step works on, against which its time is measured. Torch-free."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

from launcher.plan.plan import Plan
from launcher.recipe.schema import Recipe

Product = Literal["bf16", "tf32", "fp32"]

_PEAKS: Final[Mapping[str, Mapping[Product, float]]] = {
    r"B200": {"bf16": 2250, "tf32": 1125, "fp32": 75},
    r"H200|GH200": {"bf16": 989, "tf32": 494, "fp32": 67},
    r"H100 PCIe": {"bf16": 756, "tf32": 378, "fp32": 51},
    r"H100 NVL": {"bf16": 835, "tf32": 417, "fp32": 60},
    r"H100": {"bf16": 989, "tf32": 494, "fp32": 67},
    r"A100": {"bf16": 312, "tf32": 156, "fp32": 19.5},
    r"L40S": {"bf16": 362, "tf32": 183, "fp32": 91.6},
    r"L4": {"bf16": 121, "tf32": 60, "fp32": 30.3},
    r"A10": {"bf16": 125, "tf32": 62.5, "fp32": 31.2},
    r"MI300X": {"bf16": 1307, "tf32": 653.7, "fp32": 163.4},
}
"""Dense products a second in 1e12, from the makers' data sheets (where those give numbers "with sparsity",
half of them), by words of the name that a driver gives. The first that is found counts."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """Of one step."""

    tokens: int
    """Over all ranks."""
    sizes: Mapping[str, int]
    """Numbers in each whole parameter."""
    flops: float
    """Of one rank: those of the model and of its kernels. What recomputation repeats is not counted."""
    peak_flops: float | None
    """That one rank's device can do a second; None where nobody has said: a guess would look like a fact."""


def step_work(recipe: Recipe, plan: Plan, device: str) -> StepWork:
    """`device` is the name that its driver gives. Figures in the recipe win over ours."""
    batch, hardware = plan.batch, recipe.cluster.hardware
    own = plan.flops_per_token * batch.tokens_per_step / batch.world_size + plan.kernel_flops
    tflops = find_tflops(device, product_of(recipe)) if hardware is None else hardware.tflops
    return StepWork(
        tokens=batch.tokens_per_step,
        sizes={name: math.prod(shape) for name, shape in plan.parameters.shapes.items()},
        flops=own,
        peak_flops=None if tflops is None else tflops * 1e12,
    )


def product_of(recipe: Recipe) -> Product:
    """The format in which matrices are multiplied."""
    if recipe.parallel.precision == "bf16":
        return "bf16"
    return "tf32" if recipe.parallel.tf32 else "fp32"


def find_tflops(device: str, product: Product) -> float | None:
    """Peak of a device; None for one that is not in the table."""
    found = (peaks for words, peaks in _PEAKS.items() if re.search(rf"\b({words})\b", device))
    return next((peaks[product] for peaks in found), None)
