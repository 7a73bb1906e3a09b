"""What is measured before anything is fine-tuned, on tiny data, and the recorded result."""

import json

import numpy as np
import pandas as pd
import pytest
from test_run import judgments, shop

import measure_untrained as script
from ecomkd import distill, features, models, report
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.folds import divided, judged
from ecomkd.relevance import judge
from ecomkd.relevance.tables import LAMBDAMART, UNTRAINED_SUM

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]


@pytest.fixture
def shoes(tmp_path, monkeypatch):
    profile = Profile.named("smoke", artifacts=tmp_path / "artifacts")
    folder = shop(tmp_path / "shoes", judgments())
    # A bi-encoder that knows all.
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: judge.worth(pairs))
    return sources.load(folder, profile), sources.catalogue(folder, profile), profile


def test_every_row_is_about_the_test_queries_of_all_parts(shoes):
    data, catalogue, profile = shoes
    parts = divided(data, 3, seed=1)
    found = script.measured(script.folds(parts, catalogue, profile), profile)
    asked = {query for part in parts for query in part["test"]["query_id"]}
    assert found["queries"] == len(asked)
    assert found["pairs"] == len(judged(data))
    assert list(found["rows"]) == list(script.ROWS)
    rows = pd.DataFrame(found["rows"]).T
    assert rows.loc["bi-encoder, untrained", "ndcg@10"] == 1
    assert rows.loc["random", "lift@10"] == 0
    lifts = rows["ndcg@10"] - rows.loc["random", "ndcg@10"]
    assert rows["lift@10"].astype(float).tolist() == pytest.approx(lifts.astype(float).tolist())
    assert found["best"] in ("bi-encoder, untrained", UNTRAINED_SUM)
    assert [(c["system"], c["against"]) for c in found["comparisons"]] == list(script.COMPARED)
    chosen = found["choices"][0]
    assert len(found["choices"]) == 3 and {LAMBDAMART, UNTRAINED_SUM} < set(chosen)
    assert chosen[script.JOINED["rrf"]]["constant"] >= 0 and script.PLAIN_RANKS not in chosen
    assert found["rows"][script.JOINED["rrf"]]["ndcg@10"] == 1


def test_each_seed_of_the_shop_has_queries_of_its_own(tmp_path, monkeypatch):
    named = Profile.named
    monkeypatch.setattr(
        Profile, "named", lambda name, seed: named("smoke", seed=seed, artifacts=tmp_path)
    )
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: judge.worth(pairs))
    found = script.measured(script.shops(), named("smoke", artifacts=tmp_path))
    asked = [
        len(
            set(
                sources.load("shop", named("smoke", seed=seed, artifacts=tmp_path))["test"]["query"]
            )
        )
        for seed in script.SEEDS
    ]
    assert len(found["training_queries"]) == len(script.SEEDS)
    assert found["queries"] == sum(asked)
    assert found["rows"]["bi-encoder, untrained"]["ndcg@10"] == 1


def test_the_short_bi_encoder_reads_what_a_network_sees(shoes, monkeypatch):
    data, _, profile = shoes
    monkeypatch.undo()
    pairs = data["test"]
    tokenizer = models.load_tokenizer("minilm")
    for tokens in (12, 64):
        left = script.cut(pairs, tokens)
        queries, products = list(left["query"]), sources.product_text(left[:])
        seen = distill.encode(pairs, tokenizer, tokens)["input_ids"]
        again = tokenizer(queries, products)["input_ids"]
        assert again == list(seen)
        whole = script.features.bi_encoder_scores(pairs, profile)
        short = script.features.bi_encoder_scores(left, profile)
        assert np.allclose(short, whole, atol=1e-4) == (tokens == 64)
        texts = sources.product_text(pairs[:])
        assert all(whole.startswith(part) for whole, part in zip(texts, products, strict=True))
        assert (products == texts) == (tokens == 64)


