"""Which finalist is recommended."""

from __future__ import annotations

import dataclasses

import pytest
from tuning_fakes import finalist, ode_error

from hasten.tuning.recommendation import recommend
from hasten.tuning.records import Baseline

ANCESTRAL, UNKNOWN = Baseline(latency_ms=1000.0, how="timed"), Baseline(latency_ms=None, why="no")


@pytest.mark.parametrize(("rmse", "evaluations"), [(0.04, 5), (0.06, 20), (0.047, 20)])
def test_without_real_pictures_the_whole_interval_of_the_ode_error_decides(rmse, evaluations):
    # The interval of 0.047 reaches above the bar of 0.05.
    chosen, why = recommend([finalist(20, 0.01), finalist(5, rmse)], 0.05, ANCESTRAL, 1, 5.0)
    assert chosen.report.evaluations == evaluations, why
    assert f"{1000 // evaluations} times faster" in why


def test_where_no_plan_passes_the_closest_is_chosen_and_said_to_fail():
    chosen, why = recommend([finalist(5, 0.06), finalist(7, 0.055)], 0.05, UNKNOWN, 1, 5.0)
    assert chosen.report.evaluations == 7
    assert why == (
        "No plan's loss is below 0.05; this one came nearest: 7 evaluations, 7.0 ms a picture, "
        "ODE error 0.0550 (95%: 0.0495 to 0.0605, n = 64). More minutes may find a better one; "
        "--max-loss 0.061 would accept this one."
    )


def test_too_few_samples_are_said_to_be_too_few():
    chosen, why = recommend([finalist(7, 0.047)], 0.05, UNKNOWN, 1, 5.0)
    # The interval is 0.0047 to each side, and 0.003 would do: (0.0047 / 0.003)^2 = 2.45 times 64.
    assert why.endswith(
        "64 samples are too few to tell whether it passes; about 158 would (--minutes 13)."
    )
    assert chosen.report.evaluations == 7


@pytest.mark.parametrize(
    ("other", "evaluations"),
    [
        (finalist(5, 0.08, (-0.2, 0.3)), 5),  # ODE error is no bar, FD not measurably worse
        (finalist(5, 0.04, (0.1, 0.5)), 20),  # measurably worse
        (finalist(5, 0.04, (-0.2, 0.3), recall=0.7), 20),  # measurably less diverse
        (finalist(5, 0.04, (-0.2, 0.3), recall=0.8), 5),  # its interval reaches 0.88
        (finalist(5, 0.04), 20),  # its final quality was not measured
        (finalist(5, None, (-0.2, 0.3)), 5),  # draws noise, has no ODE error
    ],
)
def test_with_real_pictures_distance_and_recall_decide(other, evaluations):
    chosen, why = recommend([finalist(20, 0.01, (0.0, 0.0)), other], 0.05, ANCESTRAL, 1, 5.0)
    assert chosen.report.evaluations == evaluations, why
    assert "FD 1.00 (95%: 0.90 to 1.10, n = 2000; the most faithful plan's 1.00" in why


@pytest.mark.parametrize(("met", "evaluations"), [(0.85, 5), (0.7, 20)])
def test_a_plan_whose_pictures_show_less_of_what_was_asked_fails(met, evaluations):
    faithful = finalist(20, 0.01, (0.0, 0.0), met=0.9)
    chosen, why = recommend(
        [faithful, finalist(5, 0.2, (-0.2, 0.3), met=met)], 0.05, ANCESTRAL, 1, 5
    )
    assert chosen.report.evaluations == evaluations
    assert f"prompts met {met if evaluations == 5 else 0.9:.1%} (n = 2000)" in why


def test_the_plan_others_were_compared_with_stays_the_measure():
    measure = dataclasses.replace(finalist(10, 0.02, (0.0, 0.0)), faithful=True)
    luckier = finalist(8, 0.019)  # less ODE error on more samples, but without a final quality
    finalists = [measure, luckier, finalist(4, 0.06, (-0.2, 0.3))]
    chosen, why = recommend(finalists, 0.05, UNKNOWN, 1, 5.0)
    assert chosen.report.evaluations == 4, why


def test_the_latency_is_told_for_one_picture_of_a_batch():
    chosen, why = recommend([finalist(8, 0.01)], 0.05, UNKNOWN, 4, 5.0)
    assert "8 evaluations, 2.0 ms a picture" in why
    assert chosen.latency.median == 8


def test_a_plan_that_fails_on_fresh_noise_alone_is_not_advised_more_samples():
    fresh = ode_error(0.051)
    plan = dataclasses.replace(finalist(7, 0.044), fresh=fresh)
    chosen, why = recommend([plan], 0.05, UNKNOWN, 1, 5.0)
    assert chosen.fresh is fresh
    assert "too few" not in why
    assert why.endswith("--max-loss 0.051 would accept this one.")
