"""Records that the loop passes to the tracker: a step, a validation, and the start of an attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from launcher.clock import Traced

Outcome = Literal["FINISHED", "FAILED", "KILLED"]
"""How an attempt ended, in MLflow's words; KILLED is a requested stop (preemption, ctrl-C)."""


def _known_fields(record: "StepRecord | ValidationRecord") -> dict[str, object]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if value is not None and name != "traced"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One logged training step. `step` is the number of optimizer steps completed, from 1."""

    step: int
    loss: float
    lr: float
    """Peak rate at the base width times lr_multiplier."""
    lr_group: Mapping[str, float]
    """Learning rate of each optimizer group."""
    grad_norm: float
    """Global norm before clipping."""
    grad_norm_clipped: float
    clip_coefficient: float
    """What the gradient was multiplied by; 1 if it was not clipped."""
    clip_fraction: float
    """Fraction of the steps since the last logged one in which the gradient was clipped."""
    tokens: int
    """Trained on in the whole run so far."""
    tokens_per_s: float
    step_time_s: float
    """Mean over the steps since the last logged one."""
    data_wait_s: float
    """Part of step_time_s spent waiting for data."""
    grad_norm_group: Mapping[str, float] | None = None
    """Norm of each optimizer group before clipping; the root of the sum of their squares is grad_norm."""
    grad_norm_layer: Mapping[str, float] | None = None
    """The same for each layer."""
    update_ratio_group: Mapping[str, float] | None = None
    """Norm of what this step added to the weights of a group, over the norm of those weights."""
    update_ratio_layer: Mapping[str, float] | None = None
    grad_mean_layer: Mapping[str, float] | None = None
    """Mean |gradient| over the numbers of each layer before clipping; its biases apart, as LAYER/bias."""
    phases_s: Mapping[str, float] | None = None
    """Seconds in each phase of the loop since the last logged step."""
    first_step_s: float | None = None
    """What the attempt's first step took; in its first record only."""
    mfu: float | None = None
    """Model FLOPs utilization: the step's FLOPs over what the device could have done in its time."""
    energy_kwh: float | None = None
    """Of devices, processors and memory of all nodes since the attempt began; None where it is not known."""
    memory_gb: float | None = None
    """Peak device memory on this rank, in 10^9 bytes; None on a CPU, as the next two."""
    memory_now_gb: float | None = None
    """Allocated now, of which activations are not a part."""
    memory_reserved_gb: float | None = None
    """What the allocator holds; the part that is not allocated may be in pieces that nothing fits."""
    gpu: Mapping[str, float] | None = None
    """Of all ranks' GPUs, where NVML answers: the hottest, the slowest, power of all; see machine.py."""
    traced: Traced | None = None
    """Steps that were traced, now that this is known; an event of its own."""
    system: Mapping[str, float] | None = None
    """Of the first node: load and memory in use, by MLflow's names."""

    def as_fields(self) -> dict[str, object]:
        """The fields as in a journal line, without those that are None."""
        return _known_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRecord:
    """One evaluation on validation data after `step` steps."""

    step: int
    loss: float
    accuracy: float
    """Fraction of the targets that equal the most likely symbol or class."""
    baselines: Mapping[str, float]
    """Accuracies of trivial baselines on the same samples, by name; empty for text."""
    sequences: int
    seconds: float
    bits_per_byte: float | None = None
    """The loss by byte of text; None where the bytes of tokens are not known."""
    loss_by_part: Mapping[str, float] | None = None
    """Of each part of a mixture; `loss` is their mean by weight."""
    bits_per_byte_by_part: Mapping[str, float] | None = None

    def as_fields(self) -> dict[str, object]:
        """As StepRecord's."""
        return _known_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """The start of one attempt. The journal holds all of it, so MLflow needs nothing but the journal."""

    run_name: str
    run_dir: str
    world_size: int
    recipe: Mapping[str, object]
    """The resolved recipe as plain JSON values."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Versions, device and code: with others, the same numbers come out only nearly."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What people look for and sort by, beside the recipe."""
    submitted: float | None = None
    """When it was handed to the machine or its queue (unix time)."""
    artifacts: Sequence[str] = ()
    """Files for the tracking server, absolute or relative to the folder of the journal."""
