"""What chapter 8 and the pages around it conclude from the recorded searches."""

import pytest

from ecomkd import models, report


@pytest.fixture(scope="module")
def quality() -> dict[str, float]:
    rows = report.recorded("search_shop")["data"]["rows"]
    return {name: row["ndcg@10"] for name, row in rows.items()}


def test_a_re_ranker_alone_makes_the_order_worse_and_added_makes_it_better(quality):
    both = "BM25 + bi-encoder"
    alone, added = (f"{both}, teacher {how} 100" for how in ("alone orders", "reads"))
    assert quality[alone] < quality[both] < quality[added]


def test_distillation_is_one_factor_of_several_of_a_pair():
    """Layers, precision and runtime together are more than what distillation gives alone."""
    speed = report.recorded("core_shop")["data"]["speed"]
    alike = [speed[f"{who}, ONNX int8"]["p50_ms"] for who in ("teacher", "student")]
    rows = report.recorded("search_shop")["data"]["rows"]
    ms = {name: row["p50_ms"] for name, row in rows.items()}
    both = "BM25 + bi-encoder"
    by_teacher = (ms[f"{both}, teacher reads 100"] - ms[both]) / 100
    by_student = (ms[f"{both}, student reads 20"] - ms[both]) / 20
    assert 1 < alike[0] / alike[1] < by_teacher / by_student


def test_the_page_that_searches_has_an_english_vocabulary():
    """book/search_page.md counts its pieces, and those with a Chinese character."""
    pieces = models.load_tokenizer("minilm").get_vocab()
    chinese = [piece for piece in pieces if any("\u4e00" <= one <= "\u9fff" for one in piece)]
    assert (len(pieces), len(chinese)) == (30_522, 488)


def test_the_share_that_the_quick_search_keeps_has_the_interval_of_the_goal():
    goal = report.recorded("search_shop")["goals"][1]
    assert "10 times faster" in goal["name"] and "student reads 20" in goal["name"]
    assert goal["low"] < 1 < goal["high"]
