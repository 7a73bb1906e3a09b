"""What chapter 19 concludes from the records of scoring and training over several processes."""

import chapter_text
import pytest

from ecomkd import report
from ecomkd.scale import cost

CHAPTER = chapter_text.of("19_growing")


@pytest.fixture(scope="module")
def scoring() -> dict:
    return report.recorded("scoring_scale")["data"]


@pytest.fixture(scope="module")
def training() -> dict:
    return report.recorded("training_scale")["data"]


def row(record: dict, model: str, way: str, pairs: int) -> dict:
    key = {"model": model, "way": way, "pairs": pairs}
    (found,) = (one for one in record["table"] if key.items() <= one.items())
    return found


def ratio(record: dict, model: str, rate: str, way: str, over: str) -> dict:
    key = {"model": model, "rate": rate, "way": way, "over": over}
    (found,) = (one for one in record["ratios"] if key.items() <= one.items())
    return found


def most(record: dict, model: str) -> int:
    return max(record["sizes"][model])


def test_each_record_is_whole_and_tells_its_rounds():
    for name in ("scoring_scale", "training_scale"):
        record = report.recorded(name)
        assert len(record["seeds"]) >= 3 and record["generator"]
        for goal in record["goals"]:
            assert goal["low"] <= goal["value"] <= goal["high"]


def test_ray_starts_longer_than_a_few_pairs_take(scoring):
    assert "For so few Ray is not needed." in CHAPTER
    local, ray = (
        row(scoring, "student", way, 64)["first_part_seconds"]
        for way in ("local", "Ray, one worker")
    )
    assert ray["low"] > local["high"]
    whole = row(scoring, "student", "local", most(scoring, "student"))["seconds"]["value"]
    assert ray["value"] - local["value"] > whole
    assert ratio(scoring, "student", "whole", "Ray, one worker", "local")["high"] < 1


def test_two_workers_are_hardly_quicker_than_two_threads_of_one_process(scoring):
    found = ratio(scoring, "teacher", "running", "Ray, two workers", "local, two threads")
    assert 1 < found["value"] < 1.25
    assert (
        f"On one machine it brings little, for two workers are only {found['value']:.2f} times as"
        " quick as one process on two threads."
    ) in CHAPTER


def test_a_worker_of_ray_is_as_quick_as_a_process_once_it_runs_and_starts_long(scoring):
    assert (
        "So of whole calls (1,024 pairs of the teacher, 4,096 of the student) Ray takes half or"
        " more for its start,"
    ) in CHAPTER
    for model in ("teacher", "student"):
        running = ratio(scoring, model, "running", "Ray, one worker", "local")
        whole = ratio(scoring, model, "whole", "Ray, one worker", "local")
        assert running["value"] > 0.9 and whole["high"] < 0.55
    goals = [goal for goal in report.recorded("scoring_scale")["goals"] if not goal["met"]]
    assert len(goals) == 3  # the whole calls, and the student on two workers
    student = ratio(scoring, "student", "running", "Ray, two workers", "Ray, one worker")
    assert 1.5 < student["value"] < 1.7


def test_two_workers_score_more_than_one(scoring):
    for model in ("teacher", "student"):
        found = ratio(scoring, model, "running", "Ray, two workers", "Ray, one worker")
        assert 1 < found["value"] < 2.1


def test_who_scores_changes_no_score_and_memory_is_flat(scoring):
    goals = {goal["name"]: goal for goal in report.recorded("scoring_scale")["goals"]}
    assert next(goal for name, goal in goals.items() if "log-probability" in name)["met"]
    assert scoring["memory"]["ratio"] <= 1.1
    assert scoring["memory"]["pairs"][1] == 10 * scoring["memory"]["pairs"][0]


def test_a_student_is_cheaper_and_pays_for_itself(scoring, training):
    """ "… is paid for after … pairs": far fewer than the billion of the section."""
    rate = {
        model: row(scoring, model, "Ray, one worker", most(scoring, model))["running"]["value"]
        for model in ("teacher", "student")
    }
    assert cost.times_cheaper(rate["teacher"], rate["student"]) > 2
    seconds = 2 * 8_000 / training["ways"]["one process"]["per_second"]["value"]
    assert 8_000 < cost.break_even(rate["teacher"], rate["student"], 8_000, seconds) < 10**6


def test_two_processes_learn_what_one_learns_and_sooner(training):
    assert training["off"]["loss"] <= 2e-4 and training["killed"]["off"]["loss"] <= 2e-4
    assert training["ways"]["two processes"]["over_one"]["low"] > 1


def test_a_student_fits_a_card_many_times(training):
    """ "The student takes … MB, which is … % of a card of 16 GiB": 4 bytes a weight, and 12 more
    for each that is trained."""
    held = 4 * training["parameters"] + 12 * training["trained"]
    assert held < 0.02 * 16 * 2**30
