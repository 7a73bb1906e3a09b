"""Rankings as rankings on few film queries: what is trained and compared, on tiny data."""

import json

import numpy as np
import pytest
import torch
from test_further_lists_record import tiny, warmed  # noqa: F401
from test_run import judgments, shop

import measure_film_lists as script
import measure_untrained
from ecomkd.data import sources

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]


@pytest.fixture
def part(tiny, tmp_path, monkeypatch):  # noqa: F811
    """The profile and the data of the first of three places, one labelled query a place."""
    profile, _ = tiny
    monkeypatch.setattr(script, "SIZES", (3, 2))
    monkeypatch.setattr(script, "SHARE", 2)
    data = sources.load(shop(tmp_path / "films only", judgments()), profile)
    return profile, data, sources.catalogue(tmp_path / "films only", profile)


def queries(pairs) -> set[str]:
    return set(pairs["query_id"])


def test_no_two_seeds_share_a_query_and_a_larger_part_holds_a_smaller_one(part, monkeypatch):
    _, data, _ = part
    larger, smaller = (
        [script.own_part(data, place, size) for place in (0, 1)] for size in script.SIZES
    )
    for few, many in zip(smaller, larger, strict=True):
        assert (len(queries(few["train"])), len(queries(many["train"]))) == (2, 3)
        assert queries(few["train"]) < queries(many["train"])
        assert len(queries(many["validation"])) == 1
        assert queries(few["test"]) == queries(data["test"])
    for split in ("train", "validation"):
        assert not queries(larger[0][split]) & queries(larger[1][split])


def test_a_product_by_itself_is_taught_its_gain():
    u, gains = torch.tensor([0.0, 2.0]), torch.tensor([0.25, 1.0])
    chance = torch.sigmoid(u)
    expected = -(gains * chance.log() + (1 - gains) * (1 - chance).log()).mean()
    assert script.by_itself(u, gains).item() == pytest.approx(expected.item())
    # Unlike a ranking, it asks for a level: the gains themselves are the answer.
    best = torch.logit(torch.tensor([0.25, 0.9]), eps=1e-3).requires_grad_()
    script.by_itself(best, torch.tensor([0.25, 0.9])).backward()
    assert best.grad.abs().max() < 1e-6


def test_all_systems_of_a_seed_stand_on_the_same_test_queries(part, monkeypatch):
    profile, data, catalogue = part
    parts = [script.own_part(data, 0, size) for size in script.SIZES]
    monkeypatch.setattr(script, "parts_of", lambda seed, profile: (parts, catalogue))
    monkeypatch.setattr(script.Profile, "named", lambda *_, **__: profile)
    trained, own = [], script.lists

    def lists(data, profile, start, loss, stage):
        trained.append((len(queries(data["train"])), loss, start, profile.teacher_learning_rate))
        return own(data, profile, start, loss, stage)

    monkeypatch.setattr(script, "lists", lists)
    found = script.measured(18)
    asked = {name for size in script.SIZES for pair in script.compared(size) for name in pair}
    assert asked | {"random"} == set(found["systems"])
    tested = [set(own["ndcg@10"]) for own in found["systems"].values()]
    assert all(own == queries(data["test"]) for own in tested)
    # The two networks differ in their loss and in nothing else.
    (start,) = {start for _, _, start, _ in trained}
    assert trained == [
        (size, loss, start, script.GENTLE["teacher_learning_rate"])
        for size in script.SIZES
        for loss, _ in script.TAUGHT.values()
    ]
    for told in found["choices"].values():
        assert set(told) == {script.UNTRAINED_SUM, script.MORE_WEIGHED, *script.TAUGHT}
        assert all(
            told[name]["looks"] and len(told[name]["weights"]) == 5 for name in script.TAUGHT
        )


def test_without_a_network_the_sum_is_that_of_the_package(part):
    profile, data, catalogue = part
    ((data, _, seen),) = measure_untrained.folds([data], catalogue, profile)
    ((_, _, expected, weights),) = script.rivals.sums(data, seen, [script.UNTRAINED_SUM])
    scores, chosen = script.summed(data, seen)
    assert scores == pytest.approx(expected) and list(chosen.values()) == list(weights.values())
    order = {split: np.asarray(data[split]["label"]) for split in script.SPLITS}
    best = -np.asarray(order["test"])  # the first label is the best one
    scores, chosen = script.summed(data, seen, {split: -own for split, own in order.items()})
    assert chosen["u"] == 1 and np.corrcoef(scores, best)[0, 1] > 0.5


def test_all_labels_choose_the_weights_of_the_sum_that_no_network_joins(part):
    profile, data, catalogue = part
    ((data, _, seen),) = measure_untrained.folds([data], catalogue, profile)
    more, known = script.all_labels(data, seen)
    assert queries(more["validation"]) == queries(data["train"]) | queries(data["validation"])
    parts = [(split, row) for split in ("train", "validation") for row in range(len(data[split]))]
    assert len(parts) == len(more["validation"]) == len(known["validation"].words)
    for row, (split, first) in enumerate(parts):
        assert more["validation"][row] == data[split][first]
        assert known["validation"].words[row] == pytest.approx(seen[split].words[first])
        assert known["validation"].cosine[row] == seen[split].cosine[first]
    assert known["test"] is seen["test"]


def test_the_goals_are_what_rankings_add_at_each_size(tmp_path):
    systems = {}
    for name in {name for pair in script.ASKED for name in pair}:
        better = name in (script.of(script.RANKED, size) for size in script.SIZES)
        order = {f"q{n}": 0.5 + 0.1 * better + n / 100 for n in range(4)}
        systems[name] = {"ndcg@10": order}
    part = {"seed": 18, "profile": {}, "hardware": {}, "generator": None, "precision": "bf16"}
    part |= {"systems": systems, "choices": {}}
    (tmp_path / "seed18.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [goal["met"] for goal in record["goals"]] == [True, True, True, False] * 2
    assert record["goals"][0]["value"] == pytest.approx(0.1)
