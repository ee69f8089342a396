"""The MLflow store of a run, and its address without secrets. Does not import mlflow."""

import re
from collections.abc import Mapping
from pathlib import Path

from launcher.errors import Problem, UserError

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")
MASK = "***"
KEY = "track.mlflow.tracking_uri"

# user:password@ or token@ after ://. A password may itself contain an @ or a slash, which belong there as %40
# and %2F: up to the last @, unless what follows the colon is a port. A masked address still shows scheme and
# host, which are what one needs to find a mistake.
_USER_INFO = re.compile(r"""(?<=://)(?:[^/\s:@"']*:(?!\d{1,5}/)[^\s"']*@|[^/\s"']*@)""")
_SECRET_QUERY = re.compile(r"(?i)([?&;][^=&\s]*(?:password|passwd|pwd|token|secret|key)[^=&\s]*=)[^&;\s]+")


def mask_secrets(text: str) -> str:
    """The text with *** for the user:password part of every URL and for secret-looking query values."""
    return _SECRET_QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(f"{MASK}@", text))


def mask_values(value: object) -> object:
    """Plain JSON values with every string masked."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, Mapping):
        return {key: mask_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_values(item) for item in value]
    return value


def resolve_tracking_uri(
    given_uri: str | None,
    environment_uri: str | None,
    folder: Path,
    *,
    previous: str | None = None,
    place: str = KEY,
) -> str:
    """The store of a run, with an absolute path if it is SQLite.

    The first that is given: `given_uri`, MLFLOW_TRACKING_URI, that of earlier attempts, and mlflow.db in the
    folder where the launch was started. `previous` is recorded in the run folder, so that a resume from
    another folder does not split the run over two stores.
    """
    named = {place: given_uri, "MLFLOW_TRACKING_URI": environment_uri}
    for where, uri in named.items():
        if uri:
            return _check_uri(where, uri, folder)
    if previous is None:
        return _sqlite_uri(folder / "mlflow.db")
    # The run folder has the address without its password, and that one cannot be used.
    if MASK in previous:
        raise UserError(
            Problem(
                "MLFLOW_TRACKING_URI",
                f"is not set; this run was tracked at {previous}, whose credentials are not stored",
                "set MLFLOW_TRACKING_URI again, or pass track.mlflow.enabled=false",
            )
        )
    return previous


def sqlite_path(tracking_uri: str) -> Path | None:
    """The database file of a SQLite store; None for any other store."""
    head = "sqlite:///"
    return Path(tracking_uri.removeprefix(head)) if tracking_uri.startswith(head) else None


def artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Where artifacts of a new experiment are stored: next to a SQLite file; None leaves it to the server."""
    database = sqlite_path(tracking_uri)
    folder = re.sub(r"[^\w -]", "_", experiment)  # not a path; the runs in it have unique names
    return (database.parent / "mlruns" / folder).as_uri() if database else None


def _sqlite_uri(path: Path) -> str:
    return f"sqlite:///{path.absolute()}"


def _check_uri(place: str, uri: str, folder: Path) -> str:
    shown, key = mask_secrets(uri), KEY if place == KEY else ""
    scheme = uri.split("://", 1)[0].split("+", 1)[0]
    if "://" not in uri or scheme not in SCHEMES:
        remedy = f"use sqlite:///PATH/mlflow.db, or the address of a server ({', '.join(SCHEMES[1:])}://...)"
        raise UserError(Problem(place, f"{shown!r} is not a tracking store", remedy, key=key))
    if scheme != "sqlite":
        # A library would take the part before a slash for the host, and name it when it finds none.
        if (info := _USER_INFO.search(uri)) and re.search("[/?#]", info.group()):
            message, remedy = f"{shown!r} has a password with one of / ? #", "write %2F, %3F or %23"
            raise UserError(Problem(place, message, remedy, key=key))
        return uri.rstrip("/")
    path = sqlite_path(uri)
    if path is None or path.name in ("", ":memory:"):
        remedy = "use sqlite:///PATH/mlflow.db"
        raise UserError(Problem(place, f"{shown!r} does not name a file", remedy, key=key))
    return _sqlite_uri(folder / path)
