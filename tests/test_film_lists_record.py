"""Rankings as rankings on few film queries: what is trained and compared, on tiny data."""

import numpy as np
import pytest
import torch
from chapter_text import span
from test_further_lists_record import tiny, warmed  # noqa: F401
from test_run import judgments, shop
from test_sum_students_record import merged

import measure_film_lists as script
import measure_untrained
from book import esci_lists
from ecomkd import report
from ecomkd.data import sources
from shared import by_pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]


@pytest.fixture
def part(tiny, tmp_path, monkeypatch):  # noqa: F811
    """A profile, the judged films of a tiny shop and its catalogue, for sizes that it can fill."""
    profile, _ = tiny
    monkeypatch.setattr(script, "SIZES", (3, 2))
    monkeypatch.setattr(script, "SHARE", 2)
    data = sources.load(shop(tmp_path / "films only", judgments()), profile)
    return profile, data, sources.catalogue(tmp_path / "films only", profile)


def queries(pairs) -> set[str]:
    return set(pairs["query_id"])


def test_no_two_seeds_share_a_query_and_a_larger_part_holds_a_smaller_one(part):
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
    better = {script.of(script.RANKED, size) for size in script.SIZES}
    record = merged(script, better, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [True, True, True, False] * 2
    assert record["goals"][0]["value"] == pytest.approx(0.1)


def test_the_tables_have_a_column_for_each_number_of_labels():
    record = report.recorded("film_lists")
    reached, told, others, kept, _ = esci_lists.films_part(record).split("\n\n")
    assert reached.startswith("| nDCG@10 | 64 queries | 256 queries |")
    assert told.count("[") + others.count("[") == len(script.COMPARED)
    both = by_pair(record["data"]["comparisons"])
    asked = [(script.of(script.RANKED, size), script.START) for size in (64, 256)]
    cells = " | ".join(span(both[pair], "difference") for pair in asked)
    assert f"| {script.RANKED} − {script.START} | {cells} |" in told
    assert kept.count("**") == 2 * len(script.TAUGHT) * len(script.SIZES) * len(script.SEEDS)


def test_the_page_says_what_the_labels_of_film_queries_bring(pytestconfig):
    recorded = report.recorded("film_lists")
    told, book = by_pair(recorded["data"]["comparisons"]), pytestconfig.rootpath / "book"
    page = " ".join((book / "few_labels.md").read_text("utf-8").split())
    part = page.partition("(sec-film-lists)=")[2].partition("(sec-base-lists)=")[0]

    def apart(one: str, other: str, sign: int = 1) -> str:
        found = told[one, other]
        low, high = sorted(sign * found[end] for end in ("low", "high"))
        return span(
            {"difference": sign * found["difference"], "low": low, "high": high}, "difference"
        )

    start, free = script.START, script.FREE
    names = (*script.TAUGHT, *map(script.added, script.TAUGHT))
    names = (*names, script.MORE_WEIGHED, script.UNTRAINED_SUM)
    (
        (few, few_apart, *less_sums, less, sum_of_few),
        (many, many_apart, *sums, weighed, sum_of_many),
    ) = ([script.of(name, size) for name in names] for size in (64, 256))
    assert f"gain {apart(few, start)} over the warm start, and each product" in part
    assert f"each product by itself {apart(few_apart, start)}. Between" in part
    assert f"rankings are {apart(few, few_apart)} ahead with 64 queries, and" in part
    assert f"{apart(many, many_apart, -1)} behind with 256." in part
    assert f"here it stands {apart(start, free, -1)} below" in part
    assert f"With 64, rankings are {apart(few, free, -1)} below, and each" in part
    assert f"by itself {apart(few_apart, free, -1)}. With 256, each" in part
    assert f"by itself is {apart(many_apart, free)} above; that was compared" in part
    assert f"not shown to be ({apart(many, free)})." in part
    assert f"the networks add {apart(sums[0], sum_of_many)} (rankings) and" in part
    assert f"{apart(sums[1], sum_of_many)} (each product by itself)" in part
    assert f"then gains {apart(sum_of_many, weighed, -1)}, and neither" in part
    assert f"({apart(sums[0], weighed)} and {apart(sums[1], weighed)})." in part
    below = " and ".join(apart(one, less, -1) for one in less_sums)
    assert f"both stand below it, by {below}." in part
    assert f"they do not ({apart(less_sums[0], sum_of_few)});" in part
    assert "Four of the eight goals are met" in part
    met = [goal["met"] for goal in recorded["goals"]]
    assert met == [True, False, False, True, True, True, False, False]
    for one in ((many, free), *((own, weighed) for own in sums)):
        assert told[one]["low"] < 0 < told[one]["high"]
    for one in ((many_apart, free), (few, few_apart), *((own, sum_of_many) for own in sums)):
        assert told[one]["low"] > 0
    for one in ((many, many_apart), (few, free), *((own, less) for own in less_sums)):
        assert told[one]["high"] < 0
    asked = " ".join((book / "faq.md").read_text("utf-8").split())
    assert f"a network trained as rankings {apart(few, free, -1)} below the bi-encoder" in asked
    assert f"256 do not show it above ({apart(many, free)})." in asked
    below, above = apart(few_apart, free, -1), apart(many_apart, free)
    assert f"by itself, is {below} below with 64 and {above} above with 256." in asked
    assert "85 and 341 were judged in all" in part
    unweighed = [
        seed
        for seed, own in recorded["data"]["choices"].items()
        if not any(own["64"][name]["weights"]["u"] for name in script.TAUGHT)
    ]
    assert len(unweighed) == 1 and "gave both networks of one seed no weight" in part
    late = [
        [look["ndcg@10"] for look in own["64"][script.APART]["looks"]]
        for own in recorded["data"]["choices"].values()
    ]
    assert sum(looks[-1] > max(looks[:-1]) for looks in late) == 2
    assert "64 queries taught each product by itself, two were best at their last look" in part
