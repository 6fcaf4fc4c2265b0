"""The study's storage: one that waits for its database to come back, and never does a thing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

from paraphrase.core.errors import InputError, first_line
from paraphrase.sweep.patience import OPENING, OutOfPatience, patiently
from paraphrase.sweep.settings.folder import check_sqlite, sqlite_file, without_password

Value = TypeVar("Value")

logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # it tells of each connection that a restart has cut

SERVER = {
    "pool_pre_ping": True,  # Optuna has it for MySQL alone, so a restart of Postgres would end the sweep
    "pool_recycle": 1800,
    "pool_size": 3,
    "max_overflow": 2,
}
KEEPALIVES = {"connect_timeout": 10, "keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Of libpq, so that a server that vanished is noticed within a minute."""
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "gpfs", "ceph", "beegfs", "9p", "afs", "glusterfs"}
"""File systems on which sqlite's locks do not hold."""
FINAL = ("authentication", "does not exist", "pg_hba", "permission denied", "resolve host", "translate host", "not known")
"""Words of errors that no waiting mends."""


def open_storage(url: str, patience: float | None = None) -> PatientStorage:
    """The durable storage at a URL; another writer of sqlite is waited for, and so is a server that is away.

    Args:
        patience: seconds to wait for a server; None: `OPENING`.

    Raises:
        InputError: if it cannot be opened, or is a sqlite file on a network file system.
        OutOfPatience: if a server was away for longer, where a patience is given.
    """
    if url.startswith("sqlite"):
        refuse_network_file(url)
        check_sqlite(url)
        arguments: dict[str, Any] = {"connect_args": {"timeout": 120}}
    else:
        arguments = SERVER | ({"connect_args": KEEPALIVES} if url.startswith("postgresql") else {})

    def opened() -> PatientStorage:
        _refuse_mlflows(url, arguments)
        return PatientStorage(url, engine_kwargs=arguments)

    def may_pass(error: BaseException) -> bool:
        return not url.startswith("sqlite") and passing(error) and not any(word in str(error) for word in FINAL)

    try:
        return patiently(opened, _named(url), may_pass, patience=OPENING if patience is None else patience)
    except InputError:
        raise
    except OutOfPatience as error:
        if patience is not None:
            raise
        raise InputError(f"storage: {error}") from None
    except Exception as error:
        raise InputError(f"storage: {without_password(url)} cannot be opened: {without_password(first_line(error))}") from None


def _named(url: str) -> str:
    return f"the study's database {without_password(url)}"


