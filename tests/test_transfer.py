"""What moves from one shop to another, on made-up shops, and what a handful of labels foretells."""

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from datasets import DatasetDict
from safetensors.torch import load_file, save_file
from test_recommend_networks import ITEMS, START, USERS, lines, shop

import other_shop
from ecomkd import models, recommend, transfer
from ecomkd.config import Profile
from ecomkd.data.schema import GAINS
from ecomkd.relevance import judge
from measure_cross_platform import ranker, worth

KIND = recommend.DecayedMeans


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return Profile.named(
        "smoke",
        artifacts=tmp_path_factory.mktemp("artifacts"),
        device="cpu",
    )


@pytest.fixture(scope="module")
def baskets():
    return shop(lines())


@pytest.fixture(scope="module")
def vectors(baskets):
    return np.random.default_rng(1).standard_normal((len(recommend.texts(baskets)[0]), 16))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(recommend, "FIRST", 30)
    monkeypatch.setattr(other_shop, "STEPS", 3)


@pytest.fixture
def items(baskets, vectors, profile, small):
    return other_shop.items_of(baskets, np.arange(USERS), vectors, profile, width=4)


@pytest.fixture
def source(items, tmp_path):
    """A folder with a recommender none of whose numbers is what it was drawn as."""
    torch.manual_seed(5)
    model = KIND(items)
    state = {
        name: own + 1 if own.dtype == torch.long else torch.randn_like(own)
        for name, own in model.state_dict().items()
    }
    model.load_state_dict(state)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_items_are_known_through_the_told_users_alone(baskets, vectors, profile, small):
    users = np.array([1, 2])
    items = other_shop.items_of(baskets, users, vectors, profile, width=2)
    own = baskets.between(0, START)
    bought = own.loc[own["user"].isin(users), "item"].unique()
    sold = items.on(START)[1][:, :3].sum(dim=1).numpy() > 0
    assert set(np.flatnonzero(sold)) <= set(bought)
    assert len(items.text_of) == ITEMS
    nobody = other_shop.items_of(baskets, users[:0], vectors, profile, width=2)
    for table in nobody.on(START):
        assert not table.any()


def test_items_that_nobody_told_of_are_others_than_those_that_all_did(
    baskets, vectors, profile, small
):
    nobody = other_shop.items_of(baskets, np.array([], int), vectors, profile, width=4)
    everyone = other_shop.items_of(baskets, np.arange(USERS), vectors, profile, width=4)
    assert nobody.key != everyone.key
    assert nobody.baskets.events.empty
    with pytest.raises(ValueError, match="no customer who bought before and after a day"):
        other_shop.learn(KIND, nobody, baskets.validation_start, profile)


def test_a_drawn_recommender_leaves_the_global_generator_as_it_was(items, profile):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = other_shop.untrained(KIND, items, profile)
    assert torch.equal(torch.rand(3), expected)
    # The draws are those of the profile's seed.
    torch.manual_seed(profile.seed)
    for name, own in KIND(items).state_dict().items():
        assert torch.equal(first.state_dict()[name], own), name


def test_every_part_moves_and_what_tells_people_apart_stays(items, source, profile):
    weights = load_file(source / "model.safetensors")
    model = KIND(items)
    record = transfer.move(model, weights).set_index("tensor")
    for name, own in model.state_dict().items():
        if transfer.part_of(name) == "price":
            assert torch.equal(own[:, -1], weights[name][:, -1])
            assert not own[:, :-1].any()
            assert record.loc[name, "moved"] == len(own)
        else:
            assert torch.equal(own, weights[name]), name
            assert record.loc[name, "moved"] == record.loc[name, "numbers"]
    assert set(record["part"]) == set(transfer.PARTS)


def test_parts_that_are_not_asked_for_stay_as_they_were_drawn(items, source, profile):
    drawn = other_shop.untrained(KIND, items, profile).state_dict()
    weights = load_file(source / "model.safetensors")
    model = other_shop.untrained(KIND, items, profile, source, ["habits"])
    for name, own in model.state_dict().items():
        expected = weights if transfer.part_of(name) == "habits" else drawn
        assert torch.equal(own, expected[name]), name
    with pytest.raises(ValueError, match="Unknown part 'colour'"):
        transfer.move(model, weights, ["colour"])


def test_people_in_another_order_change_nothing(baskets, vectors, profile, items, source):
    """The columns that read who bought an item are 0: a zero-shot ranking ignores them."""
    model = other_shop.untrained(KIND, items, profile, source)
    scores = ranker(model, baskets, START)(np.arange(USERS), False)
    on = items.on

    def turned(day):
        met, numbers = on(day)
        return torch.cat([met[:, :-1].flip(1), met[:, -1:]], dim=1), numbers

    items.on = turned
    again = ranker(model, baskets, START)(np.arange(USERS), False)
    assert (scores == again).all()


