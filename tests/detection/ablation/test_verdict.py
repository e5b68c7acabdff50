"""Verdicts: right where the truth is planted, silent where nothing can be told, rarely wrong where arms are equal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detection.ablation.verdict import (
    difference_of,
    holm,
    labels_for,
    points,
    sentence,
    signs_of,
    verdicts,
    worth_of,
    worth_words,
)


def measured(truth: float, seeds: int, of_seeds: float, of_images: float, rng: np.random.Generator) -> tuple:
    """Differences of seeds on the same images, and draws of those images around what was seen."""
    shared = rng.normal(0, of_images)
    each = truth + shared + rng.normal(0, of_seeds, seeds)
    return each, each.mean() + rng.normal(0, of_images, 400)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_arms_are_said_to_help_at_most_five_times_in_a_hundred(seeds: int) -> None:
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(1000):
        pair = [difference_of(*measured(0.0, seeds, 0.01, 0.006, rng)) for _ in range(2)]  # two arms
        kinds.append([verdict.kind for verdict in verdicts(pair, 500)])
    wrong = sum("helps" in both for both in kinds)
    assert wrong <= 50
    assert sum("helps" in both or "hurts" in both for both in kinds) <= 50 + 3 * math.sqrt(50)


def test_intervals_hold_the_truth_where_seeds_and_images_both_matter() -> None:
    rng = np.random.default_rng(1)
    for of_seeds, of_images in ((0.01, 0.002), (0.004, 0.01), (0.0, 0.01)):
        held = 0
        for _ in range(1000):
            one = difference_of(*measured(0.02, 4, of_seeds, of_images, rng))
            held += one.low <= 0.02 <= one.high
        assert held >= 930


def test_planted_differences_come_out() -> None:
    rng = np.random.default_rng(2)
    large, none, small = (
        difference_of(*measured(truth, 5, spread, spread / 2, rng))
        for truth, spread in ((0.06, 0.005), (0.0, 0.0005), (0.004, 0.02))
    )
    helps, same, unknown = verdicts([large, none, small], 200)
    assert (helps.kind, same.kind, unknown.kind) == ("helps", "no difference that matters", "cannot tell")
    (hurts,) = verdicts([large._replace(mean=-large.mean, low=-large.high, high=-large.low)], 200)
    assert hurts.kind == "hurts"


def test_what_would_settle_it_does() -> None:
    """With as many seeds as asked for, the interval of the same spread is no wider than the margin."""
    each = np.array([0.0, 0.02, -0.01, 0.012])
    one = difference_of(each, np.random.default_rng(0).normal(0.0055, 0.001, 2000))
    (verdict,) = verdicts([one], 1000)
    assert verdict.more_seeds is not None
    many = len(each) + verdict.more_seeds
    error = math.hypot(one.of_seeds * math.sqrt(len(each) / many), one.of_images)
    assert 1.96 * error <= 0.005 < 1.96 * math.hypot(one.of_seeds * math.sqrt(len(each) / (many - 1)), one.of_images)
    assert verdict.more_images is None, "seeds alone are too uncertain"
    of_images = difference_of([0.01, 0.01, 0.01], np.random.default_rng(0).normal(0.01, 0.01, 2000))
    (verdict,) = verdicts([of_images], 1000)
    assert verdict.more_seeds is None and verdict.more_images is not None
    assert verdict.more_images == pytest.approx(1000 * ((1.96 * of_images.of_images / 0.005) ** 2 - 1), abs=2)


def test_holm_stops_at_the_first_that_fails() -> None:
    assert holm([0.01, 0.04, 0.03]) == [True, False, False]
    assert holm([0.01, 0.04, 0.02]) == [True, True, True]
    assert holm([0.06]) == [False] and holm([]) == []


def test_signs_need_six_seeds() -> None:
    assert signs_of(np.ones(5)) is None
    assert signs_of(np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])) == 2 / 64
    assert signs_of(np.zeros(6)) == 1.0
    assert signs_of(np.full(20, 0.1)) < 0.001


def test_one_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="one seed"):
        difference_of([0.1], np.zeros(10))


def test_the_sentence_says_by_how_much_and_how_sure() -> None:
    rng = np.random.default_rng(0)
    good = difference_of([0.030, 0.032, 0.031], rng.normal(0.031, 0.001, 500))
    (verdict,) = verdicts([good], 5000)
    assert sentence("vicreg", 0.1, verdict, 5000).startswith("vicreg helps with 10 % of the labels: +3.1 AP (95 %: +2.")
    vague = difference_of([-0.03, 0.05], rng.normal(0.01, 0.001, 500))
    (verdict,) = verdicts([vague], 87)
    text = sentence("vicreg", 1, verdict, 87)
    assert text.startswith("Nobody can tell yet whether vicreg helps with all labels: +1.0 AP") and "more seeds" in text
    assert points(-0.0312) == "-3.1"


# --- worth --------------------------------------------------------------------------------------


def test_labels_are_read_from_the_curve_of_scratch() -> None:
    logs = np.log([0.1, 0.4, 1.0])
    curve = np.array([0.1, 0.2, 0.3])
    assert labels_for(0.2, curve, logs) == pytest.approx(0.4)
    assert labels_for(0.15, curve, logs) == pytest.approx(0.2)  # half way between, over the logarithm
    assert labels_for(0.05, curve, logs) == 0 and math.isinf(labels_for(0.31, curve, logs))


def test_worth_is_in_times_of_the_labels_with_an_interval() -> None:
    rng = np.random.default_rng(0)
    scratch = {f: np.append(ap, ap + rng.normal(0, 0.003, 300)) for f, ap in ((0.1, 0.1), (0.4, 0.2), (1.0, 0.3))}
    arm = np.append(0.15, 0.15 + rng.normal(0, 0.003, 300))
    worth = worth_of(0.1, arm, scratch)
    assert worth is not None and worth.times == pytest.approx(2.0)
    assert 1.7 < worth.low < 2.0 < worth.high < 2.4
    assert worth_words("vicreg", 0.1, worth).startswith(
        "vicreg with 10 % of the labels is worth 2.0 times the labels (95 %: 1."
    )
    beyond = worth_of(0.4, np.full(301, 0.5), scratch)
    assert beyond is not None and "more than 2.5 times the labels" in worth_words("vicreg", 0.4, beyond)
    assert worth_of(1.0, arm, {1.0: arm}) is None
