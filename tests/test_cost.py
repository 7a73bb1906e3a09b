"""What scores cost: sums that can be done by hand, and what no sum is made of."""

import math

import pytest

from ecomkd.scale import cost


def test_workers_are_paid_for_what_they_lose():
    assert cost.worker_hours(7_200_000, per_second=200) == 10
    assert cost.worker_hours(7_200_000, 200, efficiency=0.5) == 20


def test_hours_grow_with_the_pairs_and_no_pair_costs_nothing():
    assert cost.worker_hours(10**9, 150) == pytest.approx(10 * cost.worker_hours(10**8, 150))
    assert cost.worker_hours(0, 150) == 0


def test_a_student_costs_less_by_the_ratio_of_the_rates():
    hours = cost.worker_hours(10**6, 80) / cost.worker_hours(10**6, 400)
    assert cost.times_cheaper(80, 400) == pytest.approx(hours) == 5


@pytest.mark.parametrize(("taught", "training"), [(0, 600), (20_000, 0), (20_000, 600)])
def test_both_ways_cost_the_same_at_the_break_even_and_distilling_less_beyond(taught, training):
    teacher, student = 90.0, 640.0

    def gained(pairs):
        by_teacher = cost.worker_hours(pairs, teacher)
        ahead = cost.worker_hours(taught, teacher) + training / 3600
        return by_teacher - ahead - cost.worker_hours(pairs, student)

    pairs = cost.break_even(teacher, student, taught, training)
    assert gained(pairs) == pytest.approx(0, abs=1e-12)
    assert gained(0.9 * pairs) < 0 < gained(1.1 * pairs)


def test_a_student_that_costs_nothing_to_make_pays_at_once_and_a_slow_one_never():
    assert cost.break_even(90, 640, 0, 0) == 0
    assert cost.break_even(90, 90, 20_000, 600) == math.inf
    assert cost.break_even(90, 50, 20_000, 600) == math.inf


def test_a_student_that_is_infinitely_quick_has_to_pay_for_its_making_alone():
    """N/t = M/t + S, as s grows."""
    assert cost.break_even(100, 1e12, 5_000, 30) == pytest.approx(5_000 + 100 * 30)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: cost.worker_hours(-1, 100), "pairs is -1; give a number that is not below 0"),
        (lambda: cost.worker_hours(1, 0), "per_second is 0; give a number above 0"),
        (lambda: cost.worker_hours(1, math.nan), "per_second is nan"),
        (lambda: cost.worker_hours(1, 100, efficiency=0), "efficiency is 0"),
        (lambda: cost.times_cheaper(-1, 5), "teacher_per_second is -1"),
        (lambda: cost.break_even(1, 2, -1, 0), "taught_pairs is -1"),
        (lambda: cost.break_even(0, 2, 1, 0), "teacher_per_second is 0"),
        (lambda: cost.break_even(1, 0, 1, 0), "student_per_second is 0"),
        (lambda: cost.times_cheaper(5, math.inf), "student_per_second is inf"),
        (lambda: cost.worker_hours(math.nan, 1), "pairs is nan"),
        (lambda: cost.break_even(1, 2, 0, -1), "training_seconds is -1"),
    ],
)
def test_what_no_sum_is_made_of_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