def test_the_asked_users_own_baskets_are_read(baskets, vectors, profile, small):
    items = other_shop.items_of(baskets, np.array([], int), vectors, profile, width=2)
    rank = ranker(other_shop.untrained(KIND, items, profile), baskets, START)
    past = recommend.history(baskets, START)
    for user, top in enumerate(rank(np.arange(USERS), False)):
        own = past[user].indices
        assert np.isin(top[: min(len(own), 5)], own).all()
    for user, top in enumerate(rank(np.arange(USERS), True)):
        assert not np.isin(top, past[user].indices).any()


def test_what_is_learnt_is_never_worse_on_validation_than_its_start(
    baskets, items, profile, source
):
    start = baskets.validation_start
    collator = recommend.BasketCollator(baskets)

    def recall(model):
        rank = recommend.network(recommend.Shelf(model, collator, start))
        return recommend.evaluate(rank, baskets, start)["recall"]

    first = other_shop.untrained(KIND, items, profile, source)
    folder = other_shop.learn(KIND, items, start, profile, source)
    learnt = recommend.load(folder, KIND, items)
    assert recall(learnt) >= recall(first)
    # At a rate of nothing, nothing is better than the start: it is kept, bit for bit.
    kept = other_shop.learn(KIND, items, start, profile, source, rates=(1e-12,))
    found = recommend.load(kept, KIND, items).state_dict()
    assert all(torch.equal(own, found[name]) for name, own in first.state_dict().items())


def test_reached_by_hand():
    counts, curve = [0, 10, 100, 1000], [0.1, 0.2, 0.15, 0.4]
    assert transfer.reached(counts, curve, 0.05) == 0
    assert transfer.reached(counts, curve, 0.2) == pytest.approx(10)
    halfway = np.expm1((np.log1p(100) + np.log1p(1000)) / 2)
    assert transfer.reached(counts, curve, 0.3) == pytest.approx(halfway)
    assert transfer.reached(counts, curve, 0.5) == 1000


def test_worth_is_the_count_that_takes_one_curve_to_the_other():
    counts, noise = [0, 10, 100], np.random.default_rng(0).normal(0, 0.01, 200)
    alone = np.add.outer(noise, [0.1, 0.2, 0.4])
    moved = np.add.outer(noise, [0.2, 0.4, 0.4])
    found = worth(counts, pd.DataFrame(alone), pd.DataFrame(moved), 0)
    # The same noise in both curves: which users are drawn does not matter.
    for name in ("value", "low", "high"):
        assert found[name] == pytest.approx(10)
    found = worth(counts, pd.DataFrame(alone), pd.DataFrame(moved), 1)
    assert found["value"] == pytest.approx(90)
    found = worth(counts, pd.DataFrame(alone), pd.DataFrame(alone), 1)
    assert found["value"] == pytest.approx(0)
    moved += np.random.default_rng(1).normal(0, 0.5, moved.shape)
    wide = worth(counts, pd.DataFrame(alone), pd.DataFrame(moved), 0)
    assert wide["low"] < 10 < wide["high"]


def test_a_handful_says_what_it_sees_and_when_it_cannot_know():
    users = pd.RangeIndex(30)
    base = pd.Series(np.linspace(0, 1, 30), users)
    better = transfer.foreseen(base + 0.1, base)
    assert (better["says"], better["sure"]) == ("helps", True)
    worse = transfer.foreseen(base - 0.1, base)
    assert (worse["says"], worse["sure"]) == ("harms", True)
    noise = pd.Series(np.tile([0.3, -0.29], 15), users)
    assert not transfer.foreseen(base + noise, base)["sure"]


def test_distance_is_nought_for_one_shop_and_two_for_two_worlds():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 300, 8))
    assert transfer.distance(a, b) < 0.4
    assert transfer.distance(a, b + 10) > 1.9


def test_terse_titles_by_hand():
    assert transfer.terse("Red Leather Shoe 42 cm") == "cm 42 shoe lthr red"
    assert transfer.terse("") == ""


def test_another_style_keeps_the_order_of_labels():
    data = tiny_models.shop()
    other = transfer.restyled(data)
    assert list(judge.gains(other["train"])) == [0, 1, 2, 3]
    assert other["train"]["query"] == data["train"]["query"]
    assert other["train"]["product_title"][0] == transfer.terse(data["train"]["product_title"][0])
    names = data["train"].features["label"].names
    gains = [GAINS[names[label]] for label in data["train"]["label"]]
    for gain, label in zip(gains, other["train"]["label"], strict=True):
        assert gain == list(GAINS.values())[::-1][label]
    assert set(other["unlabelled"]["label"]) == {-1}


def test_few_takes_whole_queries_that_can_be_ranked():
    data = tiny_models.shop(train=60)
    few = transfer.few_queries(data, 3)
    assert len(set(few["train"]["query_id"])) == 3
    assert len(set(few["validation"]["query_id"])) == 1
    for query, own in few["train"].to_pandas().groupby("query_id"):
        whole = data["train"].filter(lambda row, query=query: row["query_id"] == query)
        assert len(own) == len(whole)
        assert own["label"].nunique() > 1
    assert few["test"].num_rows == data["test"].num_rows


