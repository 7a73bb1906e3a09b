"""What scores and searches cost in hours of machines, and from when on a student pays. Chapter 19.

Every number that goes in is measured: pairs per second, seconds per answer, an efficiency. Hours
become money through a price per hour, which is yours to know. A *worker* is whatever has the
measured rate: one core, one card, or one machine. All numbers of one sum are of the same worker.
"""

from __future__ import annotations

import math


def worker_hours(pairs: float, per_second: float, efficiency: float = 1.0) -> float:
    """Hours of work that are paid for until so many pairs are scored, over all workers together.

    Args:
        pairs: how many.
        per_second: pairs that one worker, alone, scores in a second.
        efficiency: rate of W workers over W times the rate of one: 1 is no loss.

    Raises ValueError for pairs below 0, and a rate or efficiency that is not above 0 and finite.

    Example:
        >>> worker_hours(36_000_000, per_second=100)
        100.0
        >>> worker_hours(36_000_000, per_second=100, efficiency=0.8)
        125.0
    """
    _above_0(per_second=per_second, efficiency=efficiency)
    _not_below_0(pairs=pairs)
    return pairs / (per_second * efficiency * 3600)


def times_cheaper(teacher_per_second: float, student_per_second: float) -> float:
    """How many hours of the teacher one hour of the student replaces, on the same worker.

    Raises ValueError for a rate that is not above 0 and finite.

    Example:
        >>> times_cheaper(teacher_per_second=100, student_per_second=500)
        5.0
    """
    _above_0(teacher_per_second=teacher_per_second, student_per_second=student_per_second)
    return student_per_second / teacher_per_second


def break_even(
    teacher_per_second: float,
    student_per_second: float,
    taught_pairs: float,
    training_seconds: float,
) -> float:
    """From how many pairs on distilling costs less than to score all pairs with the teacher.

    To distil, the teacher scores M pairs at t a second, training takes S seconds of a worker, and
    the student scores all N pairs at s a second. Both ways cost the same where
    N/t = M/t + S + N/s. Returns N, or infinity where the student is not quicker than the teacher.
    It is a sum of costs alone: what the student loses in quality is not in it. Training the teacher
    is paid for either way, and the M pairs are counted as if none were among the N.

    `taught_pairs` are M; `training_seconds` are S, those on the clock times the workers. Raises
    ValueError for a rate that is not above 0 and finite, and for pairs or seconds below 0.

    Example:
        >>> break_even(100, 500, taught_pairs=20_000, training_seconds=600)
        100000.0
    """
    _above_0(teacher_per_second=teacher_per_second, student_per_second=student_per_second)
    _not_below_0(taught_pairs=taught_pairs, training_seconds=training_seconds)
    if student_per_second <= teacher_per_second:
        return math.inf
    ahead = taught_pairs / teacher_per_second + training_seconds
    return ahead / (1 / teacher_per_second - 1 / student_per_second)


def _above_0(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}; give a number above 0.")


def _not_below_0(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; give a number that is not below 0.")
