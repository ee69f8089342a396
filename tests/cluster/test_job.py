import dataclasses

import pytest

from tests.cluster.jobs import small_job


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a\nb"}, r"name is 'a\\nb'; newlines"),
        ({"run_dir": "/runs/\x1b"}, "run_dir is"),
        ({"command": ("-m", "x\n#SBATCH --nodes=9")}, r"command\[1\] is"),
        ({"env": {"A": "b\nc"}}, r"env\['A'\] is"),
        ({"env": {"A=1;id": "b"}}, "env has 'A=1;id'"),
        ({"name": ""}, "name is empty"),
        ({"cwd": "here"}, "cwd is 'here'; it must be an absolute path"),
        ({"python": "python3"}, "python is 'python3'; it must be an absolute path"),
        ({"nodes": 0}, "nodes is 0; it must be at least 1"),
        ({"nproc_per_node": 0}, "nproc_per_node is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_a_job_that_no_script_can_hold_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small_job(), **change)  # type: ignore[arg-type]
