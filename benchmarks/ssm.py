"""State-space layers beside straightforward ones: time and memory of forward + backward; kernel accuracy.

    python benchmarks/ssm.py [--quick]

One thread, processor time (the wall clock of a shared machine says little), least of several runs, both sides
in one process. A layer is the state space, GELU, output matrix and GLU; batch 4, N = 64. Memory is the growth
of the peak resident set over one call, in a process of its own. The straightforward layers are below.
"""

import argparse
import copy
import math
import multiprocessing
import time
from collections.abc import Callable

import torch
from torch import nn

from models.config import BackboneSection
from models.facts import Multipliers, match_facts
from models.layer_table import LAYERS

BATCH, STATE = 4, 64
SIZES = [(256, 1024), (512, 1024), (256, 4096), (512, 4096)]


class Vandermonde(nn.Module):
    """S4D as its paper's listing 1 (arXiv 2206.11893): exp(dt A l) for every channel, mode and position."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.ssm, self.output = copy.deepcopy(layer.ssm), copy.deepcopy(layer.output)

    def forward(self, x_BLH: torch.Tensor) -> torch.Tensor:
        ssm, L = self.ssm, x_BLH.shape[1]
        dt = ssm.log_dt.exp()[:, None]
        A = torch.complex(-ssm.A_log_real.exp(), ssm.A_imag)
        B, C = torch.view_as_complex(ssm.B), torch.view_as_complex(ssm.C[:, 0])
        powers = torch.exp((dt * A)[..., None] * torch.arange(L))  # (H, N/2, L)
        C = C * B * (torch.exp(dt * A) - 1) / A
        return finish(self, x_BLH, 2 * torch.einsum("hn,hnl->hl", C, powers).real)


class Cauchy(nn.Module):
    """S4 as its paper's algorithm 1 (arXiv 2111.00396): a Cauchy kernel at the roots of unity, materialised.

    `shared` computes the matrix 1 / (z - lambda) once for its four uses; else each has its own, as in the
    public implementation without an extension.
    """

    def __init__(self, layer: nn.Module, *, shared: bool) -> None:
        super().__init__()
        self.ssm, self.output, self.shared = copy.deepcopy(layer.ssm), copy.deepcopy(layer.output), shared

    def forward(self, x_BLH: torch.Tensor) -> torch.Tensor:
        return finish(self, x_BLH, self.kernel(x_BLH.shape[1]))

    def kernel(self, L: int) -> torch.Tensor:
        """k = irfft of the truncated generating function, by Woodbury's identity."""
        ssm = self.ssm
        dt = ssm.log_dt.exp()[:, None]
        A = torch.complex(-ssm.A_log_real.exp(), ssm.A_imag)
        B, P = torch.view_as_complex(ssm.B), torch.view_as_complex(ssm.P)[:, 0]
        C = torch.view_as_complex(ssm.C[:, 0])
        A, B, P, C = (torch.cat((v, v.conj()), -1) for v in (A, B, P, C))
        # C (1 - Abar^L) in the place of C: the sum is cut at L
        state = torch.diag_embed(A) - P[..., None] * P[:, None].conj()
        eye, half = torch.eye(A.shape[-1]), dt[..., None] / 2 * state
        power = torch.linalg.matrix_power(torch.linalg.solve(eye - half, eye + half), L)
        C = C - (C[:, None] @ power)[:, 0]
        omega = torch.exp(-2j * math.pi / L * torch.arange(L // 2 + 1))
        plus = 1 + omega
        plus[L // 2] = 1e-6  # the node at -1, where the bilinear map has its pole
        z = 2 * (1 - omega) / plus
        left, right = torch.stack((C, P.conj())), torch.stack((B, P))
        v = left[:, None] * right * dt
        if self.shared:
            r = torch.einsum("abhn,hnl->abhl", v, 1 / (z - (dt * A)[..., None]))
        else:
            r = (v[..., None] / (z - (dt * A)[..., None])).sum(-2)
        k = r[0, 0] - r[0, 1] * r[1, 0] / (1 + r[1, 1])
        return torch.fft.irfft(k * 2 / plus, n=L)


def finish(layer: nn.Module, x_BLH: torch.Tensor, k_HL: torch.Tensor) -> torch.Tensor:
    """Convolve by plain FFTs, add the skip, and map by GELU, matrix and GLU."""
    u_BHL, L = x_BLH.transpose(1, 2), x_BLH.shape[1]
    spectrum = torch.fft.rfft(u_BHL, n=2 * L) * torch.fft.rfft(k_HL, n=2 * L)
    y_BHL = torch.fft.irfft(spectrum, n=2 * L)[..., :L] + layer.ssm.D * u_BHL
    return nn.functional.glu(layer.output(nn.functional.gelu(y_BHL).transpose(1, 2)), dim=-1)


def build(kind: str, width: int) -> nn.Module:
    """Our layer of that kind with its initial values."""
    config = BackboneSection(type="", d_model=width, num_layers=1)
    layer, generator = LAYERS[kind].build(config, Multipliers()), torch.Generator().manual_seed(0)
    parameters = dict(layer.named_parameters())
    with torch.no_grad():
        for name, fact in match_facts(parameters, LAYERS[kind].facts(config)).items():
            parameters[name].copy_(fact.init(parameters[name].shape, generator))
    return layer


RIVALS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "s4d": ("Vandermonde", Vandermonde),
    "s4": ("Cauchy", lambda layer: Cauchy(layer, shared=False)),
    "s4, one Cauchy matrix": ("Cauchy, shared", lambda layer: Cauchy(layer, shared=True)),
}


def prepare(row: str, width: int, length: int, ours: bool) -> Callable[[], None]:
    """Forward and backward of one side of a row, as a call."""
    layer = build(row.split(",")[0], width)
    if not ours:
        layer = RIVALS[row][1](layer)
    x_BLH = torch.randn(BATCH, length, width, requires_grad=True)
    grad_BLH = torch.randn(BATCH, length, width)

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        x_BLH.grad = None
        layer(x_BLH).backward(grad_BLH)

    return run


def time_ms(run: Callable[[], None], repeats: int) -> float:
    """Least processor time of a call, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def peak_mib(row: str, width: int, length: int, ours: bool) -> float:
    """Growth of the peak resident set by one call, in a new process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_mib, (row, width, length, ours))


def _peak_mib(row: str, width: int, length: int, ours: bool) -> float:
    torch.set_num_threads(1)
    prepare(row, 16, 64, ours)()  # libraries and their buffers
    run = prepare(row, width, length, ours)
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak (man 5 proc)
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))


