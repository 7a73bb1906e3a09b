"""Further ways to fine-tune on whole lists: what is trained and compared, on tiny data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from chapter_text import span
from test_run import judgments, shop
from test_sum_students_record import merged
from transformers import TrainingArguments

import measure_further_lists as script
import measure_untrained
from book import esci_lists
from ecomkd import distill, features, metrics, models, report
from ecomkd.data import sources
from ecomkd.data.folds import divided
from ecomkd.relevance import judge
from shared import by_pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]


@pytest.fixture
def warmed(tmp_path) -> Path:
    """A network of two layers with the head of a warm-up."""
    model = tiny_models.bert(classes=2)
    model.config.id2label = dict(enumerate(models.WARMED))
    return tiny_models.save(model, tmp_path / "warmed")


@pytest.fixture
def tiny(tmp_path, warmed, monkeypatch):
    """Three folds of a small shop, whose warm-up is known, and what each stage was asked."""
    profile = tiny_models.profile(tmp_path / "artifacts", teacher=str(warmed))
    folder = shop(tmp_path / "shoes", judgments())
    data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)
    parts = divided(data, 3, seed=1)
    films = sources.load(shop(tmp_path / "films", judgments().iloc[4:]), profile)

    def parts_of(name, profile, scratch, labelled, unlabelled):
        return ([films] if name == "msrd" else parts), catalogue

    monkeypatch.setattr(script.measure_whole_lists.Profile, "named", lambda *_, **__: profile)
    monkeypatch.setattr(measure_untrained, "parts_of", parts_of)
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, *_: np.arange(len(pairs)))
    monkeypatch.setattr(script.measure_whole_lists.mining, "with_unlabelled", lambda data, *_: data)
    monkeypatch.setattr(script.stages, "origin", lambda *_: str(warmed))
    return profile, parts


def test_a_ranking_is_taught_by_the_share_of_all_gains_that_each_product_has():
    u, taught = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.1])
    chance = torch.exp(u) / torch.exp(u).sum()
    expected = -(chance[0].log() + 0.1 * chance[2].log()) / 1.1
    assert script.as_a_ranking(u, taught).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_step_gives_the_loss_what_sets_alike_above_apart_and_the_gains(warmed):
    asked, gains = [], torch.tensor([1.0, 0.0, 0.1])

    def loss(u, gains):
        asked.append((u.detach(), gains))
        return u.sum()

    model = models.load(warmed)
    run = script.ListTrainer(model, loss, dict, args=TrainingArguments(use_cpu=True, report_to=[]))
    batch = tiny_models.tokenizer()(["red shoe", "blue mug", "tea pot"], return_tensors="pt")
    model.eval()
    apart, alike = model(**batch).logits.detach().T
    run.compute_loss(model, dict(batch) | {"gains": gains})
    ((found, known),) = asked
    assert found == pytest.approx(alike - apart) and known is gains


def test_queries_without_a_product_of_worth_teach_no_ranking(tiny):
    train = tiny[1][0]["train"]
    worth = judge.worth(train) * (np.asarray(train["query_id"]) != train[0]["query_id"])
    rows = script.worthy(train, worth)
    assert {train[int(own[0])]["query_id"] for own in rows} == set(train["query_id"]) - {
        train[0]["query_id"]
    }
    assert all(len({train[int(row)]["query_id"] for row in own}) == 1 for own in rows)


def test_a_ranking_starts_from_the_order_of_the_warm_up_and_learns_another(tiny, warmed):
    profile, (data, *_) = tiny
    profile = replace(profile, teacher_learning_rate=3e-3, teacher_epochs=20)
    start = script.of_rankings(warmed, data, profile)
    network, tokenizer = models.load(warmed), tiny_models.tokenizer()
    encoded = {split: distill.encode(data[split], tokenizer, profile.max_length) for split in data}
    u = script.alike(network, encoded["test"], tokenizer, profile)
    gains = judge.gains(data["test"])
    queries, said = (
        np.asarray(data["test"]["query_id"]),
        metrics.expected_gain(start["test"], gains),
    )
    for own in (queries == query for query in set(queries)):
        assert np.array_equal(np.argsort(u[own]), np.argsort(said[own]))
    folder = script.lists(data, profile, str(warmed))
    seen = script.looks(folder)
    assert all(look["quality"] == look["ndcg@10"] for look in seen)
    taught = script.alike(models.load(folder), encoded["train"], tokenizer, profile)
    before = script.alike(network, encoded["train"], tokenizer, profile)

    def order(scores):
        return metrics.ranking(judge.frame(data["train"], scores), gains)["ndcg@10"]

    assert order(taught) > order(before)


def test_each_recipe_is_trained_from_the_warm_up_and_judged_on_all_folds(tiny):
    profile, parts = tiny
    found = script.measured(18)
    rows = {name for pair in script.COMPARED for name in pair}
    assert rows <= set(found["systems"])
    assert len({tuple(own["ndcg@10"]) for own in found["systems"].values()}) == 1
    assert len(found["choices"]) == len(parts)
    for told in found["choices"]:
        assert set(told) == {*script.SYSTEMS, "chosen"}
        held = {name: told[name]["validation ndcg@10"] for name in script.SYSTEMS}
        assert held[told["chosen"]] == max(held.values())
        number = found["choices"].index(told)
        taken = found["systems"][told["chosen"]]["ndcg@10"]
        chosen = found["systems"][script.CHOSEN]["ndcg@10"]
        own = {query for query in chosen if query.startswith(f"{number}: ")}
        assert own and all(chosen[query] == taken[query] for query in own)
        judged = {name for name in script.SYSTEMS if "macro_f1" in told[name]}
        assert judged == set(script.OF_CLASSES)
        assert {name for name in script.SYSTEMS if "looks" not in told[name]} == {script.TOGETHER}
    trained = (*script.RECIPES, script.FILMS)
    folders = {name: script.recipe(name, parts[0], profile)[1] for name in trained}
    assert len(set(folders.values())) == len(trained)
    # Where the warm-up is one, as here, so is the network of the film queries.
    again = [script.recipe(name, parts[1], profile)[1] for name in (script.FILMS, script.LISTS)]
    assert again[0] == folders[script.FILMS] and again[1] != folders[script.LISTS]


def test_the_mean_of_the_recipes_is_the_mean_of_what_they_say(tiny, monkeypatch):
    profile, (data, *_) = tiny
    signals = script.rivals.Signals(
        *(np.zeros((len(data["test"]), width)) for width in (3, 2)), np.zeros(0), {}
    )
    order = np.arange(len(data["test"]), dtype=float)

    def recipe(name, data, profile):
        own = {split: np.zeros((len(data[split]), 4)) for split in script.SPLITS}
        # One recipe knows the order, and film queries alone, which do not count, the reverse.
        own["test"][:, 0] = order if name == script.LISTS else -order * (name == script.FILMS)
        return own, None

    summed = (None, None, order, {})
    monkeypatch.setattr(script.rivals, "sums", lambda *_: [summed])
    monkeypatch.setattr(script, "recipe", recipe)
    monkeypatch.setattr(script, "looks", lambda _: [])
    monkeypatch.setattr(script, "warm_start", lambda *_: order)
    seen = dict.fromkeys(("validation", "test"), replace(signals, cosine=order))
    found, _ = script.fold((data, None, seen), profile)
    assert found[script.TOGETHER] == found[script.LISTS] != found[script.FILMS]


def test_the_head_is_trained_alone_before_the_layers_are(tiny, monkeypatch):
    profile, (data, *_) = tiny
    free, own = [], script.stages.fine_tune

    def fine_tune(model, *how):
        free.append({name for name, part in model.named_parameters() if part.requires_grad})
        return own(model, *how)

    monkeypatch.setattr(script.stages, "fine_tune", fine_tune)
    folder = script.head_first(data, profile, str(script.stages.origin(data, profile)))
    first, second = free
    assert first == {"classifier.weight", "classifier.bias"} < second
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == []


def test_a_low_rank_correction_leaves_all_but_attention_pooler_and_head(tiny, warmed, monkeypatch):
    profile, (data, *_) = tiny
    profile = replace(profile, teacher_epochs=10)
    monkeypatch.setattr(script, "LOW_RANK_RATE", 1e-2)
    before = models.load(warmed).state_dict()
    after = models.load(script.low_rank(data, profile, str(warmed))).state_dict()
    moved = {name for name in before.keys() - {"classifier.weight", "classifier.bias"}
             if not torch.equal(before[name], after[name])}  # fmt: skip
    attention = {name for name in before if "attention" in name and name.endswith("dense.weight")}
    attention |= {name for name in before if "attention.self" in name and "weight" in name}
    assert moved == attention | {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert after["classifier.weight"].shape[0] == len(data["train"].features["label"].names)
    for name in attention:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 8


def test_the_level_of_a_query_changes_no_answer_of_rankings(tiny, warmed, monkeypatch):
    profile, (data, *_) = tiny
    plain, own = script.of_rankings(warmed, data, profile), script.alike

    def raised(model, pairs, *how):
        return own(model, pairs, *how) + np.unique(pairs["query_id"], return_inverse=True)[1]

    monkeypatch.setattr(script, "alike", raised)
    shifted = script.of_rankings(warmed, data, profile)
    assert shifted["test"] == pytest.approx(plain["test"], abs=1e-5)


def test_goals_are_held_against_the_cosine_and_against_the_sum(tmp_path):
    record = merged(script, {script.added(script.CHOSEN)}, tmp_path)
    assert [goal["met"] for goal in record["goals"]] == [True, True]
    assert record["goals"][0]["value"] == pytest.approx(0.1)


def test_the_tables_show_each_system_and_each_difference_but_those_from_random():
    record = report.recorded("further_lists")
    reached, against, others, *_ = esci_lists.further_part(record).split("\n\n")
    assert all(f"| {name} |" in reached for name in (*script.SYSTEMS, "random"))
    asked = [pair for pair in script.COMPARED if pair[1] != "random"]
    shown = (against + others).count("[")
    assert shown == len(asked)
    told = by_pair(record["data"]["comparisons"])[script.FILMS_FIRST, script.FILMS]
    assert f"| {span(told, 'difference')} |" in others


def test_the_page_says_what_rankings_add_and_that_the_goals_are_missed(pytestconfig):
    recorded = report.recorded("further_lists")
    data, book = recorded["data"], pytestconfig.rootpath / "book"
    page = " ".join((book / "few_labels.md").read_text("utf-8").split())
    part = page.partition("(sec-further-lists)=")[2].partition("(sec-base-lists)=")[0]
    told, rows = by_pair(data["comparisons"]), data["rows"]

    def apart(one: str, other: str) -> str:
        return span(told[one, other], "difference")

    above = [apart(script.LISTS, other) for other in (script.START, script.ONCE)]
    assert f"above the warm start by an interval that excludes 0: {above[0]}." in part
    assert f"It stands {above[1]} above the first recipe" in part
    assert max(script.SYSTEMS, key=lambda name: rows[name]["ndcg@10"]) == script.LISTS
    assert f"nobody trained** ({apart(script.LISTS, script.FREE)})" in part
    low, first, films = (
        apart(name, script.START)
        for name in (script.LOW_RANK, script.HEAD_FIRST, script.FILMS_FIRST)
    )
    assert f"low rank {low}, head first {first}, film queries first {films}." in part
    assert f"({apart(script.FILMS_FIRST, script.LISTS)} from the lists alone)" in part
    assert f"the five is {apart(script.TOGETHER, script.ONCE)} above the first recipe" in part
    gains = {name: told[name, script.START]["low"] > 0 for name in script.SYSTEMS}
    assert gains == dict.fromkeys(script.SYSTEMS, False) | {script.LISTS: True}
    assert all(told[script.LISTS, other]["low"] > 0 for other in (script.START, script.ONCE))
    assert all(told[name, script.FREE]["low"] < 0 for name in (*script.SYSTEMS, script.CHOSEN))
    assert "Both goals are missed" in part
    assert [goal["met"] for goal in recorded["goals"]] == [False, False]
    both = script.added(script.CHOSEN)
    assert f"It stands {apart(both, script.UNTRAINED_SUM)} from the first and" in part
    assert f"{apart(both, script.FREE)} from the second." in part
    assert f"stands {apart(script.CHOSEN, script.FREE)} from the bi-encoder" in part
    alone, added = (rows[name]["ndcg@10"] for name in (script.CHOSEN, both))
    assert f"({alone:.3f}, and {added:.3f} in the sum)" in part and alone > added
    folds = data["choices"]["18"]
    taken = [fold["chosen"] for fold in folds]
    assert "took rankings in two folds, and in one each film queries first, the mean, and" in part
    assert sorted(taken) == sorted(
        [script.LISTS, script.LISTS, script.FILMS_FIRST, script.TOGETHER, script.ONCE]
    )
    assert (
        "every network the weight 0 in fold 3, and the network of rankings also in fold 5" in part
    )
    assert not any(list(folds[2][name]["weights"].values())[-1] for name in script.SYSTEMS)
    assert list(folds[4][script.LISTS]["weights"].values())[-1] == 0
    weights = [list(fold[script.LISTS]["weights"].values()) for fold in folds]
    assert sum(own[-1] == 0 for own in weights) == 2
    low, first, once = (
        np.mean([fold[name]["macro_f1"] for fold in folds])
        for name in (script.LOW_RANK, script.HEAD_FIRST, script.ONCE)
    )
    assert f"{low:.2f}, then head first, {first:.2f}, and the first recipe, {once:.2f}." in part
    assert "ended above the order that the network had before its first label" in page
    asked = " ".join((book / "faq.md").read_text("utf-8").split())
    assert f"Trained [as rankings](#sec-further-lists), the network ended {above[0]} above" in asked
