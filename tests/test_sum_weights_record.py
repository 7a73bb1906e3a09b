"""Labels as weights of a sum: what learns from which queries, on tiny data, and the record."""

import numpy as np
import pytest
import torch
from chapter_text import span
from datasets import DatasetDict
from test_query_side_record import COLOURS, PLACE, THINGS, WIDTH, pairs
from test_sum_students_record import merged

import measure_query_side as query_side
import measure_sum_weights as script
from book import esci_lists
from ecomkd import report
from shared import by_pair

EVERY = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS]
SIZES = (6, 3)


def in_turn(asked):
    """The pairs query by query, in the order of EVERY."""
    return asked.select(np.argsort([EVERY.index(query) for query in asked["query"]], kind="stable"))


@pytest.fixture
def tiny(monkeypatch):
    """A shop whose two encoders are tables of tokens, with queries for two seeds."""
    names = {"train": EVERY[:12], "validation": EVERY[12:16], "test": EVERY[16:]}
    data = DatasetDict({of: in_turn(pairs(asked)) for of, asked in names.items()})
    draw = np.random.default_rng(0)
    vectors = torch.from_numpy(query_side.unit(draw.normal(size=(6, WIDTH)).astype(np.float32)))
    table = draw.normal(size=(30_522, WIDTH)).astype(np.float32)
    parts = {
        of: script.Part(asked, query_side.of_pairs(asked, PLACE), draw.random((len(asked), 3)))
        for of, asked in data.items()
    }
    encoders = {
        "six layers": script.Encoder("minilm", (0.05, 0.2), SIZES),
        "base size": script.Encoder("mpnet", (0.2,), SIZES[:1]),
    }
    monkeypatch.setattr(script, "ENCODERS", encoders)
    monkeypatch.setattr(script, "films", lambda *_: (parts, vectors))
    monkeypatch.setattr(script, "Network", lambda *_: query_side.Static(table, EVERY))
    monkeypatch.setattr(script, "SEEDS", (1, 2))
    monkeypatch.setattr(script, "MOST", SIZES[0])
    monkeypatch.setattr(script, "VALIDATION", 2)
    return data


def test_a_part_of_the_queries_keeps_their_rows_together(tiny):
    parts, _ = script.films()
    some = parts["train"].some(2, 5)
    assert list(dict.fromkeys(some.pairs["query_id"])) == [f"q {query}" for query in EVERY[2:5]]
    assert some.asked.queries == EVERY[2:5]
    rows = np.flatnonzero(np.isin(tiny["train"]["query_id"], some.pairs["query_id"]))
    np.testing.assert_array_equal(some.words, parts["train"].words[rows])
    assert parts["train"].some(0, 12).words.shape == parts["train"].words.shape


def test_what_weighs_a_labelled_query_has_not_learnt_from_it(tiny, monkeypatch):
    parts, vectors = script.films()
    train, learnt = parts["train"].some(0, 6), []

    def fit(asked):
        learnt.append(list(asked.queries))
        model = query_side.Static(np.full((30_522, WIDTH), len(learnt), np.float32), EVERY)
        return model, {}

    def level(model, asked, _):
        return torch.full(asked.rows.shape, model.table.weight[0, 0].item())

    monkeypatch.setattr(script, "cosines", level)
    found = script.crossed(train, fit, vectors)
    assert len(learnt) == script.FOLDS
    for place, others in enumerate(learnt, 1):
        held = {query for query, said in zip(train.pairs["query"], found, strict=True)
                if said == place}  # fmt: skip
        assert held and held == set(EVERY[:6]) - set(others)


