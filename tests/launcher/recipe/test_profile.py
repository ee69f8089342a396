"""Profiles: a site's values where the recipe has none, with their own places in messages."""

from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe, dump_recipe
from tests.small_run import RECIPE

SITE = """\
type: slurm
partition: gpu
cpus_per_node: 8
setup: [module load cuda]
env: {NCCL_DEBUG: WARN}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a profile called `site`, which is the present one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "cluster-profiles").mkdir()
    (tmp_path / "cluster-profiles/site.yaml").write_text(SITE)
    return tmp_path


def test_a_profile_gives_what_the_recipe_leaves_out(site: Path) -> None:
    recipe = RECIPE.replace("cluster: {type: local,", "cluster: {profile: site, partition: mine,")
    cluster = compile_recipe(recipe, "r.yaml", ["cluster.cpus_per_node=4"]).recipe.cluster
    assert (cluster.type, cluster.partition, cluster.cpus_per_node) == ("slurm", "mine", 4)
    assert (cluster.setup, cluster.env) == (("module load cuda",), {"NCCL_DEBUG": "WARN"})


def test_a_profile_is_found_in_the_home_folder_and_by_its_path(site: Path) -> None:
    home = site / "home/.config/mulaunch/cluster-profiles"
    home.mkdir(parents=True)
    (home / "far.yaml").write_text("account: physics\n")
    for name in ("far", str(home / "far.yaml")):
        loaded = compile_recipe(RECIPE, "r.yaml", [f"cluster.profile={name}"])
        assert loaded.recipe.cluster.account == "physics"


def test_a_frozen_recipe_needs_its_profile_no_more(site: Path) -> None:
    recipe = compile_recipe(RECIPE, "r.yaml", ["cluster.profile=site"]).recipe
    (site / "cluster-profiles/site.yaml").unlink()
    assert compile_recipe(dump_recipe(recipe), "frozen.yaml").recipe == recipe


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (SITE, "cluster.profile=sit", "there is no profile 'sit' in .*\n +did you mean site"),
        (SITE, "cluster.profile=other/place.yaml", "there is no profile 'other/place.yaml'"),
        ("partitoin: gpu\n", "cluster.profile=site", r"site.yaml:1:\d+: unknown key 'partitoin' in cluster"),
        ("- a\n", "cluster.profile=site", "a profile is `key: value` lines"),
        ("a: [\n", "cluster.profile=site", "site.yaml:2"),
        ("profile: x\n", "cluster.profile=site", "a profile cannot name another one"),
    ],
)
def test_mistakes_are_placed_where_they_are(site: Path, text: str, override: str, message: str) -> None:
    (site / "cluster-profiles/site.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        compile_recipe(RECIPE, "r.yaml", [override])
