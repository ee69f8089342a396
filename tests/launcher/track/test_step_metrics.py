"""What a log line says about the steps since the last one."""

import math
from dataclasses import replace

import pytest
import torch

from launcher.clock import Clock
from launcher.optim.groups import Group
from launcher.parallel.engine import StepResult
from launcher.parallel.gradients import GradientNorms, UpdateNorms
from launcher.parallel.update_guard import Agreed
from launcher.plan.step_work import StepWork
from launcher.track.records import StepRecord
from launcher.track.step_metrics import StepMetrics, layer_of

NAMES = (
    "embedding.weight",
    "layers.0.s4d.ssm.C",
    "layers.0.norm.weight",
    "layers.1.norm.bias",
    "readout.weight",
)
GROUPS = [
    Group(
        name=name, lr=1e-3, weight_decay=0.0, eps=None, mup_lr_multiplier=1.0, update="adam", parameters=names
    )
    for name, names in (("vector", (NAMES[0], *NAMES[2:4])), ("ssm.C", (NAMES[1],)), ("readout", (NAMES[4],)))
]


WORK = StepWork(tokens=64, sizes=dict(zip(NAMES, (4, 2, 3, 3, 8), strict=True)), flops=8e9, peak_flops=None)


def taken(coefficient: float = 1.0, *, measured: bool = True) -> StepResult:
    gradients = torch.tensor([1.0, 2.0, 2.0, 4.0, 6.0])
    updates = UpdateNorms(
        weight=torch.tensor([10.0, 5.0, 3.0, 4.0, 0.0]), update=torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    )
    norms = GradientNorms(
        names=NAMES,
        total=gradients.norm(),
        coefficient=torch.tensor(coefficient),
        per_parameter=gradients,
        sums=2 * gradients if measured else None,
        updates=updates if measured else None,
    )
    agreed = Agreed(stop=False, skips_in_row=0, skips=0, bad_losses=0)
    return StepResult(
        loss=torch.tensor(1.0), norms=norms, agreed=agreed, lr_multiplier=0.5, lrs={"vector": 5e-4}
    )


def record_of(*coefficients: float, measured: bool = True) -> StepRecord:
    metrics = StepMetrics(1e-3, WORK, GROUPS, Clock())
    for coefficient in coefficients:
        metrics.add(taken(coefficient))
    return metrics.record(len(coefficients), taken(coefficients[-1], measured=measured), 1.0)


def test_rates_are_those_that_the_step_was_taken_with() -> None:
    record = record_of(1.0)
    assert (record.lr, record.lr_group) == (5e-4, {"vector": 5e-4})


def test_validation_and_checkpoints_are_not_part_of_a_step() -> None:
    now = iter([0.0, 0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 103.0, 103.0, 203.0, 204.0])
    clock = Clock(lambda: next(now))
    metrics = StepMetrics(1e-3, WORK, GROUPS, clock)
    for phase in ("data", "step", "validation", "checkpoint"):
        with clock.phase(phase):
            pass
    metrics.add(taken())
    record = metrics.record(1, taken(), 1.0)
    assert (record.data_wait_s, record.step_time_s, record.tokens_per_s) == (1.0, 4.0, 16.0)


def test_norms_are_gathered_by_group_and_by_layer() -> None:
    record = record_of(0.5)
    assert record.grad_norm_group == pytest.approx(
        {"vector": math.sqrt(1 + 4 + 16), "ssm.C": 2.0, "readout": 6.0}
    )
    layers = {"embedding": 1.0, "layers.0": math.sqrt(8), "layers.1": 4.0, "readout": 6.0}
    assert record.grad_norm_layer == pytest.approx(layers)


@pytest.mark.parametrize("kind", ["grad_norm_group", "grad_norm_layer"])
def test_parts_add_up_to_the_whole(kind: str) -> None:
    record = record_of(0.5)
    assert math.hypot(*getattr(record, kind).values()) == pytest.approx(record.grad_norm)


def test_update_ratios_leave_out_what_weighs_nothing() -> None:
    record = record_of(0.5)
    assert record.update_ratio_group == pytest.approx(
        {"vector": math.hypot(0.1, 0.3, 0.4) / math.hypot(10, 3, 4), "ssm.C": 0.04}
    )
    assert record.update_ratio_layer is not None
    assert set(record.update_ratio_layer) == {"embedding", "layers.0", "layers.1"}


def test_mean_gradients_are_by_number_of_a_layer_with_its_biases_apart() -> None:
    means = {"embedding": 0.5, "layers.0": 8 / 5, "layers.1/bias": 8 / 3, "readout": 1.5}
    assert record_of(0.5).grad_mean_layer == pytest.approx(means)


def test_utilization_is_what_was_computed_over_what_could_have_been() -> None:
    now = iter([0.0, 0.0, 0.0, 4.0, 4.0])
    clock = Clock(lambda: next(now))
    metrics = StepMetrics(1e-3, replace(WORK, peak_flops=1e10), GROUPS, clock)
    with clock.phase("step"):
        pass
    metrics.add(taken())
    assert metrics.record(1, taken(), 1.0).mfu == 0.2  # 2e9 a second of 1e10
    assert record_of(1.0).mfu is None


def test_a_step_that_was_not_measured_has_no_ratios() -> None:
    record = record_of(1.0, measured=False)
    assert record.update_ratio_group is None
    assert record.grad_mean_layer is None
    assert "update_ratio_group" not in record.as_fields()


def test_clipping_is_counted_over_the_steps_since_the_last_record() -> None:
    record = record_of(1.0, 0.5, 0.25, 1.0)
    assert (record.clip_fraction, record.clip_coefficient) == (0.5, 1.0)
    assert record_of(0.25).grad_norm_clipped == pytest.approx(0.25 * math.sqrt(61))


def test_a_layer_is_named_by_its_place() -> None:
    assert [layer_of(name) for name in NAMES] == ["embedding", "layers.0", "layers.0", "layers.1", "readout"]
