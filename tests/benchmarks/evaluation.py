"""What measuring costs: all metrics after an epoch, and after the last one, as shares of the epoch's training.

    python tests/benchmarks/evaluation.py [path=value ...]

Of the default explainer on the menagerie unless fields say otherwise; the last epoch's measures, table of filters included,
are counted apart, since they come once a trial.
"""

from __future__ import annotations

import sys
import time

import torch

from paraphrase.core.config import load_config
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.measure.evaluation import evaluate
from paraphrase.core.measure.filter_table import filters_csv
from paraphrase.core.train.training import Training

REPEATS = 5


def seconds(run) -> float:
    """The median of some runs, after one that warms up."""
    run()
    taken = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return sorted(taken)[REPEATS // 2]


def main() -> None:
    torch.set_num_threads(1)  # as a trial's
    config = load_config(None, sys.argv[1:])
    training = Training(config, open_cache(config))
    entry = training.run_epoch()
    measured = training.explainer, training.cache, training.autocast
    each, last = seconds(lambda: evaluate(*measured)), seconds(lambda: evaluate(*measured, at_end=True))
    table = seconds(lambda: filters_csv(*measured))
    training_alone = entry["seconds"] - each
    print(f"an epoch's training {training_alone:.2f} s")
    print(f"measures after each epoch {each:.2f} s, {each / training_alone:.1%} of it")
    print(f"measures after the last one {last:.2f} s, {last / training_alone:.1%}; table of filters {table:.2f} s")
    whole = config.train.epochs * training_alone
    print(f"in a trial of {config.train.epochs} epochs {(each * (config.train.epochs - 1) + last + table) / whole:.1%}")


if __name__ == "__main__":
    main()
