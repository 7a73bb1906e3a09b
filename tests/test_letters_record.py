"""N-grams of letters beside words over a whole catalogue: weights, and the record."""

from functools import partial

import chapter_text
import numpy as np
import pytest

import measure_letters as script
from ecomkd import report
from ecomkd.config import Profile
from ecomkd.search.tune import WORDS


def test_the_best_weights_are_those_of_the_highest_quality_and_the_first_of_equals():
    """One query; the right product is that of the letters, and words name another one."""
    letters, of_words, cosines = np.eye(3)[None, 0], 10 * np.eye(3)[None, 1], np.zeros((1, 3))
    right = lambda rows: float(rows[0, 0] == 0)  # noqa: E731
    assert script.best(cosines, letters, of_words, right, (0.5, 1.0)) == (0.5, 0.0)
    wrong = lambda rows: float(rows[0, 0] == 1)  # noqa: E731
    share, strength = script.best(cosines, letters, of_words, wrong, (1.0,))
    assert (share, strength) == (1.0, min(one for one in WORDS if 10 * one > 1))


def test_all_systems_order_the_whole_catalogue(tmp_path, monkeypatch):
    profile = Profile.named("smoke", seed=900, artifacts=tmp_path)
    monkeypatch.setattr(Profile, "named", lambda **_: profile)
    draw = np.random.default_rng(0)
    monkeypatch.setattr(
        script.features, "embed", lambda texts, *_, **__: draw.normal(size=(len(texts), 4))
    )
    found = script.measured(900)
    compared = {name for pair in script.COMPARED for name in pair}
    assert set(found["systems"]) == compared | {script.UNTRAINED}
    assert found["weights"][script.WORDED]["letters"] == 1.0
    assert found["weights"][script.FREE_MENDED]["letters"] == 0.0
    order = {name: np.mean(list(of["ndcg@10"].values())) for name, of in found["systems"].items()}
    # Vectors that are drawn order at random; words and letters do not.
    assert min(order[name] for name in (script.MENDED, script.LETTERS)) > order[script.UNTRAINED]
    assert set(found["kinds"]) == set(found["systems"][script.MENDED]["ndcg@10"])


# The record


span = partial(chapter_text.span, value="mean")


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("letters")


def test_chapter_8_says_what_letters_add(recorded):
    found = {
        (one["system"], one["against"]): one["seeds"] for one in recorded["data"]["differences"]
    }
    words, summed = (
        found[script.WORDED, script.MENDED],
        found[script.ALL, script.FREE_MENDED],
    )
    assert words["low"] > 0 and summed["low"] < 0 < summed["high"]
    (each,) = (
        one["by_seed"]
        for one in recorded["data"]["differences"]
        if (one["system"], one["against"]) == (script.ALL, script.FREE_MENDED)
    )
    assert max(each) < 0
    assert [goal["met"] for goal in recorded["goals"]] == [True, False]
    told = (
        f"n-grams of titles' letters add {span(words)} to mended BM25; they lower its sum with the "
        f"vectors in each, not told over shops ({span(summed)})."
    )
    assert told in chapter_text.of("08_search")


def test_systems_without_letters_are_those_of_the_controls(recorded):
    """The same shops, queries and judgments."""
    before = report.recorded("search_controls")
    assert recorded["seeds"] == before["seeds"] and recorded["generator"] == before["generator"]
    for name in (script.PLAIN, script.MENDED, script.UNTRAINED, script.FREE_MENDED):
        rows = (one["data"]["rows"][name]["ndcg@10"] for one in (recorded, before))
        assert round(next(rows), 3) == round(next(rows), 3)


def test_no_weight_of_words_is_at_an_end(recorded):
    for weights in recorded["data"]["weights"].values():
        assert all(0 < one["words"] < max(WORDS) for one in weights.values())
        assert 0 < weights[script.ALL]["letters"] < max(script.SHARES)
