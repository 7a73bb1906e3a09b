"""The script that measures the sparse student: its pieces on tiny data, and what is recorded."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch

import measure_sparse as script
from ecomkd import report, words
from ecomkd.search import sparse


def test_bm25_on_pieces_is_bm25_where_each_word_is_a_piece():
    """Words without a stem to cut, so that both count the same things."""
    texts = ["red lamp lamp", "green lamp wool", "red mug", "steel desk pot pot pot"]
    queries = ["red lamp", "pot", "wool wool mug", "tea"]
    model = SimpleNamespace(tokenizer=tiny_models.tokenizer())
    having = np.asarray((sparse.piece_counts(model, texts) > 0).sum(axis=0)).ravel()
    idf = torch.from_numpy(np.log(1 + (4 - having + 0.5) / (having + 0.5)))
    base = SimpleNamespace(model=model, texts=texts, start={"idf": idf})
    index = words.bm25(texts)
    wanted = np.stack([words.bm25_of(index, query) for query in queries])
    np.testing.assert_allclose(script.by_pieces(base, queries), wanted, rtol=1e-5)


def seeds(kind: str, sparse_at: float, teacher_at: float) -> list[dict]:
    """Files of three seeds of 40 queries, in which a system scores about as well as is said."""
    teacher, known = {
        "shop": (script.TEACHER, [script.BM25, script.PIECES, script.TABLE, script.LONGER]),
        "msrd": ("teacher", ["words", "untrained"]),
    }[kind]
    level = {script.PLAIN: sparse_at, teacher: teacher_at, "random": 0.1, script.START: 0.3}
    level |= dict.fromkeys([*known, script.UNTRAINED], 0.5) | {script.NONE: 0.4}
    first = script.BM25 if kind == "shop" else "words"
    for name in list(level):
        level[f"{first} + {name}"] = level[name] + 0.01
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        values = {
            name: {f"q{n}": at + 0.01 * rng.random() for n in range(40)}
            for name, at in level.items()
        }
        one = {"seed": seed, "profile": {}, "hardware": {}, "weights": {}, "values": values}
        one |= {"recalls": values, "kinds": {f"q{n}": "ab"[n % 2] for n in range(40)}}
        sizes = {script.PLAIN: {"pieces": 50.0 + seed, "postings": 10.0}}
        found.append(one | {"sizes": sizes, "generator": "x"})
    return found


@pytest.mark.parametrize("good", [True, False])
def test_goals_are_met_by_a_good_student_and_missed_by_a_bad_one(good, tmp_path):
    for kind in script.KINDS:
        for one in seeds(kind, 0.7 if good else 0.35, 0.705):
            path = tmp_path / kind / f"seed{one['seed']}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(one))
    slow = {"p50_ms": 2.0 if good else 20.0}
    (tmp_path / "clock.json").write_text(
        json.dumps({script.PLAIN: slow, script.BM25: {"p50_ms": 1.0}})
    )
    (tmp_path / "grid.json").write_text(json.dumps([]))
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert [goal["met"] for goal in record["goals"]] == [good] * len(record["goals"])
    assert len(record["goals"]) == 7
    # Where films have no file they stay as they were, with the day on which they were measured.
    (tmp_path / "msrd").rename(tmp_path / "elsewhere")
    script.merge(tmp_path, tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == record
    shop = record["data"]["shop"]
    assert shop["sizes"][script.PLAIN]["pieces"] == 51
    assert shop["by_kind"]["a"]["queries"] == 20
    assert shop["rows"][script.PLAIN]["recall@100"] == pytest.approx(
        shop["rows"][script.PLAIN]["ndcg@10"]
    )


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("sparse_student")["data"]


def compared(found: dict, system: str, against: str) -> dict:
    (one,) = (
        one for one in found["comparisons"] if (one["system"], one["against"]) == (system, against)
    )
    return one


def test_expansion_is_what_the_sparse_student_of_the_shop_lives_on(recorded):
    shop = recorded["shop"]
    for rival in (script.BM25, script.PIECES, script.NONE):
        assert compared(shop, script.PLAIN, rival)["low"] > 0
    assert compared(shop, script.PLAIN, script.NONE)["value"] > 0.05
    # Its start holds most of it already, and training adds to that.
    trained = compared(shop, script.PLAIN, script.START)
    gained = compared(shop, script.PLAIN, script.BM25)
    assert trained["low"] > 0 and trained["value"] < gained["value"] / 2
    held = {name: one["pieces"] for name, one in shop["sizes"].items()}
    assert held[script.NONE] < held[script.PLAIN] < held[script.START]


def test_the_table_is_better_and_mostly_on_unseen_synonyms(recorded):
    shop = recorded["shop"]
    assert compared(shop, script.PLAIN, script.TABLE)["high"] < 0
    assert compared(shop, script.PLAIN, script.TEACHER)["high"] < 0
    gaps = {kind: one[script.TABLE] - one[script.PLAIN] for kind, one in shop["by_kind"].items()}
    assert max(gaps, key=gaps.get) == "unseen_synonym" and gaps["unseen_synonym"] > 0.1
    # What BM25 knows, it knows already, and more weight on that costs order.
    both = compared(shop, f"{script.BM25} + {script.PLAIN}", script.PLAIN)
    assert both["high"] < 0


def test_it_is_served_in_about_the_time_of_bm25(recorded):
    clock = recorded["clock"]
    assert clock[script.PLAIN]["p50_ms"] < 3 * clock[script.BM25]["p50_ms"]
    assert clock[script.PLAIN]["p50_ms"] < clock[script.TEACHER]["p50_ms"] / 30
    assert clock[script.BM25]["index_bytes"] < clock[script.PLAIN]["index_bytes"]
    assert clock[script.PLAIN]["index_bytes"] < clock[script.TEACHER]["index_bytes"]


def test_on_films_it_learns_much_and_stays_below_words(recorded):
    films = recorded["msrd"]
    assert films["queries"] > 2_000
    assert compared(films, script.PLAIN, script.START)["low"] > 0.04
    assert compared(films, script.PLAIN, "words")["high"] < 0
    added = compared(films, f"words + {script.PLAIN}", "words + untrained")
    assert added["low"] < 0 < added["high"]


def test_the_page_has_the_numbers_of_films(recorded, pytestconfig):
    page = (pytestconfig.rootpath / "book" / "film_queries.md").read_text("utf-8")
    page = " ".join(page.split())
    films, clock = recorded["msrd"], recorded["clock"]
    rows, row = films["rows"], "{ndcg@10:.3f} [{ndcg@10 low:.3f}, {ndcg@10 high:.3f}]"
    span = "{value:.3f} [{low:.3f}, {high:.3f}]"
    slower = clock[script.PLAIN]["p50_ms"] / clock[script.BM25]["p50_ms"]
    assert f"that takes {slower:.1f} times as long as BM25" in page
    found = compared(films, script.PLAIN, "words")
    below = span.format(value=-found["value"], low=-found["high"], high=-found["low"])
    raised = span.format(**compared(films, script.PLAIN, script.START))
    assert (
        f"By itself the sparse student has {row.format(**rows[script.PLAIN])}, which is {below} "
        f"below words; training had raised it by {raised}. "
        f"Added to words it has {row.format(**rows[f'words + {script.PLAIN}'])}. That cannot be "
        f"told from the {rows['words + untrained']['ndcg@10']:.3f} of words and six untrained"
    ) in page


def test_the_penalty_is_the_largest_that_costs_little_on_validation(recorded):
    found = {row["penalty"]: row["ndcg@10"] for row in recorded["grid"] if row["penalty"]}
    near = [one for one in found if found[one] > max(found.values()) - 0.005]
    assert max(near) == recorded["penalty"] == sparse.PENALTY
    assert min(found) < sparse.PENALTY < max(found)
