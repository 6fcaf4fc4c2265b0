"""What the ordinary track is worth: `python ablations/no_ordinary_track.py [config.yaml] [path=value ...] [--seeds N]`."""

import sys

from ablations.suite import main

if __name__ == "__main__":
    sys.exit(main(["no_ordinary_track"]))
