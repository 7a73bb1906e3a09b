"""Teachers of two sizes: rates that are searched, who learns from whom, and the record."""

import json

import numpy as np
import pytest
import torch
from test_free_teacher_record import EVERY, ground  # noqa: F401, a fixture
from test_query_side_record import PLACE

import measure_teacher_sizes as script
from measure_query_side import Static, of_pairs


class Looked:
    """In the place of `tuned`: what validation says of each rate."""

    def __init__(self, quality):
        self.quality, self.tried = quality, []

    def __call__(self, make, rates, *given, **options):
        (rate,) = rates
        self.tried.append(rate)
        found = self.quality(rate)
        return f"of {rate}", {"rate": rate, "looks": [found], "tried": {str(rate): found}}


@pytest.mark.parametrize(
    ("best", "tried"),
    [(8, [1, 2, 4, 8, 16]), (1, [1, 2, 0.5]), (0.25, [1, 2, 0.5, 0.25, 0.125])],
)
def test_a_rate_is_searched_until_those_beside_it_are_no_better(monkeypatch, best, tried):
    looked = Looked(lambda rate: -abs(np.log2(rate / best)))
    monkeypatch.setattr(script, "tuned", looked)
    model, chosen = script.searched(script.Search(1, 2), None)
    assert looked.tried == tried and list(chosen["tried"]) == list(map(str, tried))
    assert (model, chosen["rate"]) == (f"of {best}", best)


def test_a_search_ends_where_better_rates_never_do(monkeypatch):
    looked = Looked(lambda rate: rate)
    monkeypatch.setattr(script, "tuned", looked)
    _, chosen = script.searched(script.Search(1, 2), None)
    assert chosen["rate"] == 2**5 == max(looked.tried)
    looked = Looked(lambda rate: rate)
    monkeypatch.setattr(script, "tuned", looked)
    script.searched(script.Search(1, furthest=0), None)
    assert looked.tried == [1]


def test_each_seed_has_labelled_queries_of_its_own(ground, monkeypatch):  # noqa: F811
    monkeypatch.setattr(script, "LABELLED", 3)
    train = of_pairs(ground.parts[0]["train"], PLACE)
    first, second = (script.labelled(train, seed).queries for seed in (1, 2))
    assert [*first, *second] == train.queries[:6]
    for seed in (0, 3):
        with pytest.raises(SystemExit, match=rf"seed {seed}: give one from 1 to 2\."):
            script.labelled(train, seed)


def test_each_student_learns_from_labels_and_from_each_teacher(
    ground,  # noqa: F811
    monkeypatch,
    tmp_path,
):
    class Small(Static):
        def __init__(self, layers=None, name="minilm"):
            super().__init__(ground.table, EVERY)

    titles = np.random.default_rng(3).normal(size=(len(EVERY), ground.table.shape[1]))
    monkeypatch.setattr(script.features, "last_layer", lambda *_: titles.astype(np.float32))
    monkeypatch.setattr(script, "Encoder", Small)
    monkeypatch.setattr(script, "Narrow", lambda seed: Small())
    monkeypatch.setattr(script, "LABELLED", 4)
    monkeypatch.setattr(script, "SEARCHES", dict.fromkeys(script.SEARCHES, script.Search(0.03, 3)))
    monkeypatch.setattr(script, "place", lambda teacher: ground)
    monkeypatch.setattr(script.shared, "profile", dict)
    learnt, fitted = [], script.searched

    def searched(search, make, asked, *given, **options):
        learnt.append((len(asked.queries), options.get("taught")))
        return fitted(search, make, asked, *given, **options)

    monkeypatch.setattr(script, "searched", searched)
    found = script.measured(2)
    alone, with_log = 4, 4 + len(ground.log.queries)
    assert [count for count, _ in learnt] == [
        *[alone] * 4, *[with_log] * 2, alone, *[with_log] * 4, alone, *[with_log] * 4
    ]  # fmt: skip
    free, small = (learnt[place][1] for place in (4, 7))
    assert torch.equal(free, learnt[5][1]) and not torch.equal(free, small)
    asked = {name for pair in (*script.compared(), *script.kept()) for name in pair}
    assert asked < set(found["values"])
    assert all(len(one) == 4 for one in found["values"].values())
    for seed in (1, 2, 3):
        script.shared.write(tmp_path / "files", seed, found)
    script.merge(tmp_path / "files", tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    told = {(one["system"], one["against"]) for one in record["data"]["comparisons"]}
    assert told == set(script.compared())
    assert len(record["goals"]) == 4 * len(script.TEACHERS)
