"""What chapter 19 concludes from the records of its engines."""

import chapter_text
import pytest

from ecomkd import report
from ecomkd.search import hosted

CHAPTER = chapter_text.of("19_growing")


@pytest.fixture(scope="module")
def sizes() -> dict[int, dict]:
    rows = report.recorded("engine_scale")["data"]["sizes"]
    return {row["products"]: row for row in rows}


@pytest.fixture(scope="module")
def engines() -> dict[tuple[str, int], dict]:
    """The rows with so many candidates as an index takes for the size."""
    rows = report.recorded("engines")["data"]["rows"]
    return {
        (row["engine"], row["products"]): row
        for row in rows
        if row["candidates"] == hosted.enough(row["products"])
    }


def test_a_million_products_start_within_seconds_and_are_searched_in_milliseconds(sizes):
    million = sizes[1_000_000]
    assert million["warm_start_s"] < million["cold_start_s"] <= 5
    assert million["words and vectors"]["p95_ms"] <= 25
    assert million["recall"] >= 0.95
    assert million["asked"]["own_mb"] < 200 < million["asked"]["mapped_mb"]


def test_cells_are_quicker_than_all_and_need_not_be_where_all_are_few(sizes):
    million = sizes[1_000_000]
    for share in ("p50_ms", "p95_ms"):
        assert million["words and vectors"][share] < million["compared with all"][share]
    assert all(sizes[few]["recall"] == 1 for few in (1_000, 10_000))


def test_the_student_costs_more_than_the_search(sizes):
    assert "What costs more by then is the student:" in CHAPTER
    million = sizes[1_000_000]
    assert million["student reads 20"]["p95_ms"] > 2 * million["words and vectors"]["p95_ms"]


NAMES = ("lance", "postgres")


def test_engines_find_nearly_all_of_a_hundred_thousand_and_one_has_the_goal_at_a_million(
    engines,
):
    assert "Up to 100,000 products both find nearly all of the exact first ten." in CHAPTER
    for name in NAMES:
        assert all(engines[name, few]["all"]["recall"] >= 0.98 for few in (10_000, 100_000))
    lance, postgres = (engines[name, 1_000_000] for name in NAMES)
    kept = ("all", "a third", "a tenth", "a hundredth")
    assert min(lance[name]["recall"] for name in kept) >= 0.95 > postgres["all"]["recall"] > 0.94
    assert lance["all"]["p95_ms"] <= 100 < postgres["all"]["p95_ms"]
    found, less = (f"{100 * one['all']['recall']:.1f} %" for one in (lance, postgres))
    assert (
        f"LanceDB then finds {found} and meets the goal; PostgreSQL, with {less}, just misses it."
    ) in CHAPTER


def test_more_candidates_find_more_and_take_longer():
    rows = report.recorded("engines")["data"]["rows"]
    found, less = (
        f"{100 * row['all']['recall']:.1f} %"
        for row in rows
        if (row["products"], row["candidates"]) == (1_000_000, 100)
    )
    assert (
        f"a hundred candidates of each kind found {found} of them in LanceDB and {less} in Post"
    ) in CHAPTER
    for name in NAMES:
        few, more = (row for row in rows if (row["engine"], row["products"]) == (name, 1_000_000))
        assert (few["candidates"], more["candidates"]) == (100, hosted.enough(1_000_000))
        assert more["all"]["recall"] - few["all"]["recall"] > 0.05
        assert more["all"]["p95_ms"] > few["all"]["p95_ms"]
    held = report.recorded("engine_scale")["data"]["candidates"]
    assert held["products"] == 1_000_000 and held["shares"]["100"] >= 0.95


def test_the_folder_is_quicker_and_finds_more_at_a_million(engines, sizes):
    own = sizes[1_000_000]
    for name in NAMES:
        row = engines[name, 1_000_000]
        assert own["words and vectors"]["p95_ms"] < row["all"]["p95_ms"]
        assert own["recall"] > row["all"]["recall"]


def test_a_hundred_products_are_put_in_less_than_half_a_second(engines):
    assert all(engines[name, 1_000_000]["put_s"]["median"] < 0.5 for name in NAMES)
