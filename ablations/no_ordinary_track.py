"""What the ordinary track is worth: `python ablations/no_ordinary_track.py [config.yaml] [path=value ...] [--seeds N]`."""

import sys

from paraphrase.cli import main

NAME = "no_ordinary_track"
"""Of the ablation, and of the suite unless `--name` says otherwise."""

if __name__ == "__main__":
    sys.exit(main(["ablate", "--ablations", NAME, "--name", NAME, *sys.argv[1:]]))