def test_each_seed_weighs_with_queries_of_its_own(tiny, monkeypatch):
    chosen, own = [], script.choose_fusion
    last, apart, crossed = [], [], script.crossed

    def by_others(*given):
        apart.append(crossed(*given))
        return apart[-1]

    monkeypatch.setattr(script, "crossed", by_others)

    def choose(way, signals, pairs):
        last.append(signals[:, -1])
        chosen.append(list(dict.fromkeys(pairs["query"])))
        return own(way, signals, pairs)

    monkeypatch.setattr(script, "choose_fusion", choose)
    monkeypatch.setattr(script.runtime, "precision", lambda _: "fp32")
    found = script.measured(2)
    held, train = EVERY[14:16], EVERY[6:12]
    expected = [
        held + train[:size] if more else held
        for _, (*_, sizes) in script.ENCODERS.items()
        for size in sizes
        for more in (False, True) * 2  # the free sum, and that with the teacher
    ]
    assert chosen == expected
    # The fourth sum of each size is that with the teacher, weighed by all labels.
    for weighed, said in zip(last[3::4], apart, strict=True):
        np.testing.assert_array_equal(weighed[-len(said) :], said)
    cases = [(name, size) for name, (*_, sizes) in script.ENCODERS.items() for size in sizes]
    rows = {name for pair in script.ASKED for name in pair}
    assert set(found["systems"]) == {"random"} | {
        script.of(name, *case) for case in cases for name in rows
    }
    tested = {f"q {query}" for query in EVERY[16:]}
    assert all(set(values["ndcg@10"]) == tested for values in found["systems"].values())
    assert set(found["choices"]) == {f"{name}, {size} queries" for name, size in cases}
    for of in found["choices"].values():
        assert of["rate"] in (0.05, 0.2) and all(len(own) == 4 for own in of["weights"].values())


