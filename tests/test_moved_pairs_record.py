"""The script that moves cross-encoders between shops and languages, on made-up data."""

import json
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import tiny_baskets
import tiny_models
from sklearn.metrics import average_precision_score, roc_auc_score

import measure_moved_pairs as script
from ecomkd import features
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
