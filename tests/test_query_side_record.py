"""Query encoders that learn alone: their lists, losses and choices on tiny data, and the record."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict

import measure_query_side as script
from ecomkd import report

WIDTH = 8


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(30_522, WIDTH)).astype(np.float32)


def pairs(queries, products=6, seed=0) -> Dataset:
    """Pairs in which the product whose number is the query's colour is the right one."""
    rows = [
        {
            "query_id": f"q {query}",
            "query": query,
            "product_id": f"p{product}",
            "label": 3 * (product == COLOURS[query.split()[0]]),
        }
        for query in queries
        for product in range(products)
    ]
    found = Dataset.from_list(rows).shuffle(seed=seed)
    return found.cast_column("label", ClassLabel(names=["0", "1", "2", "3"]))


COLOURS = {name: place for place, name in enumerate(["red", "blue", "green", "black"])}
THINGS = ["shoe", "lamp", "chair", "table", "shirt"]
PLACE = {f"p{product}": product for product in range(6)}


@pytest.fixture
def shop():
    every = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]
    splits = {"train": every[:12], "validation": every[12:16], "test": every[16:]}
    return DatasetDict({name: pairs(queries) for name, queries in splits.items()})


@pytest.fixture
def vectors():
    drawn = np.random.default_rng(1).normal(size=(6, WIDTH)).astype(np.float32)
    return torch.from_numpy(script.unit(drawn))


def test_scores_stand_in_the_order_of_the_pairs(shop, vectors, table):
    """Pairs are shuffled; of each the cosine is that of its own query and product."""
    asked, model = script.of_pairs(shop["test"], PLACE), script.Static(table)
    found = script.in_order(script.cosines(model, asked, vectors), asked)
    ordered = script.by_query(shop["test"])
    queries = model(list(ordered["query"])).detach()
    rows = [PLACE[product] for product in ordered["product_id"]]
    np.testing.assert_allclose(found, (queries * vectors[rows]).sum(1), atol=1e-6)
    assert asked.queries == list(dict.fromkeys(ordered["query"]))


def test_the_loss_of_labels_by_hand():
    asked = script.lists(["a"], [[0, 1]], [[1.0, 0.0]])
    near = torch.tensor([[0.05 * np.log(3), 0.0]])  # shares of 3/4 and 1/4
    assert script.from_labels(near, asked).item() == pytest.approx(-np.log(0.75), abs=1e-5)


def test_padding_changes_nothing(vectors, table):
    asked = script.lists(["red shoe", "blue lamp"], [[0, 1, 2], [3, 4, 5]], np.eye(3)[:2])
    other = script.lists(["green chair"], [[0, 1, 2, 3]])
    both = script.joined(asked, other).part([0, 1])
    model = script.Static(table)
    near, wide = (script.cosines(model, one, vectors) for one in (asked, both))
    assert script.from_labels(near, asked) == script.from_labels(wide, both)
    assert script.quality(near, asked) == script.quality(wide, both)


def test_labels_teach_an_order_that_holds_for_new_queries(shop, vectors, table):
    train, validation = (script.of_pairs(shop[name], PLACE) for name in ("train", "validation"))
    model, untouched = script.Static(table, train.queries), table.copy()
    looks = script.fit(model, train, vectors, validation, rate=0.2, passes=150, seed=1)
    assert looks[0] < 0.7 and max(looks) > 0.9
    assert script.quality(script.cosines(model, validation, vectors), validation) == max(looks)
    np.testing.assert_array_equal(table, untouched)  # the next model starts from it
    test = script.of_pairs(shop["test"], PLACE)
    assert script.quality(script.cosines(model, test, vectors), test) > 0.8


