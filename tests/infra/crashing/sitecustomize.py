"""Has the process that writes to MLflow for a driver come to its points, too: `crash.py` puts this folder into its path."""

import json
import os
import sys
from pathlib import Path

if told := os.environ.get("CRASH"):
    sys.path.append(str(Path(__file__).parents[1]))
    from crash import Killer, watch_writes

    watch_writes(Killer(*json.loads(told), whom=os.getppid()))
