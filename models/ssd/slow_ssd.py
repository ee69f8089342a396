"""SSD's slow reference: the layer's definition, one position after the other, in float64."""

import torch

from models.ssd.ssd_mixer import SSD


def recurrence(layer: SSD, x_BLH: torch.Tensor) -> torch.Tensor:
    """The layer's outputs (B, L, H), starting at zero."""
    double = {name: parameter.detach().double() for name, parameter in layer.named_parameters()}
    decay_A = torch.exp(-torch.exp(double["space.A_log"]))  # of a step dt = 1
    wide: list[torch.Tensor] = []
    h_BAPN, outputs = torch.zeros((), dtype=torch.float64), []
    for x_BH in x_BLH.detach().double().unbind(1):
        projected = [x_BH @ double[f"{part}.weight"].T for part in ("input", "BC")]
        wide.append(torch.cat(projected, dim=-1))
        mixed = _convolve(wide, double)
        v_BI, b_BAN, c_BAN = mixed[:, : layer.d_inner], *_per_head(mixed[:, layer.d_inner :], layer)
        v_BAP = v_BI.reshape(len(v_BI), layer.num_heads, layer.d_head)
        dt_BA = torch.log1p(torch.exp(x_BH @ double["dt.weight"].T + double["space.dt_bias"]))
        added_BAPN = torch.einsum("ba,bap,ban->bapn", dt_BA, v_BAP, b_BAN)
        h_BAPN = decay_A[:, None, None] ** dt_BA[..., None, None] * h_BAPN + added_BAPN
        y_BAP = torch.einsum("bapn,ban->bap", h_BAPN, c_BAN) + double["space.D"][:, None] * v_BAP
        gate_BI = x_BH @ double["gate.weight"].T
        y_BI = y_BAP.flatten(1) * gate_BI * torch.sigmoid(gate_BI)
        y_BI = y_BI / torch.sqrt(y_BI.square().mean(-1, keepdim=True) + 1e-5) * double["inner_norm.weight"]
        outputs.append(y_BI @ double["output.weight"].T)
    return torch.stack(outputs, dim=1)


def _convolve(wide: list[torch.Tensor], double: dict[str, torch.Tensor]) -> torch.Tensor:
    """silu of the last inputs weighed by the taps, the newest by the last."""
    taps = torch.cat((double["input_conv.weight"], double["BC_conv.weight"]))
    total = torch.cat((double["input_conv.bias"], double["BC_conv.bias"]))
    for age, inputs in enumerate(reversed(wide[-taps.shape[1] :])):
        total = total + taps[:, -1 - age] * inputs
    return total * torch.sigmoid(total)


def _per_head(bc_BX: torch.Tensor, layer: SSD) -> tuple[torch.Tensor, torch.Tensor]:
    """B and C of every head, (B, A, N) each: neighbouring heads share them."""
    b, c = bc_BX.reshape(len(bc_BX), 2, -1, layer.d_state).unbind(1)
    repeats = layer.num_heads // b.shape[1]
    return b.repeat_interleave(repeats, dim=1), c.repeat_interleave(repeats, dim=1)
