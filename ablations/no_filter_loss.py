"""What the filter loss is worth: `python ablations/no_filter_loss.py [config.yaml] [path=value ...] [--seeds N]`."""

import sys

from ablations.suite import main

if __name__ == "__main__":
    sys.exit(main(["no_filter_loss"]))
