from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.track.tracking_uri import (
    artifact_location,
    mask_secrets,
    mask_values,
    resolve_tracking_uri,
    sqlite_path,
)

FOLDER = Path("/home/me/work")
DEFAULT = "sqlite:////home/me/work/mlflow.db"


@pytest.mark.parametrize(
    ("config", "environment", "previous", "chosen"),
    [
        (None, None, None, DEFAULT),
        (None, "", None, DEFAULT),
        (None, "https://mlflow.site/", None, "https://mlflow.site"),
        ("sqlite:///runs/a.db", "https://mlflow.site", None, "sqlite:////home/me/work/runs/a.db"),
        ("sqlite:////data/a.db", None, None, "sqlite:////data/a.db"),
        (None, None, "sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
        (None, "http://b:5000", "http://a:5000", "http://b:5000"),
        (None, "postgresql+psycopg2://u:p@db/mlflow", None, "postgresql+psycopg2://u:p@db/mlflow"),
    ],
)
def test_recipe_then_environment_then_earlier_attempts_then_default(
    config: str | None, environment: str | None, previous: str | None, chosen: str
) -> None:
    assert resolve_tracking_uri(config, environment, FOLDER, previous=previous) == chosen


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///data/mlruns", "htp://a:5000", "sqlite://", "sqlite:///:memory:"]
)
def test_what_is_not_a_store_is_refused_where_it_was_given(uri: str) -> None:
    with pytest.raises(UserError, match=r"^track.mlflow.tracking_uri: ") as caught:
        resolve_tracking_uri(uri, None, FOLDER)
    assert uri in str(caught.value)
    assert "sqlite:///PATH/mlflow.db" in str(caught.value)
    with pytest.raises(UserError, match="^--store: "):
        resolve_tracking_uri(uri, None, FOLDER, place="--store")
    with pytest.raises(UserError, match="^MLFLOW_TRACKING_URI: "):
        resolve_tracking_uri(None, uri, FOLDER)


def test_a_run_whose_credentials_are_gone_asks_for_them_instead_of_forking() -> None:
    with pytest.raises(
        UserError, match="tracked at https://\\*\\*\\*@mlflow.site.*\n.*set MLFLOW_TRACKING_URI"
    ):
        resolve_tracking_uri(None, None, FOLDER, previous="https://***@mlflow.site")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@mlflow.site:5000/x", "https://***@mlflow.site:5000/x"),
        ("mysql+pymysql://me:p@ss@db/mlflow", "mysql+pymysql://***@db/mlflow"),
        ("https://token@site", "https://***@site"),
        ("https://me:pa/ss@site/x", "https://***@site/x"),
        ("https://me:p@a/ss@site", "https://***@site"),
        ('{"a": "http://me:secret@site", "b": "x@y"}', '{"a": "http://***@site", "b": "x@y"}'),
        ("http://site:5000/a@b", "http://site:5000/a@b"),
        ("postgresql://db/x?user=me&password=secret&a=1", "postgresql://db/x?user=me&password=***&a=1"),
        ("tried http://a:b@c and http://d:e@f", "tried http://***@c and http://***@f"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://site:5000", "http://site:5000"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert mask_secrets(text) == shown
    assert mask_values({"a": [text, 1, None]}) == {"a": [shown, 1, None]}


def test_artifacts_lie_beside_a_sqlite_file_and_are_a_servers_own_matter_elsewhere() -> None:
    assert artifact_location(DEFAULT, "a b/../c") == "file:///home/me/work/mlruns/a%20b____c"
    assert artifact_location("http://site", "a") is None
    assert sqlite_path(DEFAULT) == FOLDER / "mlflow.db"