def check_same(row: str) -> float:
    """Largest difference of the two sides' outputs over the largest output: they must be the same layer."""
    ours = build(row.split(",")[0], 32)
    x_BLH = torch.randn(2, 256, 32)
    expected = RIVALS[row][1](ours)(x_BLH)
    return ((ours(x_BLH) - expected).abs().max() / expected.abs().max()).item()


def kernel_error(kind: str, length: int, width: int = 32) -> float:
    """Largest error of the float32 kernel against a float64 recurrence, over the kernel's largest entry."""
    ssm = build(kind, width).ssm
    with torch.no_grad():
        ssm.D.zero_()
        system = copy.deepcopy(ssm).double().system().recurrence()
        x_BHN, outputs = torch.zeros(1, *system.b.shape, dtype=torch.float64), []
        for step in range(length):
            y_BCH, x_BHN = system.step(torch.full((1, width), float(step == 0), dtype=torch.float64), x_BHN)
            outputs.append(y_BCH[0, 0])
        expected_HL = torch.stack(outputs, dim=-1)
        return ((ssm.system().kernel(length)[0] - expected_HL).abs().max() / expected_HL.abs().max()).item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only H 256, L 1024")
    sizes = SIZES[:1] if parser.parse_args().quick else SIZES
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| kernel error at L | 256 | 1024 | 4096 | 16384 |\n|---|---|---|---|---|")
    for kind in ("s4d", "s4"):
        errors = [f"{kernel_error(kind, length):.1e}" for length in (256, 1024, 4096, 16384)]
        print(f"| {kind} | {' | '.join(errors)} |\n", end="", flush=True)
    print(
        "\n| layer | H x L | straightforward ms | ours ms | ratio | straightforward MiB | ours MiB | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in RIVALS:
        assert check_same(row) < 1e-3, f"{row}: the two sides differ by {check_same(row)}"
        for width, length in sizes:
            theirs = time_ms(prepare(row, width, length, False), 2)
            ours = time_ms(prepare(row, width, length, True), 5)
            their_mib, our_mib = peak_mib(row, width, length, False), peak_mib(row, width, length, True)
            print(
                f"| {row} | {width} x {length} | {theirs:.0f} | {ours:.0f} | **{theirs / ours:.1f}** "
                f"| {their_mib:.0f} | {our_mib:.0f} | {their_mib / our_mib:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
