"""The benchmarks of the loop run as they are documented; what they measure decides nothing here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [("loop_overhead", "tokens/s"), ("guard_overhead", "least step")])
def test_an_overhead_benchmark_prints_its_table(name: str, said: str) -> None:
    command = [sys.executable, f"benchmarks/{name}.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