def test_the_goals_are_what_fine_tuning_adds_to_the_stronger_free_sum(tmp_path):
    better = {script.of(script.TAUGHT + script.ALL, *case) for case in script.CASES}
    record = merged(script, better, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [True, False] * len(script.CASES)
    assert record["goals"][0]["value"] == pytest.approx(0.1)


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("sum_weights")


def test_the_table_has_a_column_for_each_encoder_and_number_of_labels(recorded):
    reached, told, kept, _ = esci_lists.weights_part(recorded).split("\n\n")
    cases = [*reversed(script.CASES[:3]), script.CASES[3]]
    heads = " | ".join(f"{encoder}, {size} queries" for encoder, size in cases)
    assert reached.startswith(f"| nDCG@10 | {heads} |")
    assert told.count("[") == len(script.COMPARED)
    both = by_pair(recorded["data"]["comparisons"])
    cells = " | ".join(
        span(both[script.of(script.TEACHER, *case), script.of(script.FREE + script.ALL, *case)],
             "difference")
        for case in cases
    )  # fmt: skip
    names = "fine-tuned encoder, no words − free sum (all labels)"
    assert f"| {names} | {cells} |" in told
    assert kept.count("**") == 2 * len(script.CASES) * len(script.SEEDS)


def test_the_page_says_what_fine_tuning_adds_to_the_stronger_free_sum(recorded, pytestconfig):
    told, book = by_pair(recorded["data"]["comparisons"]), pytestconfig.rootpath / "book"
    page = " ".join((book / "film_queries.md").read_text("utf-8").split())
    part = page.partition("(sec-sum-weights)=")[2].partition("(sec-trees)=")[0]
    free, teacher, taught, every = script.FREE, script.TEACHER, script.TAUGHT, script.ALL
    many, some, few, base = script.CASES

    def found(one, other, case):
        return told[script.of(one, *case), script.of(other, *case)]

    def apart(one, other, case, sign=1):
        own = found(one, other, case)
        low, high = sorted(sign * own[end] for end in ("low", "high"))
        return span({"difference": sign * own["difference"], "low": low, "high": high},
                    "difference")  # fmt: skip

    alike = {case: apart(taught + every, free + every, case) for case in script.CASES}
    assert f"free sum by {alike[some]} (six layers, 400 queries), by {alike[many]} (six" in part
    assert f"1,600) and by {alike[base]} (base size, 400)." in part
    assert f"nothing can be told ({alike[few]})." in part
    assert f"had seemed to be enough: {apart(taught, free, few)}." in part
    weighed = {case: apart(free + every, free, case) for case in script.CASES}
    assert f"told from 0 ({weighed[base]}), for six layers it cannot ({weighed[few]} with" in part
    assert f"queries, {weighed[some]} with 400, {weighed[many]} with 1,600)." in part
    uses = {case: apart(taught, free + every, case) for case in script.CASES}
    assert f"all labels weigh by {uses[some]} with 400 and by {uses[many]} with 1,600; with" in part
    assert f"shown to ({uses[few]}), nor is base size ({uses[base]})." in part
    more = {case: apart(taught + every, taught, case) for case in script.CASES}
    assert f"1,600 labelled queries only ({more[many]}): not with 400 ({more[some]})," in part
    assert f"with 100 ({more[few]}) or at base size ({more[base]})." in part
    sides = [found(one + every, one, few)["difference"] for one in (free, taught)]
    assert "the free sum rose by 0.003 in the mean and the other fell by 0.002; neither" in part
    assert [f"{side:.3f}" for side in sides] == ["0.003", "-0.002"]
    below = [apart(teacher, free + every, case, -1) for case in (few, some)]
    assert f"are below it, by {below[0]} and {below[1]}." in part
    others = [apart(teacher, free + every, case) for case in (many, base)]
    assert f"1,600 taught ({others[0]}) and base size ({others[1]}) cannot" in part
    shown = [(taught + every, free + every, case) for case in (many, some, base)]
    shown += [(taught, free, few), (free + every, free, base), (taught + every, taught, many)]
    shown += [(taught, free + every, case) for case in (many, some)]
    hidden = [(taught + every, free + every, few)]
    hidden += [(taught, free + every, case) for case in (few, base)]
    hidden += [(taught + every, taught, case) for case in (some, few, base)]
    hidden += [(free + every, free, case) for case in (many, some, few)]
    hidden += [(teacher, free + every, case) for case in (many, base)]
    assert all(found(*own)["low"] > 0 for own in shown)
    assert all(found(*own)["low"] < 0 < found(*own)["high"] for own in hidden)
    assert all(found(teacher, free + every, case)["high"] < 0 for case in (few, some))
    met = [goal["met"] for goal in recorded["goals"]]
    assert met == [True, True, True, True, False, False, True, False]
    assert "Five of the eight goals are met" in part
    gains = [found(free + every, free, case)["difference"] for case in script.CASES]
    assert "raise the free sum by 0.003 to 0.007" in part
    assert [f"{end:.3f}" for end in (min(gains), max(gains))] == ["0.003", "0.007"]
    rates = [
        own[f"{encoder}, {size} queries"]["rate"]
        for own in recorded["data"]["choices"].values()
        for encoder, size in (many, some, few)
    ]
    assert len(rates) == 9 and rates.count(min(script.RATES)) == 4
    assert max(script.RATES) not in rates and "four are the lowest that was tried" in part
    looks = [
        own["six layers, 1600 queries"]["looks"] for own in recorded["data"]["choices"].values()
    ]
    assert sum(own[-1] == max(own) for own in looks) == 2 and "two were best after their" in part
    passes = [
        script.passes_over(query_side.lists([""] * size, [[0]] * size))
        for _, size in (few, some, many)
    ]
    assert f"at most {passes[0]} over 100 queries, {passes[1]} over 400 and {passes[2]}" in part
    above = by_pair(report.recorded("query_side")["data"]["msrd"]["comparisons"])
    assert f"stood {span(above['words + teacher', 'words + untrained'])} over the free" in part
    of_base = page.partition("(sec-frontier)=")[2].partition("(sec-free-teacher)=")[0]
    assert f"on both sides, the teacher is {alike[base]} above the free sum;" in of_base


def test_the_base_size_encoder_learns_at_the_rate_that_another_record_chose():
    chosen = report.recorded("frontier")["data"]["choices"]
    assert {own["teacher"]["rate"] for own in chosen} == set(script.ENCODERS["base size"].rates)
