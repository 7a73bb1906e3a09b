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


def test_after_a_first_stage_that_learnt_the_teachers_labels_reading_brings_little(quality):
    """Chapter 8, under its frontier."""
    sums = {name: f"BM25 + {name}" for name in ("bi-encoder, untrained", "bi-encoder")}
    adds = {
        name: quality[f"{both}, student reads 20"] - quality[both] for name, both in sums.items()
    }
    by_teacher = quality["BM25 + bi-encoder, teacher reads 100"] - quality["BM25 + bi-encoder"]
    assert max(adds["bi-encoder"], by_teacher) < adds["bi-encoder, untrained"] / 2


def test_the_table_with_words_is_a_thousand_times_as_fast_as_the_search_with_the_teacher(quality):
    rows = report.recorded("search_shop")["data"]["rows"]
    fast, best = (
        rows[f"BM25 + {name}"] for name in ("static student", "bi-encoder, teacher reads 100")
    )
    assert best["p50_ms"] > 1_000 * fast["p50_ms"]
    others = ("bi-encoder, untrained", "bi-encoder, labels")
    assert all(fast["ndcg@10"] > quality[f"BM25 + {other}"] + 0.02 for other in others)


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


def test_the_table_keeps_nearly_all_of_the_teachers_lift_and_what_is_free_does_not():
    rows = report.recorded("search_shop")["data"]["rows"]
    kept = {name: row["of the teacher's lift"] for name, row in rows.items()}
    assert kept["BM25 + static student"]["low"] > 0.96
    assert kept["BM25 + bi-encoder, untrained"]["high"] < 0.85
    assert kept["BM25 + bi-encoder, labels"]["high"] < kept["BM25 + static student"]["low"]
    best = kept["BM25 + bi-encoder, teacher reads 100"]
    assert all(end == pytest.approx(1) for end in best.values())


def test_on_icecat_what_nobody_judged_decides_between_words_and_vectors():
    """Chapter 8: the sign turns with the unjudged; training helps by neither measure."""
    data = report.recorded("search_icecat")["data"]
    found = {(row["system"], row["minus"]): row for row in data["differences"]}
    measures = ("ndcg@10", "condensed ndcg@10")
    whole, known = (found["bi-encoder, untrained", "BM25"][name] for name in measures)
    assert whole["high"] < 0 < known["low"]
    rows = ("untrained", "labels", "distilled")
    untrained, labels, distilled = (f"bi-encoder, {row}" for row in rows)
    both, free = "BM25 + bi-encoder", f"BM25 + {untrained}"
    for pair in ((labels, untrained), (distilled, labels), (both, free)):
        assert all(found[pair][name]["low"] < 0 < found[pair][name]["high"] for name in measures)
    whole, known = (found[free, "BM25"][name] for name in measures)
    assert whole["low"] < 0 < min(whole["high"], known["low"])
    # Its teacher is nearly shut out by validation, so that its reading says little.
    asked = [fold["bi-encoder, distilled, 100 read"]["reranker"] for fold in data["weights"]]
    assert len(asked) == 5 and sorted(asked)[-2] <= 0.03
    # By rank, its encoder does better than in a sum; whether than in the untrained sum is not told.
    assert all(found[f"{both}, by rank", both][name]["low"] > 0 for name in measures)
    for name in measures:
        span = found[f"{both}, by rank", free][name]
        assert span["low"] < 0 < span["high"]
    # In a sum, labels alone and the table lose against untrained vectors, by one measure each.
    whole, known = (found[f"BM25 + {labels}", free][name] for name in measures)
    assert whole["high"] < 0 < known["high"]
    whole, known = (found["BM25 + static student", free][name] for name in measures)
    assert known["high"] < 0 < whole["high"]
    assert data["profile"]["max_length"] == 96 and data["profile"]["live_pairs"] == 8_000
