"""One driver a sweep, where the study lies on a database server: a lease in its database, with a fencing number.

A lock file holds on one machine. A lease is taken for a minute, by the database's clock, and renewed by a thread. Whoever takes
one that ran out raises the fencing number, and what carries an older number is refused in the transaction that would write it.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event

from paraphrase.core.errors import InputError
from paraphrase.core.terminal.console import say
from paraphrase.sweep.patience import OutOfPatience, patiently
from paraphrase.sweep.study.storage import passing

WHERE = "the study's database"
SECONDS, RENEWED = 60.0, 10.0
"""How long a lease holds, and how often it is renewed."""

TABLE = sql.Table(
    "paraphrase_leases",
    sql.MetaData(),
    sql.Column("study", sql.String(200), primary_key=True),
    sql.Column("fence", sql.BigInteger, nullable=False),
    sql.Column("owner", sql.String(200), nullable=False),
    sql.Column("expires", sql.Double, nullable=False),  # seconds since 1970, of the database's clock
)
_CLOCKS = {"postgresql": "extract(epoch from clock_timestamp())", "mysql": "unix_timestamp(now(6))"}


def clock_of(engine: sql.Engine) -> Any:
    """The database's clock as a column: seconds since 1970."""
    return sql.literal_column(_CLOCKS[engine.dialect.name], sql.Double)


class LeaseLost(OutOfPatience):
    """Another driver has taken the sweep over; this one writes nothing more."""


class Lease:
    """A driver's right to write a study.

    Args:
        engine: of the study's database.
        study: its name.
    """

    def __init__(self, engine: sql.Engine, study: str) -> None:
        self.engine, self.study, self.fence = engine, study, 0
        self.owner = f"process {os.getpid()} on {platform.node()}, {uuid.uuid4().hex[:6]}"
        self._clock = clock_of(engine)
        self._ended = threading.Event()
        self._lost = False

    def acquire(self, wait: float = 0.0) -> None:
        """Take the lease if it is free.

        Args:
            wait: seconds to wait for one that a killed driver may have left.

        Raises:
            InputError: if another driver holds it.
        """
        patiently(lambda: TABLE.create(self.engine, checkfirst=True), WHERE, passing)
        deadline, said = time.monotonic() + wait, False
        while owner := patiently(self._taken_by, WHERE, passing):
            if time.monotonic() > deadline:
                raise InputError(f"sweep {self.study}: is being run by {owner}; wait for it or stop it")
            if not said:
                say(f"sweep {self.study}: waiting for the lease of {owner}, which ends within {SECONDS:.0f} s if it is gone")
                said = True
            time.sleep(1.0)
        event.listen(self.engine, "commit", self._check)
        threading.Thread(target=self._renew, daemon=True).start()

    def _taken_by(self) -> str | None:
        """Who holds it; None if it is ours now."""
        mine = TABLE.c.study == self.study
        with self.engine.begin() as connection:
            now = connection.execute(sql.select(self._clock)).scalar_one()
            row = connection.execute(sql.select(TABLE).where(mine).with_for_update()).one_or_none()
            if row and row.expires > now and row.owner != self.owner:  # else taken, and the answer lost
                return row.owner
            self.fence = row.fence + 1 if row else 1
            values = {"fence": self.fence, "owner": self.owner, "expires": now + SECONDS}
            change = TABLE.update().where(mine) if row else TABLE.insert().values(study=self.study)
            try:
                connection.execute(change.values(**values))
            except sql.exc.IntegrityError:  # another inserted it first
                return "another driver"
        return None

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                self._extend(SECONDS)
            except sql.exc.SQLAlchemyError:  # nobody else can take it either while the database is away
                continue

    def _extend(self, seconds: float) -> None:
        ours = (TABLE.c.study == self.study) & (TABLE.c.fence == self.fence)
        with self.engine.begin() as connection:
            changed = connection.execute(TABLE.update().where(ours).values(expires=self._clock + seconds))
            self._lost = self._lost or not changed.rowcount

    def _check(self, connection: sql.Connection) -> None:
        """Refuse a transaction if the number has moved on; its row stays as it is until the transaction has ended."""
        query = "SELECT fence FROM paraphrase_leases WHERE study = %s FOR SHARE"
        try:
            cursor = connection.connection.cursor()
            cursor.execute(query, (self.study,))
            row = cursor.fetchone()
            cursor.close()
        except Exception as error:  # the driver's own kind, since this is beneath SQLAlchemy
            raise sql.exc.OperationalError(query, None, error) from error
        if self._lost or row is None or row[0] != self.fence:
            raise LeaseLost(f"sweep {self.study}: another driver has taken it over")

    def check(self) -> None:
        """Raises LeaseLost if another driver has taken the sweep over, as far as the last renewal knows."""
        if self._lost:
            raise LeaseLost(f"sweep {self.study}: another driver has taken it over")

    def release(self) -> None:
        """Give it back, so that the next driver need not wait."""
        self._ended.set()
        event.remove(self.engine, "commit", self._check)
        if not self._lost:
            with suppress(sql.exc.SQLAlchemyError):
                self._extend(0.0)


@contextmanager
def leased(engine: sql.Engine | None, study: str, wait: float = 0.0) -> Iterator[Lease | None]:
    """Hold a study's lease; without a database server (None) there is none, and the lock file is enough.

    Raises:
        InputError: if another driver holds it.
    """
    if engine is None:
        yield None
        return
    lease = Lease(engine, study)
    lease.acquire(wait)
    try:
        yield lease
    finally:
        lease.release()
