"""A client of MLflow's tracking store, quiet, and what of its errors may pass."""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from paraphrase.core.errors import InputError, first_line
from paraphrase.core.terminal.console import say, waiting
from paraphrase.sweep.patience import Value, patiently
from paraphrase.sweep.settings.folder import ARTIFACTS, check_sqlite, sqlite_file, without_password

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MISTAKES = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
"""MLflow's names of errors that come again however often one tries."""


def quiet_mlflow() -> None:
    """No telemetry and no log lines of MLflow, alembic and git on the screen."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # the recorder tries again, and looks first: MLflow's client would make a second run where the answer was lost
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what is said in a line
    warnings.filterwarnings("ignore", module="mlflow.*")


def import_mlflow() -> None:
    """Import MLflow, quietly, which takes seconds."""
    quiet_mlflow()
    import mlflow.tracking  # noqa: F401


def open_client(uri: str, patience: float = 0.0) -> MlflowClient:
    """A client of the tracking store at `uri`, whose tables exist afterwards.

    Args:
        patience: see `opened`.

    Raises:
        InputError: if the store cannot be opened.
    """
    import_mlflow()  # in which no server is waited for
    return opened(uri, connect, patience)


def opened(uri: str, connect: Callable[[str], Value], patience: float = 0.0) -> Value:
    """What something returns that opens the tracking store at `uri`.

    Args:
        patience: seconds to wait for a server that refuses connections or is not well.

    Raises:
        InputError: if the store cannot be opened.
    """
    try:
        with nullcontext() if sqlite_file(uri) else waiting(f"waiting for the tracking server {without_password(uri)}"):
            if patience:
                return patiently(lambda: connect(uri), f"MLflow at {without_password(uri)}", _is_away, patience=patience)
            return connect(uri)
    except Exception as error:
        first = without_password(first_line(error))
        remedy = "; start the server with `--allowed-hosts` that has this name and port" if "Invalid Host" in first else ""
        if uri.startswith("http") and (proxies := getproxies()):
            remedy += f"; {', '.join(proxies)} proxies are set, which NO_PROXY={urlsplit(uri).hostname} goes round"
        raise InputError(f"tracking_uri: {without_password(uri)} cannot be opened: {first}{remedy}") from None


def _is_away(error: BaseException) -> bool:
    """Whether nobody takes requests: a server that is silent has been waited for already."""
    said = str(error)
    return ("failed with exception" in said and "timed out" not in said) or "failed with error code 5" in said


def reach(uri: str, connect: Callable[[str], Value]) -> Value:
    """What something returns that opens a store which was there before; a server that is away is waited for.

    Args:
        connect: done again from its beginning where the server goes away meanwhile.

    Raises:
        InputError: if a store without a server cannot be opened.
    """
    if sqlite_file(uri):  # which does not come back by itself
        return opened(uri, connect)
    return patiently(lambda: connect(uri), f"MLflow at {without_password(uri)}", passing)


def connect(uri: str) -> MlflowClient:
    """A client of the tracking store at `uri`, whose tables exist afterwards; raises whatever MLflow does."""
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    quiet_mlflow()  # importing mlflow sets its loggers up
    if file := sqlite_file(uri):
        check_sqlite(uri)
        file.parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    if file:
        _follow_moved(file.absolute())
    return client


def _follow_moved(file: Path) -> None:
    """Where a sqlite store was moved together with the artifacts beside it, have it find them there."""
    here = file.parent / ARTIFACTS
    with closing(sqlite3.connect(file, timeout=120)) as database, database:
        for (location,) in database.execute("SELECT artifact_location FROM experiments").fetchall():
            before = Path(unquote(urlsplit(location or "").path))
            if not str(location).startswith("file://") or before.name != ARTIFACTS or before == here:
                continue
            if before.exists() or not here.is_dir():  # it is another store's, or they were not moved with it
                continue
            columns = ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")
            for table, column in columns:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (here.as_uri(), len(location) + 1, len(location), location),
                )
            say(f"MLflow: {file.parent} was {before.parent}; what is recorded there is found again")


def open_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of an experiment, made if it is not there."""
    found = client.get_experiment_by_name(name)
    if found is None:  # the tag has MLflow's pages show runs and charts, not those for language models
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        say(f"MLflow: experiment {name} had been deleted; it is restored")
    return str(found.experiment_id)


def passing(error: BaseException) -> bool:
    """Whether an error of the tracking store may pass: it is away or overloaded, or refuses a password that will be mended."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code not in MISTAKES
    import requests
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, requests.RequestException | SQLAlchemyError | ConnectionError | TimeoutError)
