"""What the ordinary track is worth: `python ablations/no_ordinary_track.py [config.yaml] [path=value ...] [--seeds N]`."""

import sys

from ablations.cli import main

if __name__ == "__main__":
    sys.exit(main(["ablate", "--ablations", "no_ordinary_track", *sys.argv[1:]]))