def test_without_names_all_are_measured_and_with_some_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "measured", lambda cases, _: {"of": cases})
    monkeypatch.setattr(script, "shops", lambda: "seeds")
    monkeypatch.setattr(script, "folds", lambda *parts: "folds")
    monkeypatch.setattr(script, "parts_of", lambda *given: ())
    out = tmp_path / "untrained.json"

    def call(*given):
        monkeypatch.setattr("sys.argv", ["measure_untrained.py", *given, "--out", str(out)])
        script.main()
        return json.loads(out.read_text(encoding="utf-8"))["data"]

    def generator():
        return json.loads(out.read_text(encoding="utf-8"))["generator"]

    call("msrd")
    assert generator() is None
    monkeypatch.setattr(script.shop, "generator_hash", lambda: "earlier")
    whole = call()
    assert list(whole) == list(script.NAMES) and whole[script.SHOP] == {"of": "seeds"}
    monkeypatch.setattr(script.shop, "generator_hash", lambda: "now")
    call("msrd")
    assert generator() == "earlier"
    monkeypatch.setattr(script, "measured", lambda cases, _: {"of": "again"})
    again = call(script.SHOP)
    assert again == {**whole, script.SHOP: {"of": "again"}} and generator() == "now"
    with pytest.raises(SystemExit):
        call("bazaar")


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("untrained")["data"]


def test_of_each_catalogue_all_rows_are_recorded(recorded):
    assert list(recorded) == list(script.NAMES)
    for found in recorded.values():
        rows = pd.DataFrame(found["rows"]).T
        assert list(rows.index) == list(script.ROWS)
        assert (rows["ndcg@10 low"] <= rows["ndcg@10"]).all()
        assert (rows["ndcg@10"] <= rows["ndcg@10 high"]).all()
        assert found["best"] in script.UNTRAINED
    assert recorded["msrd"]["queries"] <= script.TESTED
    assert recorded["msrd"]["training_queries"] == [script.LABELLED]
    assert recorded["esci_150"]["queries"] <= 106 and len(recorded["esci_150"]["choices"]) == 5


def test_what_the_page_concludes_holds(recorded):
    """book/compared.md, "What is free"."""

    def pair(name, system, against):
        (found,) = (
            one
            for one in recorded[name]["comparisons"]
            if (one["system"], one["against"]) == (system, against)
        )
        return found

    films, bi_encoder = "msrd", "bi-encoder, untrained"
    mended = {name: pair(name, script.BEST_WORDS, "BM25") for name in recorded}
    assert round(mended[films]["difference"], 2) == 0.13 and mended[films]["low"] > 0
    for name in ("esci_150", "icecat"):
        assert mended[name]["low"] < 0 < mended[name]["high"]
    level = pair(films, bi_encoder, script.BEST_WORDS)
    assert level["low"] < 0 < level["high"] < 0.01
    sums = {name: pair(name, UNTRAINED_SUM, bi_encoder) for name in recorded}
    for part in (sums[films], pair(films, UNTRAINED_SUM, script.BEST_WORDS)):
        assert round(part["difference"], 2) == 0.02 and part["low"] > 0
    assert sums["icecat"]["high"] < 0
    assert sums["esci_150"]["low"] < 0 < sums["esci_150"]["high"]
    for name in recorded:
        trees = pair(name, LAMBDAMART, UNTRAINED_SUM)
        assert trees["low"] < 0 < trees["high"]
    lists = recorded["esci_150"]
    assert all(one["low"] < 0 < one["high"] for one in lists["comparisons"])
    for name, row in lists["rows"].items():
        if name != "random":
            assert row["ndcg@10 low"] > lists["rows"]["random"]["ndcg@10"]
            assert 0.08 < row["ndcg@10 high"] - row["ndcg@10 low"] < 0.1


def test_what_the_page_concludes_of_length_holds(recorded):
    """book/compared.md, and chapters 2 and 4: what 32 tokens cost, and that 96 cost nothing."""

    def lost(name, tokens):
        (one,) = (c for c in recorded[name]["comparisons"] if c["system"] == script.SHORT[tokens])
        return [round(-one[end], 3) for end in ("difference", "high", "low")]

    assert lost(script.SHOP, 32) == [0.009, 0.004, 0.014]
    assert lost("msrd", 32) == [0.019, 0.013, 0.026]
    for name, tokens in (("icecat", 32), ("esci_150", 32), *((name, 96) for name in recorded)):
        _, low, high = lost(name, tokens)
        assert low <= 0 <= high
    icecat = recorded["icecat"]["rows"][script.SHORT[32]]["ndcg@10"]
    teacher = report.recorded("core_icecat")["data"]["rows"]["teacher"]["ndcg@10"]
    assert [round(value, 3) for value in (icecat, teacher)] == [0.876, 0.815]


