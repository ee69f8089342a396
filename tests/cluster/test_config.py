import pytest
from pydantic import ValidationError

from cluster.config import ClusterConfig


@pytest.mark.parametrize(
    "option",
    [
        "--exclude=n[3-4]",
        "--exclusive",
        "--mem=0",
        "--nodelist=n1",
        "-Ca100",
        "--gres=gpu:h100:8",
        "--nice=5",
    ],
)
def test_other_sbatch_options_are_taken(option: str) -> None:
    assert ClusterConfig(sbatch_options=(option,)).sbatch_options == (option,)


@pytest.mark.parametrize("key", ["nodes", "nproc_per_node", "cpus_per_node", "gpus_per_node", "time_min"])
def test_one_is_the_least_of_every_number(key: str) -> None:
    assert ClusterConfig.model_validate({key: 1})
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ClusterConfig.model_validate({key: 0})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--nodes=4", "'--nodes=4' is set by `cluster.nodes`"),
        ("-N4", "'-N4' is set by `cluster.nodes`"),
        ("--output=x.log", "RUN/logs"),
        ("--open-mode=truncate", "append, always"),
        ("exclusive", "an option is one word"),
        ("--mem 0", "one word such as --hint=nomultithread; write --mem=0"),
        ("-p gpu", "an option is one word"),
        ("--signal=USR1@60", "`cluster.warning_s`: the script saves at its own signal"),
        ("--exclusive\n--mem=0", "one line"),
        ("", "not empty"),
    ],
)
def test_sbatch_options_set_elsewhere_or_malformed_are_refused(option: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClusterConfig(sbatch_options=(option,))


@pytest.mark.parametrize(
    "section",
    [{"partition": "a\nb"}, {"account": ""}, {"env": {"1A": "x"}}, {"env": {"A": "x\ny"}}, {"nodes": 0}],
)
def test_values_that_cannot_go_into_a_script_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClusterConfig.model_validate(section)


@pytest.mark.parametrize(
    "address", ["n1", "n1:", ":29400", "n1:0", "n1:65536", "n 1:29400", "n1:29400\n", "a,b:1"]
)
def test_the_place_where_nodes_meet_is_a_host_and_a_port(address: str) -> None:
    assert ClusterConfig(rendezvous="n1.x-y:29400").rendezvous == "n1.x-y:29400"
    with pytest.raises(ValidationError, match="write HOST:PORT"):
        ClusterConfig(rendezvous=address)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--nodes=4", "cluster.nodes"),
        ("-n4", "one agent per node"),
        ("--output=x", "RUN/logs"),
        ("-K", "script"),
    ],
)
def test_srun_options_set_elsewhere_are_refused(option: str, message: str) -> None:
    assert ClusterConfig(srun_options=("--mpi=none", "-v")).srun_options == ("--mpi=none", "-v")
    with pytest.raises(ValidationError, match=message):
        ClusterConfig(srun_options=(option,))