def _refuse_mlflows(url: str, arguments: dict[str, Any]) -> None:
    """Raises InputError if the database is MLflow's: both call the table of their schema's version alike."""
    if url.startswith("sqlite"):
        return
    engine = sql.create_engine(url, **arguments)
    try:
        tables = set(sql.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if {"alembic_version", "experiments"} <= tables:
        raise InputError(f"storage: {without_password(url)} is MLflow's database; a study needs one of its own")


def refuse_network_file(url: str) -> None:
    """Raises InputError for a sqlite file on a network file system."""
    file = sqlite_file(url)
    if file and (kind := _file_system(file)) in NETWORK:
        raise InputError(
            f"storage: {file} lies on a network file system ({kind}), where sqlite's locks do not hold; give `storage` and "
            "`tracking_uri` of servers, or set PARAPHRASE_HOME to a local disk and `store` to the shared folder"
        )


def _file_system(file: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Kind of the file system that a file lies on, or would."""
    if not mounts.exists():
        return ""
    kinds = {}
    for line in mounts.read_text(errors="replace").splitlines():
        _, place, kind, *_ = line.split()
        kinds[place.encode().decode("unicode_escape")] = kind
    parents = [str(p) for p in (file.absolute(), *file.absolute().parents)]
    return next((kinds[p] for p in parents if p in kinds), "")


def passing(error: BaseException) -> bool:
    """Whether an error of the database may pass: it is away, restarts, or has no connection left."""
    if isinstance(error, OutOfPatience):
        return False
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, sql.exc.DBAPIError) and cause.connection_invalidated:
        return True
    # the last one: Optuna tries a query of its own in the transaction that the server has ended
    gone = sql.exc.OperationalError, sql.exc.InterfaceError, sql.exc.TimeoutError, sql.exc.PendingRollbackError
    return isinstance(cause, gone)


class PatientStorage(RDBStorage):
    """`RDBStorage` whose operations are tried again while its database is away, for up to `PATIENCE`.

    Those that set something may be done twice. A new trial may not: where the answer was lost, it is looked for, since the
    driver is the only one who makes any.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        super().__init__(url, engine_kwargs=engine_kwargs)
        self._last: dict[int, int] = {}
        """Study -> number of its newest trial."""
        self._values: list[tuple[Any, ...]] | None = None
        """What trials were asked for `together`, not written yet."""

    def _patiently(self, operation: Callable[[], Value], again: Callable[[], Value] | None = None) -> Value:
        return patiently(operation, _named(self.url), passing, again)

    @property
    def server(self) -> sql.Engine | None:
        """The engine, where the database is a server that several machines can reach."""
        return None if self.engine.dialect.name == "sqlite" else self.engine

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if study_id not in self._last:
            self._last[study_id] = self._patiently(lambda: self._last_number(study_id))

        def once() -> FrozenTrial:
            # not Optuna's own method: it tries again by itself, and makes a second trial where the answer was lost
            with _create_scoped_session(self.scoped_session) as session:
                models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
                trial_id: Any = self._get_prepared_new_trial(study_id, template_trial, session).trial_id
            return RDBStorage.get_trial(self, trial_id)

        def again() -> FrozenTrial:
            last = self._last_number(study_id)
            if last == self._last[study_id]:
                return once()
            return RDBStorage.get_trial(self, RDBStorage.get_trial_id_from_study_id_trial_number(self, study_id, last))

        trial = self._patiently(once, again)
        self._last[study_id] = trial.number
        return trial

    def _last_number(self, study_id: int) -> int:
        """Number of the newest trial; -1 if there is none."""
        with self.engine.connect() as connection:
            query = sql.text("SELECT max(number) FROM trials WHERE study_id = :study")
            last = connection.execute(query, {"study": study_id}).scalar()
        return -1 if last is None else int(last)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the values that a trial is asked for meanwhile in one transaction, where Optuna takes one for each."""
        values: list[tuple[Any, ...]] = []
        self._values = values
        try:
            yield
        finally:
            self._values = None

        def once() -> None:
            with _create_scoped_session(self.scoped_session, True) as session:
                for value in values:
                    self._set_trial_param_without_commit(session, *value)

        if values:
            self._patiently(once)

    def _set_trial_param(self, *value: Any) -> None:
        if self._values is None:
            self._patiently(lambda: RDBStorage._set_trial_param(self, *value))
        else:
            self._values.append(value)

    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Set several attributes in one transaction, where Optuna takes one for each, and reads the trial again."""

        def once() -> None:
            with _create_scoped_session(self.scoped_session, True) as session:
                for key, value in attributes.items():
                    self._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, value)

        self._patiently(once)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def again() -> bool:
            try:
                return RDBStorage.set_trial_state_values(self, trial_id, state, values)
            except UpdateFinishedTrialError:  # it was done, and the answer lost
                return True

        return self._patiently(lambda: RDBStorage.set_trial_state_values(self, trial_id, state, values), again)


def _waits(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    def waiting(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self._patiently(lambda: method(self, *arguments, **named))

    waiting.__name__, waiting.__doc__ = name, method.__doc__
    return waiting


for _name in (
    "create_new_study",  # one that was made although the answer was lost is found by its name
    "get_all_studies",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "_get_trials",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
):
    setattr(PatientStorage, _name, _waits(_name))
