"""`launch plan --compare`: variants of a recipe side by side."""

from pathlib import Path

from tests.launch import launch

ROOT = Path(__file__).parents[3]
HEAD = "nodes parallel.strategy ranks micro GiB fits on sent GB tokens/s hours cost"
HARDWARE = "cluster.hardware={memory_gib: 79.1, tflops: 989, price_per_hour: 2.5}"


def test_variants_stand_side_by_side() -> None:
    axes = ("--compare", "nodes=1,2,8", "parallel.strategy=fsdp2,hsdp")
    done = launch("plan", "recipes/s4-lm-1b.yaml", HARDWARE, *axes, folder=ROOT)
    head, *rows = done.stdout.splitlines()
    assert " ".join(head.split()) == HEAD
    assert [row.split()[:3] for row in rows] == [
        [nodes, strategy, ranks]
        for nodes, ranks in (("1", "8"), ("2", "16"), ("8", "64"))
        for strategy in ("fsdp2", "hsdp")
    ]
    assert all("40 GB" in row and " to " in row for row in rows)


def test_a_variant_that_cannot_be_says_why_once() -> None:
    done = launch(
        "plan", "recipes/s4-lm-1b.yaml", "--compare", "train.micro_batch_size=0,8", "nodes=1,8", folder=ROOT
    )
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if "override" in line]
    assert line.startswith("train.micro_batch_size=0 nodes=1; train.micro_batch_size=0 nodes=8: override")


def test_an_axis_without_values_is_refused() -> None:
    done = launch("plan", "recipes/s4-lm-1b.yaml", "--compare", "nodes", folder=ROOT)
    assert done.returncode == 2
    assert "--compare: got 'nodes'; write key=value,value" in done.stderr
    done = launch("plan", "recipes/s4-lm-1b.yaml", "--compare", "nodes=many", folder=ROOT)
    assert done.returncode == 2
    assert "nodes are whole numbers" in done.stderr


def test_a_section_is_one_value() -> None:
    done = launch("plan", "recipes/s4-lm-1b.yaml", "--compare", "nodes=1,2", HARDWARE, folder=ROOT)
    assert len(done.stdout.splitlines()) == 3
    assert "tokens/s" in done.stdout
