"""Where everything that Paraphrase makes is kept."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The absolute folder of data, performers, caches and sweeps: $PARAPHRASE_HOME, else `.paraphrase` here.

    Inside the temporary copy of a working directory that a Ray job runs in, `.paraphrase` would vanish with the job, so
    there it is the one in the user's home folder.
    """
    if named := os.environ.get("PARAPHRASE_HOME"):
        return Path(named).expanduser().resolve()
    here = Path.cwd()
    if "working_dir_files" in here.parts:
        return Path.home() / ".paraphrase"
    return here / ".paraphrase"
