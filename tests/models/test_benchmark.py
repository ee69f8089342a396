"""What the benchmark compares is the same layer on both sides."""

import pytest

from benchmarks.ssm import RIVALS, check_same


@pytest.mark.parametrize("row", RIVALS)
def test_both_sides_give_the_same_outputs(row: str) -> None:
    # the Cauchy kernel is the less exact one: some 1e-6 at this length
    assert check_same(row) <= 2e-5
