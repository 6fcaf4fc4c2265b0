from __future__ import annotations

from paraphrase.core.measure.verdicts import performer_verdict, verdicts

SOUND = {"distinct_filters": 12.0, "parts_tracked": 4.0, "location_instability": 0.05, "p": 0.9}
ROWS = {"performer": {"distinct_filters": 28.0}}


def test_a_sound_explainer_gets_no_line() -> None:
    assert verdicts(SOUND, ROWS) == [] and verdicts({"p": 0.9}, {}) == []


def test_what_is_wrong_is_said() -> None:
    (collapsed,) = verdicts(SOUND | {"distinct_filters": 1.1}, ROWS, "trial 3")
    assert collapsed == "trial 3: its filters are one detector many times over (distinct filters 1.1)"
    assert verdicts(SOUND | {"distinct_filters": 1.1}, {"performer": {"distinct_filters": 1.2}}) == []
    assert "no part is tracked better than by chance" in verdicts(SOUND | {"parts_tracked": 0.0}, ROWS)[0]
    assert "p is not defined" in verdicts({k: v for k, v in SOUND.items() if k != "p"}, ROWS)[0]


def test_a_performer_at_chance_is_named() -> None:
    assert performer_verdict(0.36, 3, 60) == (
        "the performer is right on 36% of the test images, no better than guessing among 3 categories"
    )
    assert performer_verdict(0.6, 3, 60) is None and performer_verdict(None, 3, 60) is None
    assert performer_verdict(0.5, 2, 100) is not None
