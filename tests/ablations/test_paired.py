from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paraphrase.ablations.paired import (
    centre,
    compare,
    effect_size,
    holm,
    interval,
    mean_of_means,
    seeds_needed,
    sign_flip_test,
    smallest_p_value,
    too_few,
)


def all_flips(difference: np.ndarray) -> float:
    """The sign-flip test as a loop over every assignment of signs."""
    seen = abs(difference.mean())
    means = [abs((np.array(signs) * difference).mean()) for signs in itertools.product((1, -1), repeat=len(difference))]
    return sum(m >= seen - 1e-12 for m in means) / len(means)


@pytest.mark.parametrize("pairs", [2, 5, 8])
def test_few_pairs_are_tested_exactly(pairs: int) -> None:
    difference = np.random.default_rng(pairs).normal(0.5, 1, pairs)
    assert sign_flip_test([difference]) == pytest.approx(all_flips(difference))


def test_a_difference_of_one_sign_reaches_the_smallest_p_value() -> None:
    assert sign_flip_test([np.arange(1.0, 7.0)]) == pytest.approx(smallest_p_value(6))
    assert sign_flip_test([np.zeros(6)]) == 1.0
    assert math.isnan(sign_flip_test([np.ones(1)]))


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("seeds", [2, 4, 7])
def test_the_smallest_p_value_is_that_of_differences_of_one_sign(seeds: int, tasks: int) -> None:
    differences = np.random.default_rng(seeds).uniform(0.5, 1.0, (20, tasks, seeds))
    reached = min(sign_flip_test(list(d)) for d in differences)
    assert reached == pytest.approx(smallest_p_value(seeds, tasks), rel=0.5 if seeds * tasks > 13 else 1e-9)


@pytest.mark.parametrize("tasks", [1, 3])
def test_seeds_needed_is_the_fewest_that_can_reach_significance(tasks: int) -> None:
    for arms in (1, 2, 8, 13):
        seeds = seeds_needed(arms, tasks)
        assert smallest_p_value(seeds, tasks) * arms <= 0.05
        assert seeds == 2 or smallest_p_value(seeds - 1, tasks) * arms > 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


def test_holm_by_hand_and_without_what_is_not_defined() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02) and math.isnan(adjusted[1])


def test_comparison_is_of_arm_minus_base() -> None:
    base = np.array([1.0, 2.0, 3.0, 4.0])
    found = compare([base], [base + np.array([0.5, 0.7, 0.4, 0.6])])
    assert found.difference == pytest.approx(0.55) and found.low <= 0.55 <= found.high
    assert found.effect_size == pytest.approx((1 - 3 / 11) * 0.55 / np.std([0.5, 0.7, 0.4, 0.6], ddof=1))
    with pytest.raises(ValueError, match="finite"):
        compare([base], [np.array([1.0, math.nan, 1.0, 1.0])])


def test_an_interval_is_given_where_hardly_any_run_differs() -> None:
    low, high = interval([np.array([0.0, 0.0]), np.array([0.0, 0.0]), np.array([0.0, 1.0])])
    assert low <= 0.0 <= high and math.isfinite(low) and math.isfinite(high)


def test_equal_differences_have_no_spread() -> None:
    assert interval([np.full(5, 0.25)]) == (0.25, 0.25)
    assert math.isnan(effect_size([np.full(5, 0.25)]))


def test_two_pairs_have_no_effect_size() -> None:
    assert math.isnan(effect_size([np.array([1.0, 2.0])]))


def iqm(values: np.ndarray) -> float:
    """Mean of the middle half, as a loop over sorted values; for a number of values that 4 divides."""
    kept = sorted(values.tolist())[len(values) // 4 : len(values) - len(values) // 4]
    return sum(kept) / len(kept)


def test_several_tasks_are_compared_by_their_interquartile_mean() -> None:
    rng = np.random.default_rng(3)
    base = [rng.normal(task, 1, 4) for task in range(4)]
    arm = [b + rng.normal(0.4, 0.1, 4) for b in base]
    found = compare(base, arm)
    assert found.pairs == 16
    assert found.base == pytest.approx(iqm(np.concatenate(base))) and found.arm == pytest.approx(iqm(np.concatenate(arm)))
    differences = [a - b for a, b in zip(arm, base, strict=True)]
    assert found.difference == pytest.approx(iqm(np.concatenate(differences)))
    pooled = math.sqrt(sum(((d - d.mean()) ** 2).sum() for d in differences) / 12)
    assert found.effect_size == pytest.approx((1 - 3 / 47) * iqm(np.concatenate(differences)) / pooled)


def test_tasks_are_strata_of_the_interval() -> None:
    """Tasks that differ much in level, but whose runs hardly do, leave no doubt about their interquartile mean."""
    rng = np.random.default_rng(4)
    runs = [level + rng.normal(0, 0.01, 8) for level in (0.0, 10.0, 20.0)]
    low, high = interval(runs)
    assert low < centre(runs) < high and high - low < 0.05
    low, high = interval([np.concatenate(runs)])
    assert high - low > 3


@pytest.mark.parametrize("runs", [5, 8])
def test_interval_of_several_tasks_covers_the_truth_about_as_often_as_it_says(runs: int) -> None:
    rng = np.random.default_rng(runs)
    draws, covered = 300, 0
    for i in range(draws):
        low, high = interval([rng.normal(0.3, 1, runs) for _ in range(3)], seed=i)
        covered += low <= 0.3 <= high
    assert 0.91 <= covered / draws <= 0.99


def test_corrected_test_rarely_rejects_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    suites, arms, seeds = 400, 8, 9
    rejected = 0
    for _ in range(suites):
        base = rng.normal(size=seeds)
        p_values = [sign_flip_test([rng.normal(size=seeds) - base]) for _ in range(arms)]
        rejected += min(holm(p_values)) <= 0.05
    assert rejected / suites <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / suites)


@pytest.mark.parametrize("runs", [2, 3, 5, 7, 8, 20])
def test_interval_covers_the_true_difference_about_as_often_as_it_says(runs: int) -> None:
    rng = np.random.default_rng(runs)
    draws, covered = 400, 0
    for i in range(draws):
        low, high = interval([rng.normal(0.3, 1, runs)], seed=i)
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / draws <= 0.98


def test_the_interval_of_few_runs_is_students() -> None:
    runs = np.array([0.0025, 0.0060])
    expected = stats.ttest_1samp(runs, 0.0).confidence_interval(0.95)
    assert interval([runs]) == pytest.approx((expected.low, expected.high))
    both = [runs, runs + 10]
    low, high = interval(both, statistic=mean_of_means)
    assert (low + high) / 2 == pytest.approx(np.mean(both)) and high - low == pytest.approx(2 * 4.3027 * 0.00247487 / 2, rel=1e-4)


def test_a_line_says_where_pairs_are_too_few() -> None:
    assert too_few(2, 1, 2) == "2 seeds can never make one of 2 arms significant at 5 %; that takes 7"
    assert too_few(7, 1, 2) == "" == too_few(2, 1, 0)