def test_a_token_that_was_not_learnt_stays(shop, vectors, table):
    train = script.of_pairs(shop["train"], PLACE)
    model = script.Static(table, train.queries)
    before = model(["yellow sock", "red shoe"])
    script.fit(model, train, vectors, train, rate=0.2, passes=3, seed=1)
    after = model(["yellow sock", "red shoe"])
    torch.testing.assert_close(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 0.01


def test_a_student_of_queries_without_a_label_comes_close_to_its_teacher(shop, vectors, table):
    """Before it learns it is as far from the teacher as a stranger."""
    everything = script.of_pairs(shop["train"], PLACE)
    log = script.Lists(everything.queries, everything.rows, everything.mask, 0 * everything.gains)
    validation = script.of_pairs(shop["validation"], PLACE)
    teacher = script.Static(table[::-1].copy(), everything.queries)
    script.fit(teacher, everything, vectors, validation, rate=0.2, passes=150, seed=1)
    wanted = script.cosines(teacher, log, vectors)
    student = script.Static(table, log.queries)
    before = (script.cosines(student, log, vectors) - wanted).abs().mean()
    script.fit(student, log, vectors, validation, rate=0.2, passes=150, seed=1, taught=wanted)
    after = (script.cosines(student, log, vectors) - wanted).abs().mean()
    assert after < before / 2


def test_every_system_is_judged_on_every_test_query(shop, vectors, table, monkeypatch):
    class Small(script.Static):
        def __init__(self, layers=None):
            super().__init__(table, [f"{colour} {thing}" for thing in THINGS for colour in COLOURS])

    monkeypatch.setattr(script, "Network", Small)
    monkeypatch.setattr(script, "RATES", (0.01, 0.03))
    monkeypatch.setattr(script, "CURVE", (2, 8))
    signals = np.random.default_rng(2).random((sum(map(len, shop.values())), 3))
    judged = [
        pair
        for split in shop.values()
        for pair in zip(split["query_id"], split["product_id"], strict=True)
    ]
    log = script.of_pairs(shop["train"].map(lambda row: {"label": -1}), PLACE)
    base = script.Ground(
        [shop], PLACE, vectors, dict(zip(judged, signals, strict=True)), log, table, []
    )
    seeds = [script.measured(base, seed, curve=True) for seed in (1, 2, 3)]
    names, cells = script.table_of(seeds)
    assert cells.shape == (3, 4, len(names)) and np.isfinite(cells).all()
    assert {"random", "words", "words + untrained", "words + three layers, kd_unlabelled"} < set(
        names
    )
    assert {"teacher of 2", "words + teacher of 8"} < set(names)
    (chosen,) = seeds[0]["choices"]
    assert chosen["teacher"]["rate"] in (0.01, 0.03) and len(chosen["teacher"]["tried"]) == 2
    found = script.summary(seeds)
    assert found["queries"] == 4
    assert found["rows"]["teacher"]["ndcg@10"] > found["rows"]["random"]["ndcg@10"]
    assert [pair["system"] for pair in found["kept"]] == [small for small, _ in script.KEPT]
    entries = script.goals({"msrd": found})
    assert len(entries) == 5 and all(one["name"].startswith("film queries") for one in entries)
    kept = (found["rows"][name]["lift@10"] for name in script.KEPT[0])
    assert entries[3]["value"] == pytest.approx(next(kept) / next(kept))


def test_a_folder_without_a_log_gets_queries_from_its_catalogue(monkeypatch, tmp_path):
    """The unlabelled lists are the nearest products; no judged query is among them."""
    texts = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    catalogue = Dataset.from_dict(
        {name: [""] * len(texts) for name in ("product_description", "product_bullet_point")}
        | {name: [""] * len(texts) for name in ("product_brand", "product_color")}
        | {"product_id": [f"p{row}" for row in range(len(texts))], "product_title": texts}
    )
    own = pairs(["red shoe", "blue lamp", "green chair", "black table"], products=4)
    own = own.add_column("fold", [list(COLOURS).index(q.split()[0]) for q in own["query"]])
    for name in ("product_description", "product_bullet_point", "product_brand", "product_color"):
        own = own.add_column(name, [""] * len(own))
    own = own.add_column("product_title", [texts[int(p[1:])] for p in own["product_id"]])
    data = DatasetDict(
        train=own.filter(lambda row: row["fold"] > 1),
        validation=own.filter(lambda row: row["fold"] == 1),
        test=own.filter(lambda row: row["fold"] == 0),
    )
    monkeypatch.setattr(script.shared, "real_folder", lambda name: tmp_path)
    monkeypatch.setattr(script.sources, "load", lambda source, profile: data)
    monkeypatch.setattr(script.sources, "catalogue", lambda source, profile: catalogue)
    drawn = np.random.default_rng(0)
    monkeypatch.setattr(
        script.features, "last_layer", lambda texts, _, name: drawn.normal(size=(len(texts), WIDTH))
    )
    monkeypatch.setattr(script, "NEAR", 3)
    monkeypatch.setattr(script, "MINED", 20)
    base = script.ground("esci_150", SimpleNamespace(artifacts=tmp_path))
    assert len(base.parts) == 4 and base.log.rows.shape[1] == 3
    assert not set(base.log.queries) & set(own["query"])
    assert not base.log.gains.any()


def test_what_is_measured_again_leaves_the_rest_of_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(
        script, "summary", lambda own: {"comparisons": [], "kept": [], "n": len(own)}
    )
    monkeypatch.setattr(
        script, "goals", lambda found: [
            report.goal(f"{script.DATA[name]}: a goal", 1, 1, 1, "above 0", True) for name in found
        ]
    )  # fmt: skip
    out = tmp_path / "query_side.json"
    with pytest.raises(SystemExit, match="clock"):
        script.merge(tmp_path, out)
    (tmp_path / "clock.json").write_text('{"words": 1.0}')
    script.shared.write(tmp_path / "msrd", 1, {"choices": {"rate": 1}})
    script.merge(tmp_path, out)
    films = json.loads(out.read_text(encoding="utf-8"))
    (tmp_path / "msrd").rename(tmp_path / "away")
    (tmp_path / "clock.json").unlink()
    script.shared.write(tmp_path / "esci_150", 1, {"choices": {"rate": 2}})
    script.merge(tmp_path, out)
    both = json.loads(out.read_text(encoding="utf-8"))
    assert both["data"]["msrd"] == films["data"]["msrd"] and both["data"]["esci_150"]["n"] == 1
    assert both["data"]["p50_ms"] == {"words": 1.0}
    assert both["data"]["choices"] == {"msrd": [{"rate": 1}], "esci_150": [{"rate": 2}]}
    assert [goal["name"] for goal in both["goals"]] == [
        "film queries: a goal",
        "ESCI lists: a goal",
    ]


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("query_side")["data"]


def pair(found: dict, system: str, against: str) -> dict:
    (one,) = (
        one for one in found["comparisons"] if (one["system"], one["against"]) == (system, against)
    )
    return one


def test_what_the_page_concludes_holds(recorded):
    """book/film_queries.md, "What training adds"."""
    films = recorded["msrd"]
    assert films["queries"] > 2_000 and films["seeds"] == 3
    free, words = films["rows"][script.BEST_FREE], "words + "
    gain = pair(films, "words + teacher", script.BEST_FREE)
    assert round(gain["value"], 3) == 0.007 and gain["low"] > 0
    assert films["rows"]["teacher"]["ndcg@10"] < free["ndcg@10"]
    distilled, plain = "three layers, kd_unlabelled", "three layers, labels"
    for before in ("", words):
        for other in ("labels", "hard"):
            found = pair(films, f"{before}{distilled}", f"{before}three layers, {other}")
            assert found["low"] < 0 < found["high"]
    for student in (distilled, plain):
        found = pair(films, words + student, script.BEST_FREE)
        assert found["low"] < 0 < found["high"]
    times = recorded["p50_ms"]
    assert 1.8 < times["teacher"] / times["three layers"] < 2.2
    kept = {one["system"]: one["value"] for one in films["kept"]}
    assert kept[distilled] >= 0.99 and kept[words + distilled] >= 0.99
    (whole,) = (one for one in films["kept"] if one["system"] == distilled)
    assert [f"{100 * whole[end]:.1f}" for end in ("value", "low", "high")] == [
        "99.8", "99.0", "100.7",
    ]  # fmt: skip
    lift = {name: films["rows"][name]["lift@10"] for name in ("teacher", plain)}
    assert round(lift[plain] / lift["teacher"], 3) == 0.990
    curve = {n: pair(films, f"{words}teacher of {n}", script.BEST_FREE) for n in script.CURVE}
    assert [n for n, found in curve.items() if found["low"] < 0] == [50, 800]
    assert all(0.0025 < found["value"] < 0.0085 for n, found in curve.items() if n < 1_600)
    assert round(curve[3_200]["value"], 3) == 0.013
    alone = {n: films["rows"][f"teacher of {n}"]["ndcg@10"] for n in script.CURVE}
    assert [n for n in script.CURVE if alone[n] > free["ndcg@10"]] == [3_200]


def test_the_page_has_the_numbers_of_the_record(recorded, pytestconfig):
    page = (pytestconfig.rootpath / "book" / "film_queries.md").read_text("utf-8")
    page = " ".join(page.split())

    def span(system: str, against: str) -> str:
        found = pair(recorded["msrd"], system, against)
        return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found).replace("-", "−")

    above = span("words + teacher", script.BEST_FREE)
    assert f"Added to words it stands {above} above that sum." in page
    alone, both = (
        [span(f"{before}three layers, kd_unlabelled", f"{before}three layers, {other}")
         for before in ("", "words + ")]
        for other in ("labels", "hard")
    )  # fmt: skip
    assert (
        "**Whether distillation beats labels alone cannot be told here.** The difference is "
        f"{alone[0]} when the students rank by themselves, and {alone[1]} when both are added to "
        "words."
    ) in page
    hard = f"no difference that shows, by themselves ({both[0]}) or added to words ({both[1]})."
    assert hard in page


def test_the_best_rates_lie_within_those_that_were_tried_or_close_to_it(recorded):
    """book/film_queries.md, the last paragraph of "What training adds"."""
    near, plain = [], set()
    for seed in recorded["choices"]["msrd"]:
        for name, chosen in seed[0].items():
            if "tried" not in chosen:
                continue
            tried = list(chosen["tried"].values())
            best = int(np.argmax(tried))
            if best in (0, len(tried) - 1):
                near.append(tried[best] - tried[1 if best == 0 else -2])
            if name == "three layers, labels":
                plain.add(chosen["rate"])
    assert len(near) == 3 and max(near) < 0.003
    assert plain == {2e-4}