def test_what_the_page_concludes_of_ranks_holds(recorded):
    ranks, scaled = script.JOINED["rrf"], script.JOINED["min-max"]
    apart = {
        (name, pair["system"]): pair
        for name, found in recorded.items()
        for pair in found["comparisons"]
        if pair["against"] == UNTRAINED_SUM
    }

    def told(name, system):
        pair = apart[name, system]
        return [round(pair[end], 3) for end in ("difference", "low", "high")]

    assert told("msrd", ranks) == [-0.014, -0.019, -0.009]
    assert told("icecat", ranks) == [0.024, 0.003, 0.049]
    assert told(script.SHOP, ranks) == [-0.007, -0.01, -0.003]
    assert told(script.SHOP, script.PLAIN_RANKS) == [-0.027, -0.033, -0.022]
    films = {name: row["ndcg@10"] for name, row in recorded["msrd"]["rows"].items()}
    assert abs(films[ranks] - films[script.PLAIN_RANKS]) < 0.001
    assert apart["msrd", scaled]["low"] < 0 < apart["msrd", scaled]["high"] < 0.005
    for system in (ranks, scaled, script.PLAIN_RANKS):
        assert apart["esci_150", system]["low"] < 0 < apart["esci_150", system]["high"]
    icecat = {name: row["ndcg@10"] for name, row in recorded["icecat"]["rows"].items()}
    assert icecat[ranks] < icecat["bi-encoder, untrained"]
    shop = recorded[script.SHOP]["rows"]
    assert [round(shop[name]["ndcg@10"], 3) for name in (script.BEST_WORDS, UNTRAINED_SUM)] == [
        0.860, 0.904,
    ]  # fmt: skip


def test_the_page_has_the_numbers_of_the_record(recorded, pytestconfig):
    page = (pytestconfig.rootpath / "book" / "compared.md").read_text("utf-8")
    page = " ".join(page.split())

    def span(name: str, system: str, against: str, sign: int) -> str:
        (one,) = (
            pair
            for pair in recorded[name]["comparisons"]
            if (pair["system"], pair["against"]) == (system, against)
        )
        low, high = sorted(sign * one[end] for end in ("low", "high"))
        return f"{sign * one['difference']:.3f} [{low:.3f}, {high:.3f}]".replace("-", "−")

    ranks, short = script.JOINED["rrf"], (script.SHORT[32], "bi-encoder, untrained", -1)
    films, icecat = (
        span(name, ranks, UNTRAINED_SUM, sign) for name, sign in (("msrd", -1), ("icecat", 1))
    )
    assert f"a sum by ranks stands {films} below one of scores in standard units" in page
    assert f"the sum by ranks is {icecat} above that of scores" in page
    lost = f"the bi-encoder loses {span(script.SHOP, *short)} on the shop's test queries and"
    assert f"{lost} {span('msrd', *short)} on the films;" in page


def test_what_chapter_5_says_of_free_signals_holds(recorded):
    found = recorded[script.SHOP]
    core = report.recorded("core_shop")["data"]["rows"]
    rows = {name: row["ndcg@10"] for name, row in found["rows"].items()}
    assert rows["bi-encoder, untrained"] == pytest.approx(
        core["bi-encoder, untrained"]["ndcg@10"], abs=2e-3
    )
    distilled, alone = (
        core[name]["ndcg@10"] for name in ("student, distilled", "student, labels only")
    )
    for one in (rows, {name: row["ndcg@10"] for name, row in core.items()}):
        assert alone < one[UNTRAINED_SUM] < distilled and alone < one[LAMBDAMART] < distilled
    (gain,) = (
        c
        for c in found["comparisons"]
        if c["system"] == UNTRAINED_SUM and c["against"] == "bi-encoder, untrained"
    )
    assert gain["low"] < 0 < gain["high"]
