"""The script that moves cross-encoders between shops and languages, on made-up data; its page; and
what the recorded result has to say for the sentences of that page."""

import json
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import tiny_baskets
import tiny_models
from sklearn.metrics import average_precision_score, roc_auc_score

import measure_moved_pairs as script
from book import moved as page
from ecomkd import features, report
from ecomkd.config import Profile
from ecomkd.data.schema import GAINS
from ecomkd.search.retrieve import unit

SEEDS = (0, 1)


def offers(rng, size: int) -> pd.DataFrame:
    """Pairs of offers, which are the same product where they share their words."""
    words, rows = tiny_models.WORDS, []
    for i in range(size):
        same = i % 4 == 0
        left = rng.choice(words, 3, replace=False).tolist()
        right = left[::-1] if same else rng.choice(words, 3, replace=False).tolist()
        rows.append((*(json.dumps({"name": " ".join(one), "price": "7"}) for one in (left, right)),
                     int(same)))  # fmt: skip
    table = pd.DataFrame(rows, columns=["a", "b", "same"])
    return table.assign(split=np.repeat(["train", "validation", "test"], size // 3))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moved")
    rng, data = np.random.default_rng(0), folder / "data"
    (data / "product_matching").mkdir(parents=True)
    for name in script.PAIRS:
        offers(rng, 120).to_parquet(data / "product_matching" / f"{name}.parquet")
    size, text = 240, np.array(tiny_models.WORDS)
    judged = pd.DataFrame(
        {
            "query": rng.choice(text, size),
            "query_id": np.arange(size),
            "product_id": [f"p{i}" for i in range(size)],
            "product_title": rng.choice(text, size),
            **dict.fromkeys(script.TEXT[1:], ""),
            "product_locale": np.repeat(["us", "es", "jp"], size // 3),
            "esci_label": rng.choice(list(GAINS), size),
            "split": np.tile(["train", "train", "test"], size // 3),
        }
    )
    (data / "esci_sample").mkdir()
    judged.to_parquet(data / "esci_sample" / "judgments.parquet")
    start = tiny_models.save(tiny_models.bert(seed=1), folder / "start")
    own = tiny_models.profile(folder / "artifacts", teacher=str(start), frozen_layers=None)
    vectors = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)

    def embed(texts, profile, name="minilm", role="document"):
        return unit(vectors[[crc32(text.encode()) % 200 for text in texts]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECOMKD_REAL_DATA", str(data))
        patch.setattr(Profile, "named", staticmethod(lambda name=None, **changes: own))
        patch.setattr(features, "embed", embed)
        for name, value in {"GIVEN": 30, "FEW": 20, "HELD": 20, "ASKED": 30, "WARM_UP": 64,
                            "LONGEST": 24, "DRAWS": 30}.items():  # fmt: skip
            patch.setattr(script, name, value)
        script.vectors.cache_clear()
        script.english.cache_clear()
        listed, parts, out = " ".join(map(str, SEEDS)), folder / "parts", folder / "record.json"
        lines = [f"{kind} --seeds {listed}" for kind in script.MEASURES]
        for line in (*lines, f"--merge --out {out}"):
            tiny_baskets.call(patch, script, f"{line} --folder {parts}")
        script.vectors.cache_clear()
        script.english.cache_clear()
    files = {
        kind: [json.loads((parts / kind / f"seed{seed}.json").read_text()) for seed in SEEDS]
        for kind in script.MEASURES
    }
    return json.loads(out.read_text(encoding="utf-8")), files


def test_rows_are_means_over_seeds_of_what_scikit_learn_finds(record):
    data, files = record[0]["data"], record[1]
    for kind, wanted, measure, of in (
        ("matching", "same", average_precision_score, "targets"),
        ("languages", "exact", roc_auc_score, "markets"),
    ):
        for name, own in data[kind].items():
            for row, found in own["rows"].items():
                parts = [file[of][name] for file in files[kind]]
                value = np.mean([measure(part[wanted], part["rows"][row]) for part in parts])
                assert found["value"] == pytest.approx(value)
                assert found["low"] <= found["high"]


def test_differences_are_those_of_the_rows(record):
    for kind in ("matching", "languages"):
        for own in record[0]["data"][kind].values():
            for pair, found in own["minus"].items():
                a, b = pair.split(" − ")
                assert found["value"] == pytest.approx(
                    own["rows"][a]["value"] - own["rows"][b]["value"]
                )


def test_a_target_has_a_row_of_each_source_and_of_what_costs_nothing(record):
    for target, own in record[0]["data"]["matching"].items():
        sources = {f"from {name}" for name in script.PAIRS if name != target}
        assert sources < set(own["rows"]) and f"from {target}" not in own["rows"]
        assert {script.RANDOM, script.WORDS, script.COSINE, script.WHOLE} < set(own["rows"])
        assert set(own["f1"]) == set(script.PAIRS)


def test_a_market_learns_from_the_half_that_is_not_asked(monkeypatch):
    rng = np.random.default_rng(0)
    own, wanted = rng.normal(size=(40, 4)), rng.random(40) < 0.5
    queries = [f"q{i // 2}" for i in range(40)]
    seen = []

    def head(features, labels):
        seen.append(len(labels))
        return lambda others: others[:, 0]

    monkeypatch.setattr(script, "head", head)
    found = script.crossed(own, wanted, (own[:5], wanted[:5]), queries, 0)
    assert sorted(seen) == [20, 20, 25, 25]
    assert set(found) == {script.HALF, script.BOTH}


def test_a_threshold_is_the_best_one():
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert script.threshold(labels, scores) == 0.3


def test_the_page_has_a_row_for_each_move_and_numbers_at_the_right(record):
    """tools/book/moved.py, on made-up data."""
    data = record[0]["data"]
    text = page.matching_part(record[0])
    names = [name for name, *_ in page.moves(data)]
    assert len(set(names)) == len(script.PAIRS) * (len(script.PAIRS) - 1)
    assert all(text.count(f"| {name} |") == 5 for name in names)
    moved = data["matching"]["abt_buy"]["rows"]["from amazon_google"]
    shown = "| Amazon, Google → Abt, Buy | "
    assert any(
        line.startswith(shown) and line.endswith(f"{page.interval(moved)} |")
        for line in text.splitlines()
    )
    own = data["matching"]["abt_buy"]["minus"][f"{script.WHOLE} − {script.SIGNALS}, 20"]
    assert f"{page.gap(own)} |" in text
    heads = [line for line in text.splitlines() if line.startswith("| ---")]
    assert {cell for line in heads for cell in line.split("|")[2:-1]} == {" ---: "}
    assert "Means over two seeds." in text
    assert "30 of Abt, Buy" in text


def test_the_page_tells_each_language_and_leaves_out_what_was_not_measured(record):
    """tools/book/moved.py, on made-up data."""
    data, text = record[0]["data"], page.languages_part(record[0])
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line[:2] == "| "}
    assert set(page.ROWS.values()) < set(rows)
    assert set(page.ROWS) == set(data["languages"]["es"]["rows"])
    assert rows["head, pooled"].split("|")[2].strip() == "", "nothing of the home market"
    assert page.interval(data["languages"]["jp"]["rows"][script.BOTH]) in rows["head, pooled"]
    gap = page.gap(data["languages"]["es"]["minus"][f"{script.BOTH} − {script.HALF}"])
    assert gap in rows["head, pooled − head, labels of the own half"]
    assert "Goals met: " in text


def test_differences_are_counted_by_what_can_be_told():
    found = [(0.1, 0.2), (-0.1, 0.1), (-0.2, -0.1), (-0.3, -0.1)]
    told = page.counted([{"low": low, "high": high} for low, high in found])
    assert told.startswith("Of four differences one can be told to be above 0, two to be below")
    assert told.endswith("one to be neither.")


# The sentences of book/moved_pairs.md, and of chapter 13 ----------------------------------------


@pytest.fixture(scope="module")
def shipped():
    """The recorded result that the page tells of."""
    return report.recorded("moved_pairs")


@pytest.fixture(scope="module")
def matched(shipped):
    return shipped["data"]["matching"]


@pytest.fixture(scope="module")
def six(matched):
    """The rows and the differences of each move, and its name."""
    return [
        (own["rows"], own["minus"], moved) for _, own, moved in page.moves({"matching": matched})
    ]


def spans(six, a: str, b: str) -> list[dict]:
    """The difference of two rows of each move, where M is the moved cross-encoder."""
    return [minus[f"{a.replace('M', moved)} − {b.replace('M', moved)}"] for _, minus, moved in six]


FREE, OWN = "logistic regression of signals, M", "logistic regression of signals, 200"


def test_the_record_has_several_seeds_and_the_labels_that_the_page_names(shipped):
    data = shipped["data"]
    assert [len(data["seeds"][kind]) for kind in script.MEASURES] == [3, 5]
    assert (data["given"], data["few"]) == (script.GIVEN, script.FEW) == (3_000, 200)
    for own in data["matching"].values():
        assert 0.08 < own["share"] < 0.12, "about one pair in ten is the same product"


def test_in_each_move_the_cross_encoder_is_below_the_signals(six):
    found = spans(six, "M", FREE)
    assert len(found) == 6
    assert max(one["high"] for one in found) < 0


def test_the_best_moved_cross_encoder_beats_neither_words_nor_the_bi_encoder(shipped):
    goals = {goal["name"]: goal["met"] for goal in shipped["goals"]}
    against = [met for name, met in goals.items() if name.startswith("average precision")]
    assert len(against) == 6
    assert not any(against)
    spans = [goal for goal in shipped["goals"] if goal["name"].startswith("average precision")]
    assert sum(goal["low"] < 0 < goal["high"] for goal in spans) == 4


def test_weights_of_signals_move(six):
    assert min(one["value"] for one in spans(six, FREE, script.WORDS)) > 0
    own = {minus: [] for minus in ("near", "above", "below")}
    for one in spans(six, FREE, OWN):
        where = "near" if abs(one["value"]) < 0.02 else "above" if one["low"] > 0 else "below"
        own[where].append(one)
    assert [len(found) for found in own.values()] == [3, 2, 1]
    assert all(one["value"] < 0.1 for one in own["above"])
    assert own["below"][0]["high"] < 0
    assert -0.1 < own["below"][0]["value"] < -0.07


def test_from_software_little_moves_but_the_weights(matched):
    for target, near in (("abt_buy", "walmart_amazon"), ("walmart_amazon", "abt_buy")):
        own = matched[target]
        assert own["minus"][f"from amazon_google − {script.COSINE}"]["high"] < 0
        level = {name: row["value"] for name, row in own["rows"].items()}
        assert level[f"from {near}"] - level["from amazon_google"] > 0.1
        assert own["minus"][f"from {near} − {script.COSINE}"]["low"] < 0
        back = matched["amazon_google"]["minus"][f"from {target} − {script.COSINE}"]
        assert back["low"] < 0 < back["high"]
        signals = [level[f"{script.SIGNALS}, from {name}"] for name in ("amazon_google", near)]
        assert signals[0] - signals[1] > -0.03


def test_a_few_own_labels_do_not_bring_the_cross_encoder_before_the_signals(six, matched):
    behind = spans(six, "M, 200", OWN)
    assert not any(one["low"] > 0 for one in behind)
    assert sum(one["high"] < 0 for one in behind) == 4
    for source in ("abt_buy", "walmart_amazon"):  # into software
        own = matched["amazon_google"]["minus"][f"from {source}, 200 − {OWN}"]
        assert own["low"] < 0 < own["high"]
    start = spans(six, "M, 200", "alone, 200")
    clear = [one for one in start if one["value"] > 0.05]
    assert (len(clear), sum(one["low"] > 0 for one in clear)) == (3, 2)
    least = min(start, key=lambda one: one["value"])
    assert -0.03 < least["value"] < 0 < least["high"]
    for target in ("abt_buy", "walmart_amazon"):
        rows = matched[target]["rows"]
        assert rows["alone, 200"]["value"] < rows[script.COSINE]["value"]
    for one in spans(six, "logistic regression of signals and M, 200", OWN):
        assert abs(one["value"]) < 0.01
        assert one["low"] < 0 < one["high"]


def test_many_own_labels_bring_it_before_the_signals_among_software_alone(matched):
    ahead = {name: own["minus"][f"{script.WHOLE} − {OWN}"] for name, own in matched.items()}
    assert ahead.pop("amazon_google")["low"] > 0
    assert max(one["value"] for one in ahead.values()) < 0
    for target in ahead:
        rows = matched[target]["rows"]
        assert rows[script.WHOLE]["value"] < rows[script.WORDS]["value"]
    assert matched["amazon_google"]["f1"]["amazon_google"] < 0.76 - 0.05
    assert matched["abt_buy"]["f1"]["abt_buy"] < 0.89 - 0.05


def test_decisions_do_not_move(matched):
    shares = [
        own["f1"][source] / own["f1"][target]
        for target, own in matched.items()
        for source in own["f1"]
        if source != target
    ]
    assert len(shares) == 6
    assert sum(share < 2 / 3 for share in shares) == 5
    for target, source in (("abt_buy", "walmart_amazon"), ("walmart_amazon", "abt_buy")):
        assert matched[target]["f1"][source] < 2 / 3 * matched[target]["f1"][target]


def test_american_labels_are_not_worth_it_abroad(shipped):
    goals = [goal for goal in shipped["goals"] if goal["name"].startswith("area under ROC")]
    assert len(goals) == 6
    assert not any(goal["met"] for goal in goals)
    found = shipped["data"]["languages"]
    assert all(one["low"] < 0 < one["high"] for one in found["es"]["minus"].values())
    japanese, cosine = found["jp"], script.COSINE
    for row in (script.MOVED, script.BOTH):
        assert japanese["minus"][f"{row} − {cosine}"]["high"] < 0
    heads = [japanese["rows"][row]["value"] for row in (script.MOVED, script.HALF, script.BOTH)]
    assert japanese["rows"][cosine]["value"] > max(heads)


def test_the_encoder_has_to_know_the_language(shipped):
    found = {name: own["rows"] for name, own in shipped["data"]["languages"].items()}
    english = found["jp"][script.ENGLISH]
    assert english["low"] < 0.5 < english["high"]
    assert english["high"] < found["jp"][script.COSINE]["low"]
    gained = found["jp"][script.BOTH]["value"] - found["jp"][script.HALF]["value"]
    assert gained < found["jp"][script.COSINE]["value"] - english["value"]
    assert found["es"][script.ENGLISH]["low"] > 0.5
