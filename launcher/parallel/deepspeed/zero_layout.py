"""Where DeepSpeed keeps gradients, float32 weights and moments of each parameter, stage by stage.

Its own accessors (safe_get_full_*, safe_set_full_*) link only the first parameter group at stages 1 and 2,
and fail at stage 3 where the world size does not divide a parameter. So a few private names of deepspeed 0.19
are read here.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """This rank's part of one flattened parameter."""

    start: int
    """First element, counted in the parameter."""
    weight: torch.Tensor
    """Its float32 values, 1-D, live."""
    flat: torch.Tensor
    """The buffer that the optimizer steps; its state is keyed by it."""
    offset: int
    """First element, counted in `flat`."""

    def moment(self, value: torch.Tensor) -> torch.Tensor:
        """The part of a state tensor of `flat` that belongs to this fragment, live."""
        return value.view(-1).narrow(0, self.offset, self.weight.numel())


class Layout(abc.ABC):
    """Parameters of one DeepSpeed engine, in a fixed order of names."""

    def __init__(self, engine: Any, parameters: Mapping[str, Any], rank: int) -> None:
        self._zero = engine.optimizer
        self._parameters = parameters
        self._rank = rank

    fragmented = True
    """Whether a parameter's fragments add up over the ranks; else every rank has it whole."""

    @property
    @abc.abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """The client's optimizer."""

    @abc.abstractmethod
    def gradients(self) -> dict[int, torch.Tensor]:
        """Averaged gradients before the step, live, by id of their parameter: this rank's pieces."""

    @abc.abstractmethod
    def fragments(self) -> dict[str, Fragment]:
        """This rank's fragments, by name; a parameter that has none here is left out."""

    @abc.abstractmethod
    def set_computed(self, parameter: Any, fragment: Fragment | None, whole: torch.Tensor) -> None:
        """Write a value into the copy that the forward pass reads."""

    @property
    def leftovers(self) -> Sequence[torch.Tensor]:
        """Gradients of the step before, to which those that come with a last micro batch alone are added."""
        return ()

    def stepped(self) -> list[list[torch.Tensor]]:
        """What the optimizer steps, by its groups."""
        return [group["params"] for group in self.optimizer.param_groups]


@final
class Replicated(Layout):
    """Stage 0: everything whole on every rank."""

    fragmented = False

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._zero

    def gradients(self) -> dict[int, torch.Tensor]:
        return {id(p): p.grad for p in self._parameters.values() if p.grad is not None}

    def fragments(self) -> dict[str, Fragment]:
        return {
            name: Fragment(start=0, weight=parameter.detach().view(-1), flat=parameter, offset=0)
            for name, parameter in self._parameters.items()
        }

    def set_computed(self, parameter: Any, fragment: Fragment | None, whole: torch.Tensor) -> None:
        parameter.data.copy_(whole)


@final
class Partitioned(Layout):
    """Stages 1 and 2: each group is one flat buffer; each rank owns a range, which may cut parameters."""

    # A group of a (5 numbers) and b (3) on two ranks is the flat buffer a a a a | a b b b. Rank 0 has a
    # fragment of a (start 0, 4 numbers, offset 0) and none of b; rank 1 has one of a (start 4, 1 number,
    # offset 0) and one of b (start 0, 3 numbers, offset 1). DeepSpeed's lp is what the model computes with,
    # hp the float32 copy that is stepped.

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._zero.optimizer

    def gradients(self) -> dict[int, torch.Tensor]:
        # By id, not by name: DeepSpeed's lists hold parameters, and keep an order of their own.
        found: dict[int, torch.Tensor] = {}
        for group, parameters in enumerate(self._zero.params_in_partition):
            pieces = [
                g for g in self._zero.averaged_gradients[group] if not getattr(g, "_zero_padding", False)
            ]
            # An own range without parameters holds one buffer of zeros.
            found |= {id(p): piece for p, piece in zip(parameters, pieces, strict=False)}
        return found

    def fragments(self) -> dict[str, Fragment]:
        mappings = {name: parameter._hp_mapping for name, parameter in self._parameters.items()}
        return {
            name: Fragment(
                start=mapping.lp_fragment_address.start,
                weight=mapping.hp_fragment.detach(),
                flat=self._zero.single_partition_of_fp32_groups[mapping.param_group_index],
                offset=mapping.hp_fragment_address.start,
            )
            for name, mapping in mappings.items()
            if mapping is not None
        }

    def set_computed(self, parameter: Any, fragment: Fragment | None, whole: torch.Tensor) -> None:
        parameter.data.copy_(whole)


@final
class Sharded(Layout):
    """Stage 3: each parameter is cut into equal parts, one a rank, the last one padded."""

    # a (5 numbers) on two ranks: parts of 3. Rank 0 has start 0 and 3 valid numbers, rank 1 start 3 and 2
    # valid ones before a number of padding. On four ranks, parts of 2: rank 3 has start 5 and nothing.

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._zero.optimizer

    def gradients(self) -> dict[int, torch.Tensor]:
        found = {}
        for group, parameters in enumerate(self._zero.fp16_groups):
            for parameter, piece in zip(parameters, self._zero.averaged_gradients[group], strict=True):
                found[id(parameter)] = piece.view(-1)[: self._valid(parameter)]
        return found

    def fragments(self) -> dict[str, Fragment]:
        found = {}
        for name, parameter in self._parameters.items():
            group, offset, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
            flat = self._zero.fp32_partitioned_groups_flat[group]
            weight = flat.detach().narrow(0, offset, self._valid(parameter))
            start = min(self._rank * parameter.ds_tensor.ds_numel, parameter.ds_numel)
            found[name] = Fragment(start=start, weight=weight, flat=flat, offset=offset)
        return found

    def set_computed(self, parameter: Any, fragment: Fragment | None, whole: torch.Tensor) -> None:
        assert fragment is not None, "at stage 3 every rank has a fragment, perhaps empty"
        size = fragment.weight.numel()
        own = whole.view(-1)[fragment.start : fragment.start + size]
        parameter.ds_tensor.data.view(-1)[:size].copy_(own)
        if parameter.shape == whole.shape:  # small ones stay gathered
            parameter.data.copy_(whole)

    @property
    def leftovers(self) -> Sequence[torch.Tensor]:
        # a first micro batch overwrites, the others add
        return (self._zero.grad_partitions_flat_buffer,)

    def stepped(self) -> list[list[torch.Tensor]]:
        # DeepSpeed puts them into the groups only for the length of a step.
        groups: list[list[torch.Tensor]] = [[] for _ in self.optimizer.param_groups]
        for sub_group, flat in enumerate(self._zero.fp32_partitioned_groups_flat):
            groups[self._zero.sub_group_to_group_id[sub_group]].append(flat)
        return groups

    def _valid(self, parameter: Any) -> int:
        """Elements of this rank's part that are not padding."""
        part = parameter.ds_tensor.ds_numel
        return min(max(parameter.ds_numel - self._rank * part, 0), part)


LAYOUTS: Mapping[int, type[Layout]] = {0: Replicated, 1: Partitioned, 2: Partitioned, 3: Sharded}
"""By ZeRO stage."""