@pytest.fixture
def teacher(tmp_path):
    model = tiny_models.bert(seed=2)
    names = list(GAINS)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return tiny_models.save(model, tmp_path / "teacher")


def test_a_turned_head_says_each_class_in_the_opposite_place(teacher, tmp_path):
    own = tiny_models.profile(tmp_path / "artifacts")
    pairs = tiny_models.pairs(12)
    turned = transfer.flip_head(teacher, own)
    before, after = (judge.predict(folder, pairs, own) for folder in (teacher, turned))
    assert np.allclose(after, before[:, ::-1], atol=1e-6)


def test_scores_go_by_the_classes_that_the_model_has_learnt(teacher, tmp_path):
    own = tiny_models.profile(tmp_path / "artifacts")
    graded = transfer.restyled(DatasetDict(train=tiny_models.pairs(12)))["train"]
    found = transfer.scores(teacher, graded, own)
    expected = judge.predict(teacher, graded, own) @ np.array(list(GAINS.values()))
    assert found == pytest.approx(expected)
    two = tiny_models.save(tiny_models.bert(classes=2), tmp_path / "two")
    assert transfer.own_gains(models.load(two)) == [0, 1]


def test_a_lesson_is_the_order_of_one_teacher_on_a_common_scale(teacher, tmp_path):
    own = tiny_models.profile(tmp_path / "artifacts")
    pairs = tiny_models.pairs(24)
    taught = transfer.teacher_odds(pairs, teacher, own)
    odds = np.array(taught["teacher_logits"])
    assert not odds[:, 0].any()
    assert odds[:, 1].mean() == pytest.approx(0, abs=1e-6)
    assert odds[:, 1].std() == pytest.approx(2, rel=1e-6)
    gain = transfer.scores(teacher, pairs, own)
    assert (np.argsort(odds[:, 1]) == np.argsort(gain)).all()
    assert set(taught["labels"]) == {-100}
    with pytest.raises(ValueError, match="gives all 5 pairs the same score"):
        transfer.teacher_odds(pairs.select([0] * 5), teacher, own)


def test_a_head_of_two_layers_is_turned_too(tmp_path):
    own = tiny_models.profile(tmp_path / "artifacts")
    teacher = tiny_models.save(tiny_models.encoder("roberta"), tmp_path / "teacher")
    before, after = (models.head(models.load(one)) for one in
                     (teacher, transfer.flip_head(teacher, own)))  # fmt: skip
    assert torch.equal(after.weight, before.weight.flip(0))


def test_a_student_of_two_learns_from_both(teacher, tmp_path):
    own = tiny_models.profile(
        tmp_path / "artifacts", student_layers=(0,), student_learning_rate=3e-3
    )
    begin = tiny_models.save(tiny_models.bert(classes=2, seed=3), tmp_path / "begin")
    graded = tiny_models.bert(seed=9)
    graded.config.id2label = dict(enumerate("0123"))
    other = tiny_models.save(graded, tmp_path / "other")
    here, there = tiny_models.pairs(40, seed=1), tiny_models.pairs(40, seed=2, prefix="r")
    folder = transfer.joint_student([(here, teacher), (there, other)], begin, own, steps=60)
    student = models.load(folder, 2)
    assert student.config.num_hidden_layers == 1
    before = tiny_models.save(models.build_student(models.load(begin), (0,)), tmp_path / "before")
    for pairs, taught in ((here, teacher), (there, other)):
        wanted = transfer.scores(taught, pairs, own)
        first, last = (transfer.scores(one, pairs, own) for one in (before, folder))
        assert np.corrcoef(last, wanted)[0, 1] > np.corrcoef(first, wanted)[0, 1] + 0.1


def test_nothing_moves_from_a_recommender_of_another_shape(items, source, profile):
    weights = load_file(source / "model.safetensors")
    name = next(one for one in reversed(weights) if transfer.part_of(one) == "taste")
    model = other_shop.untrained(KIND, items, profile)
    before = {own: value.clone() for own, value in model.state_dict().items()}
    lacking = {own: value for own, value in weights.items() if own != name}
    for wrong in (weights | {name: weights[name][None]}, lacking):
        with pytest.raises(ValueError, match=f"^move: {name} is .* leave the part 'taste' out"):
            transfer.move(model, wrong)
        assert all(torch.equal(value, before[own]) for own, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("counts", "curve", "level"),
    [([], [], 0.1), ([0, 10], [0.1, 0.2, 0.3], 0.25), ([0, 10], [0.1, np.nan], 0.2),
     ([0, 10], [0.1, 0.2], np.nan)],
)  # fmt: skip
def test_a_curve_with_gaps_reaches_nothing(counts, curve, level):
    with pytest.raises(ValueError, match=r"^reached: .* give a number for each count"):
        transfer.reached(counts, curve, level)


def test_a_teacher_of_no_pairs_is_refused(teacher, tmp_path):
    data = transfer.few_queries(tiny_models.shop(), 0)
    with pytest.raises(ValueError, match="fine_tune: there are no training pairs"):
        transfer.fine_tune(data, tiny_models.profile(tmp_path / "artifacts"), teacher, 5)
