"""Two losses on whole lists with new seeds: what is trained and compared, and the record."""

import pytest
from chapter_text import span
from test_further_lists_record import tiny, warmed  # noqa: F401
from test_sum_students_record import merged

import measure_film_lists as films
import measure_list_losses as script
from book import esci_lists
from ecomkd import report
from shared import by_pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]


def test_the_networks_of_a_fold_differ_in_their_loss_alone(tiny, monkeypatch):  # noqa: F811
    _, parts = tiny
    trained, own = [], films.lists

    def lists(data, profile, start, loss, stage):
        trained.append((tuple(data["train"]["query_id"]), start, profile.teacher_learning_rate,
                        loss))  # fmt: skip
        return own(data, profile, start, loss, stage)

    monkeypatch.setattr(films, "lists", lists)
    found = script.measured(19)
    assert set(found["systems"]) == {"random"} | {name for pair in script.COMPARED for name in pair}
    (start,) = {start for _, start, *_ in trained}
    gentle = films.GENTLE["teacher_learning_rate"]
    assert trained == [
        (tuple(data["train"]["query_id"]), start, gentle, loss)
        for data in parts
        for loss, _ in films.TAUGHT.values()
    ]
    tested = {
        f"{fold}: {query}" for fold, data in enumerate(parts) for query in data["test"]["query_id"]
    }
    assert all(set(of["ndcg@10"]) == tested for of in found["systems"].values())
    assert all(set(films.TAUGHT) < set(of) for of in found["choices"])
    # Of two stages with one name, the second would be the first one's network.
    assert len({stage for _, stage in films.TAUGHT.values()}) == len(films.TAUGHT)


def test_the_goals_are_what_rankings_add(tmp_path):
    more = {films.RANKED, script.FREE, films.added(films.RANKED), films.MORE_WEIGHED}
    record = merged(script, more, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [True, True, False, True]
    record = merged(script, {films.RANKED, script.START}, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [False, True, True, False]
    assert record["goals"][2]["value"] == pytest.approx(0.1)


def test_the_folded_table_has_each_network_and_seed():
    record = report.recorded("list_losses")
    _, told, kept, _ = esci_lists.losses_part(record).split("\n\n")
    assert told.count("[") == len(script.COMPARED)
    seeds = list(record["data"]["choices"])
    shown = [line.split(" | ")[0].removeprefix("| ") for line in kept.splitlines()[3:-1]]
    assert shown == [f"{name}, seed {seed}" for seed in seeds for name in films.TAUGHT]
    look = record["data"]["choices"][seeds[0]][0][films.RANKED]
    best = report.number(max(one["ndcg@10"] for one in look["looks"]))
    (row,) = [line for line in kept.splitlines() if f"| {films.RANKED}, seed {seeds[0]} |" in line]
    weights = list(look["weights"].values())
    assert f"| {best} / {100 * weights[-1] / sum(weights):.0f} % |" in row


def test_the_page_says_that_the_gain_is_not_found_again(pytestconfig):
    recorded = report.recorded("list_losses")
    told, book = by_pair(recorded["data"]["comparisons"]), pytestconfig.rootpath / "book"
    page = " ".join((book / "few_labels.md").read_text("utf-8").split())
    part = page.partition("(sec-list-losses)=")[2].partition("(sec-base-lists)=")[0]
    first = report.recorded("further_lists")["data"]
    before = by_pair(first["comparisons"])
    start, free, ranks, alone = script.START, script.FREE, films.RANKED, films.APART
    added, unaided, weighed = (
        films.added(ranks), films.UNTRAINED_SUM, films.MORE_WEIGHED
    )  # fmt: skip
    seeds = list(recorded["data"]["choices"])
    assert len(seeds) == 2 and recorded["data"]["queries"] == 106

    def apart(one, other):
        return span(told[one, other], "difference")

    once = "all layers gently, rankings as rankings"
    assert f"rankings stand {apart(ranks, start)} above their warm start, where the first" in part
    assert f"had {before[once, start]['difference']:.3f}, and {apart(ranks, free)} from" in part
    assert f"where it had {before[once, free]['difference']:.3f}." in part
    rows = recorded["data"]["rows"][start], first["rows"][start]
    levels = [f"{row['ndcg@10']:.3f}" for row in rows]
    assert f"have {levels[0]} in the mean here, and that of the first seed had {levels[1]}" in part
    now, once_more = told[ranks, start], before[once, start]
    assert now["low"] < 0 < once_more["difference"] < now["high"]
    lost = before[once, free]["difference"] - told[ranks, free]["difference"]
    fallen = first["rows"][start]["ndcg@10"] - recorded["data"]["rows"][start]["ndcg@10"]
    assert fallen / lost == pytest.approx(2 / 5, abs=0.02) and "two fifths of what" in part
    assert f"can be told ({apart(ranks, alone)})." in part
    assert f"stands {apart(alone, start)} above the warm start and {apart(alone, free)}" in part
    assert f"the same sum without them ({apart(added, unaided)})." in part
    turned = {"difference": -told[unaided, weighed]["difference"],
              "low": -told[unaided, weighed]["high"],
              "high": -told[unaided, weighed]["low"]}  # fmt: skip
    assert f"this changes it by {span(turned, 'difference')}." in part
    assert all(one["low"] < 0 < one["high"] for one in told.values())
    reached = {name: row["ndcg@10"] for name, row in recorded["data"]["rows"].items()}
    assert all(reached[films.added(name)] < reached[name] for name in films.TAUGHT)
    unweighed = [own[2][name]["weights"]["u"] for own in recorded["data"]["choices"].values()
                 for name in films.TAUGHT]  # fmt: skip
    assert unweighed == [0, 0, 0, 0] and "in fold 3 they gave both networks the weight 0" in part
    assert [goal["met"] for goal in recorded["goals"]] == [False] * 4
    asked = " ".join((book / "faq.md").read_text("utf-8").split())
    assert f"(#sec-list-losses) it is {apart(ranks, start)}, which cannot be told" in asked
