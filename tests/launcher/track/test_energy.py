"""Energy is what counters say, over all nodes and through their wrapping; where one is missing, nothing."""

from pathlib import Path

import pytest

from launcher.track.energy import Counter, EnergyMeter, powercap_counters
from launcher.world import World, world_on
from tests.ranks import run_ranks


def zone(root: Path, name: str, kind: str, joules: float, wraps_at: float = 1000.0) -> Path:
    """A powercap zone as Linux has it."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at * 1e6:.0f}\n")
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    return folder / "energy_uj"


def test_a_node_s_power_is_integrated_over_packages_and_memory(tmp_path: Path) -> None:
    # 100 W and 20 W for 30 s, read each second, through the end of a counter of 1000 J: 3600 J, 1e-3 kWh.
    package = zone(tmp_path, "intel-rapl:0", "package-0", 400)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    dram = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    psys = zone(tmp_path, "intel-rapl:1", "psys", 0)
    meter = EnergyMeter(powercap_counters(tmp_path), world_on("cpu"))
    for second in range(1, 31):
        package.write_text(f"{(400 + 100 * second) % 1000 * 1e6:.0f}")
        dram.write_text(f"{20 * second * 1e6:.0f}")
        for other in (core, psys):  # are in it already, or have it in them
            other.write_text(f"{70 * second * 1e6:.0f}")
        found = meter.kwh()
    assert found == pytest.approx(1e-3, rel=1e-9)


def test_without_counters_energy_is_not_known(tmp_path: Path) -> None:
    assert powercap_counters(tmp_path) is None
    assert EnergyMeter(None, world_on("cpu")).kwh() is None
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:0/energy_uj").unlink()
    assert powercap_counters(tmp_path) is None, "it may not be read"


def joules(world: World, known: tuple[bool, ...]) -> float | None:
    reading = iter([0.0, 1.8e6 * (world.rank + 1)])
    counters = [Counter(read_j=lambda: next(reading))] if known[world.rank] else None
    return EnergyMeter(counters, world).kwh()


def test_a_counter_that_fails_later_does_not_end_a_run() -> None:
    readings = iter([1.0])

    def read() -> float:
        try:
            return next(readings)
        except StopIteration:
            raise OSError("gone") from None

    meter = EnergyMeter([Counter(read_j=read)], world_on("cpu"))
    assert meter.kwh() is None


def test_nodes_are_added_up_and_one_that_is_not_known_leaves_all_unknown() -> None:
    assert run_ranks(2, joules, (True, True)) == [1.5, 1.5]
    assert run_ranks(2, joules, (True, False)) == [None, None]
