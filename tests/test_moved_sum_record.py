"""The script that adds a teacher from another shop to free signals, and its record."""

import json

import chapter_text
import numpy as np
import pytest
import tiny_baskets
from test_run import judgments, shop

import measure_moved_sum as script
from ecomkd import features, report, transfer
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.relevance import judge, stages

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]
TOLD = "bi-encoder + teacher − bi-encoder"


@pytest.fixture
def shoes(tmp_path, monkeypatch):
    """A shop whose bi-encoder knows nothing, and a teacher from elsewhere that knows all."""
    profile = Profile.named("smoke", artifacts=tmp_path / "artifacts")
    monkeypatch.setattr(script.Profile, "named", lambda *_, **__: profile)
    found = sources.load(shop(tmp_path / "shoes", judgments()), profile)
    monkeypatch.setattr(script, "load", lambda *_: found)
    monkeypatch.setattr(stages, "teacher", lambda *_: tmp_path)
    monkeypatch.setattr(transfer, "scores", lambda _, pairs, __: judge.worth(pairs))
    monkeypatch.setattr(transfer, "restyled", lambda data: data)
    noise = np.random.default_rng(0)
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: noise.random(len(pairs)))
    return found


def test_a_sum_takes_the_teacher_that_few_queries_prefer(shoes, tmp_path, monkeypatch):
    folder, out = tmp_path / "parts", tmp_path / "record.json"
    monkeypatch.setattr(script.shared, "real_folder", lambda name: name)
    monkeypatch.setattr(script.sources, "load", lambda *_: shoes)
    for line in ("icecat --seeds 1 2", f"--merge --out {out}"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["seeds"] == [1, 2]
    asked = len(set(shoes["test"]["query_id"]))
    for name, targets in (("simulated", 2), (script.ICECAT, 1)):
        own = record["data"][name]
        assert (own["targets"], own["queries"]) == (targets, targets * asked)
        rows = {row: one["value"] for row, one in own["rows"].items()}
        assert rows["teacher from elsewhere"] == pytest.approx(1)
        assert rows["bi-encoder + teacher"] > rows["bi-encoder"]
        gap = rows["bi-encoder + teacher"] - rows["bi-encoder"]
        assert own["minus"][TOLD]["value"] == pytest.approx(gap)
        assert own["weights"]["bi-encoder + teacher"][1] == 1
        assert len(own["rows"]["random"]["by target"]) == targets
    assert [goal["met"] for goal in record["goals"]] == [True] * 4


def test_draws_are_of_whole_queries_and_differ():
    queries = np.repeat([f"q{number}" for number in range(40)], 3)
    draws = script.drawn(queries, 0)
    assert len(draws) == script.DRAWS
    assert all(len(set(queries[rows])) == script.FEW for rows in draws)
    assert all(len(rows) == 3 * script.FEW for rows in draws)
    assert len({tuple(rows) for rows in draws}) == script.DRAWS


def test_what_chapter_13_says_of_the_sum_is_in_the_record():
    text = chapter_text.of("13_cross_platform")
    assert "Both are small, and just told from nothing. The teacher alone minus" in text
    assert "nothing that can be told. Both goals are missed there, with BM25 and without." in text
    record = report.recorded("moved_sum")
    shops, real = (record["data"][name]["minus"] for name in ("simulated", script.ICECAT))
    assert record["data"]["simulated"]["targets"] == len(record["seeds"]) == 10
    for name in (TOLD, "BM25 + bi-encoder + teacher − BM25 + bi-encoder"):
        assert 0 < shops[name]["low"] < shops[name]["value"] < 0.01
        assert real[name]["low"] <= 0 <= real[name]["high"]
    alone = shops["teacher from elsewhere − bi-encoder"]
    assert alone["low"] < 0 < alone["high"]
    assert real["teacher from elsewhere − bi-encoder"]["high"] < 0
    assert [goal["met"] for goal in record["goals"]] == [True, True, False, False]
