from __future__ import annotations

import pytest

from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import Resources
from paraphrase.sweep.workers.cluster import cluster, concurrency


def test_address_of_a_job_server_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match=r"resources\.address: http://127\.0\.0\.1:8265 is a job server"), cluster(Resources()):
        pass


def test_as_many_trials_as_fit_run_at_once() -> None:
    assert concurrency(Resources(cpus_per_trial=2), {"CPU": 8}, 12) == 4
    assert concurrency(Resources(gpus_per_trial=0.25), {"CPU": 8, "GPU": 1}, 12) == 4
    assert concurrency(Resources(), {"CPU": 8, "GPU": 2}, 12) == 2
    assert concurrency(Resources(concurrency=3), {"CPU": 8}, 12) == 3
    with pytest.raises(InputError, match=r"resources\.cpus_per_trial: 4 do not fit; there are 2"):
        concurrency(Resources(cpus_per_trial=4), {"CPU": 2}, 12)
