"""What the filter loss is worth: `python ablations/no_filter_loss.py [config.yaml] [path=value ...] [--seeds N]`."""

import sys

from ablations.cli import main

if __name__ == "__main__":
    sys.exit(main(["ablate", "--ablations", "no_filter_loss", *sys.argv[1:]]))
