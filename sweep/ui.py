"""MLflow's pages on loopback, opened on the right experiment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from paraphrase.core.errors import InputError
from paraphrase.core.home import home
from paraphrase.core.terminal.console import waiting
from paraphrase.sweep.record.client import open_client, quiet_mlflow
from paraphrase.sweep.record.tracking import runs_of
from paraphrase.sweep.record.views import MODE, SHARED_VIEW
from paraphrase.sweep.settings.folder import ARTIFACTS, artifact_root, read_sweep, tracking_uri, without_password
from paraphrase.sweep.study.results import load
from paraphrase.sweep.study.study import identity_of

START_SECONDS, END_SECONDS = 60.0, 3.0


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on.

    Raises:
        InputError: if there is none among the next hundred.
    """
    for port in range(first, min(first + 100, 65536)) if first > 0 else ():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InputError(f"--port {first}: must be a number from 1 to 65535 with a free port after it")


def page(uri: str, experiment: str, identity: str | None) -> str:
    """The part of the address after the host: the experiment, or the view of a sweep's trials, or its run while there is none."""
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return "/"
    if identity and SHARED_VIEW + identity in found.tags:
        return f"/#/experiments/{found.experiment_id}/runs?viewStateShareKey={identity}&compareRunsMode=CHART&{MODE}"
    if identity and (runs := runs_of(client, found.experiment_id, identity, "kind = 'sweep'")):
        return f"/#/experiments/{found.experiment_id}/runs/{runs[0].info.run_id}?{MODE}"
    return f"/#/experiments/{found.experiment_id}/runs?{MODE}"


def serve(name: str | None, port: int, browser: bool) -> int:
    """Run MLflow's server until Ctrl-C or SIGTERM.

    Args:
        name: a sweep; None: the home folder's own store.
    """
    sweep = read_sweep(name) if name else None
    uri = tracking_uri(sweep) if sweep else f"sqlite:///{home() / 'mlflow.db'}"
    experiment = sweep.experiment if sweep else "paraphrase"
    if not sweep and not (home() / "mlflow.db").exists():
        raise InputError(f"ui: nothing is recorded in {home()} yet; start a sweep, or set PARAPHRASE_HOME")

    def address() -> str:
        quiet_mlflow()
        study = load(name)[1] if name else None
        return page(uri, experiment, identity_of(study) if study else None)

    if uri.startswith("http"):
        with waiting("loading mlflow"):
            print(f"{without_password(uri).rstrip('/')}{address()}")
        return 0
    port = free_port(port)
    artifacts = (sweep and artifact_root(sweep)) or (home() / ARTIFACTS).as_uri()
    with _server(port, uri, artifacts) as server:
        with waiting("starting MLflow's server"):
            url = f"http://127.0.0.1:{port}{address()}"  # meanwhile
            _wait(server, port)
        print(f"{url}\nCtrl-C ends it", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(url)
        return server.wait()


@contextmanager
def _server(port: int, uri: str, artifacts: str) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server, which ends with all that it started however this process is told to end.

    As `mlflow server` starts it, which itself takes three seconds to be imported before it does.
    """
    where = {
        "_MLFLOW_SERVER_FILE_STORE": uri,  # which may hold a password, and arguments are seen by all
        "_MLFLOW_SERVER_ARTIFACT_ROOT": artifacts,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), "mlflow.server.fastapi_app:app"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | where,
        start_new_session=True,
    )
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield server
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        signal.signal(signal.SIGTERM, before)
        for last in (signal.SIGTERM, signal.SIGKILL):  # it waits for browsers that stay connected
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, last)
                server.wait(END_SECONDS)


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise InputError(f"ui: MLflow's server did not start on port {port} within {START_SECONDS:.0f} s")
