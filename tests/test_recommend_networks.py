"""Networks that recommend, on a made-up shop whose users have habits."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ecomkd import recommend, trainer
from ecomkd.config import Profile
from ecomkd.data.baskets import HORIZON, Baskets, from_lines
from ecomkd.losses import listwise_kl
from ecomkd.recommend import networks, training
from measure_recommendation import size

USERS, ITEMS, DAYS = 12, 40, 120
START = DAYS - HORIZON
LATE = ITEMS - 2  # these two items are first sold in the last days
KINDS = [recommend.BasketTransformer, recommend.DecayedMeans]


def shop(lines: list[tuple]) -> Baskets:
    frame = pd.DataFrame(lines, columns=["user_id", "item_id", "day"]).drop_duplicates()
    frame["time"] = pd.Timestamp("2024-01-01 10:00") + pd.to_timedelta(frame["day"], "D")
    frame["basket_id"] = frame["user_id"] * 1000 + frame["day"]
    items = pd.DataFrame({"item_id": range(ITEMS)})
    items["text"] = [f"thing {min(item, LATE) // 2}" for item in items["item_id"]]
    users = pd.DataFrame({"user_id": range(USERS)})
    return from_lines(frame.assign(quantity=1, value=1.0), items, users, {})


def lines() -> list[tuple]:
    rng = np.random.default_rng(0)
    found = [(user, item, 0) for user in range(USERS) for item in range(3)]
    for user in range(USERS):
        own = rng.choice(LATE, 6, replace=False)
        for day in range(int(rng.integers(1, 5)), DAYS, 4):
            found += [(user, int(item), day) for item in rng.choice(own, 3, replace=False)]
            found.append((user, int(rng.integers(LATE)), day))
        found += [(user, LATE + user % 2, START + 9), (user, 0, DAYS - 1)]
    return found


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return Profile.named("smoke", artifacts=tmp_path_factory.mktemp("artifacts"), device="cpu")


@pytest.fixture(scope="module")
def baskets():
    return shop(lines())


@pytest.fixture(scope="module")
def items(baskets, profile):
    vectors = np.random.default_rng(1).standard_normal((len(recommend.texts(baskets)[0]), 16))
    return recommend.Items(baskets, vectors, 30, 4, profile)


@pytest.fixture
def model(items, request):
    torch.manual_seed(0)
    made = request.param(items, width=8)
    with torch.no_grad():  # away from the start, where all tastes are zero
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made.eval()


each_kind = pytest.mark.parametrize("model", KINDS, indirect=True)
everything = torch.arange(ITEMS)


@torch.inference_mode()
def scored(model, batch: dict, candidates=everything, hidden=None) -> torch.Tensor:
    return model.eval()(batch, candidates, hidden)


def row(day: int = START, users=range(USERS)) -> list[dict]:
    return [{"day": day, "users": list(users), "labelled": True}]


def test_nothing_from_the_day_on_is_read_but_the_targets(baskets, items, profile):
    cut = [line for line in lines() if line[2] < START]
    ends = [(user, LATE + user % 2, DAYS - 1) for user in range(USERS)]
    other = shop(cut + ends)
    here, there = recommend.BasketCollator(baskets)(row()), recommend.BasketCollator(other)(row())
    for name in set(here) - {"day", "buyer", "bought"}:
        assert torch.equal(here[name], there[name]), name
    assert len(there["bought"]) == USERS < len(here["bought"])
    again = recommend.Items(other, items.vectors.numpy(), 30, 4, profile)
    for a, b in zip(items.on(START), again.on(START), strict=True):
        assert torch.equal(a, b)


def test_a_user_without_a_past_cannot_be_read(baskets):
    with pytest.raises(ValueError, match="User 3 has bought nothing before day 0"):
        recommend.BasketCollator(baskets)(row(day=0, users=[3]))


def test_habits_of_one_item_by_hand(baskets):
    seen, habit = networks._habits(20, np.array([2, 10, 10, 18]), np.array([7, 7, 5, 7]))
    assert seen.tolist() == [5, 7]
    decayed = sum(np.exp(-age / 56) for age in (2, 10, 18))
    expected = [decayed, 3, 2, 8, 2 / 8, 3, 3]
    assert np.expm1(habit[1])[[1, 3, 4, 5, 6, 7, 8]] == pytest.approx(expected, rel=1e-5)
    assert np.expm1(habit[0])[[3, 4, 5]] == pytest.approx([1, 10, 60], rel=1e-5)


def test_an_untrained_network_ranks_new_items_by_sales(items, baskets):
    for kind in KINDS:
        shelf = recommend.Shelf(kind(items, width=8), recommend.BasketCollator(baskets), START)
        rank = recommend.network(shelf)
        sold = items.on(START)[1][:, :-1].sum(dim=1).numpy()
        past = recommend.history(baskets, START)
        for user, top in enumerate(rank(np.arange(USERS), True)):
            new = np.setdiff1d(np.arange(ITEMS), past[user].indices)
            count = min(len(new), recommend.DEPTH)
            assert sold[top[:count]] == pytest.approx(np.sort(sold[new])[::-1][:count])


@each_kind
def test_a_user_is_scored_alike_alone_and_among_others(model, baskets):
    collator = recommend.BasketCollator(baskets)
    together = scored(model, collator(row()), everything)
    alone = scored(model, collator(row(users=[5])), everything)
    assert torch.allclose(together[5], alone[0], atol=1e-5)
    some = torch.tensor([30, 2, 17])
    assert torch.allclose(scored(model, collator(row()), some), together[:, some], atol=1e-5)


@each_kind
def test_a_shelf_scores_as_its_network_does(model, baskets):
    collator = recommend.BasketCollator(baskets)
    shelf, whole = recommend.Shelf(model, collator, START), scored(model, collator(row()))
    assert np.allclose(shelf.scores(np.arange(USERS)), whole.numpy(), atol=1e-5)
    numbers = sum(weight.numel() for weight in model.parameters())
    assert size(shelf) == {"network_bytes": 4 * numbers, "table_bytes": 4 * ITEMS * (8 + 8 + 1)}


@each_kind
def test_a_hidden_item_is_scored_as_if_it_had_never_been_sold(model, baskets, monkeypatch):
    hidden = everything == 4
    batch = recommend.BasketCollator(baskets)(row())
    usual, blind = scored(model, batch), scored(model, batch, hidden=hidden)
    assert torch.equal(usual[:, ~hidden], blind[:, ~hidden])
    new = np.setdiff1d(range(USERS), baskets.events.loc[baskets.events["item"] == 4, "user"])
    met, numbers = (part.masked_fill(hidden[:, None], 0) for part in model.items.on(START))
    monkeypatch.setattr(model.items, "on", lambda day: (met, numbers))
    unsold = scored(model, batch)
    assert len(new)
    assert torch.allclose(blind[new], unsold[new], atol=1e-6)


def test_prices_are_told_from_the_mean_of_what_has_been_sold(baskets, items):
    met = items.on(START)[0].float()
    sold = recommend.buyers_of(recommend.history(baskets, START)) > 0
    assert met.shape == (ITEMS, 5)
    assert met[sold, -1].abs().max() < 1e-3  # all cost the same
    dear = baskets.events.assign(price=np.where(baskets.events["item"] == 0, 7.0, 1.0))
    other = recommend.Items(
        replace(baskets, events=dear), items.vectors.numpy(), 30, 4, Profile.named("smoke")
    )
    price = other.on(START)[0][:, -1].float()
    assert price[sold].mean().item() == pytest.approx(0, abs=1e-3)
    assert (price[0] - price[1]).item() == pytest.approx(np.log(8 / 2), abs=1e-2)
    assert price[LATE].item() == 0


@each_kind
def test_items_that_nobody_bought_are_told_apart_by_text_alone(model, baskets):
    scores = scored(model, recommend.BasketCollator(baskets)(row()), everything)
    assert torch.equal(scores[:, LATE], scores[:, LATE + 1])
    assert not torch.allclose(scores[:, LATE], scores[:, LATE].mean())


def test_the_student_reads_sums_that_a_purchase_adds_to(items, baskets):
    model = recommend.DecayedMeans(items, width=8).eval()
    model.mix = torch.nn.Identity()
    batch = recommend.BasketCollator(baskets)(row(users=[3]))
    found = model.taste(batch, lambda rows: model.vectors(model.read, rows, START))
    found = found[0].detach().view(3, 8)
    past = baskets.between(0, START)
    own = past[past["user"] == 3]
    vectors = model.vectors(model.read, torch.tensor(own["item"].tolist()), START)
    for scale, mean in zip((14, 56, 182), found, strict=True):
        weight = torch.from_numpy(np.exp((own["day"].to_numpy() - START) / scale)).float()
        expected = weight @ vectors.detach() / weight.sum()
        assert torch.allclose(mean, expected, atol=1e-4)


def test_purchase_loss_is_binary_cross_entropy_per_purchase():
    torch.manual_seed(0)
    logits, bought = torch.randn(3, 5), torch.tensor([[0, 1, 0, 0, 1], [0] * 5, [1, 0, 0, 0, 0]])
    user, column = bought.nonzero(as_tuple=True)
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, bought.float(), reduction="sum"
    )
    assert torch.isclose(recommend.purchase_loss(logits, user, column), by_hand / 3)
    with pytest.raises(ValueError, match="No candidate is bought"):
        recommend.purchase_loss(logits, user[:0], column[:0])


def test_occasions_leave_room_for_what_is_foreseen(baskets):
    rows = recommend.occasions(baskets, 40, START, 5, seed=0)
    assert max(rows["day"]) == START - HORIZON
    assert min(rows["day"]) >= 40
    assert {(a - b) % 7 for a, b in zip(rows["day"], rows["day"][1:], strict=False)} == {0}
    assert max(map(len, rows["users"])) == 5
    first = rows.filter(lambda one: one["day"] == START - HORIZON)
    assert sorted(user for users in first["users"] for user in users) == list(range(USERS))


def test_days_without_a_future_are_read_without_targets(items, baskets, profile, tmp_path):
    rows = recommend.unlabelled_occasions(baskets, START, 5, seed=0)
    assert sorted(set(rows["day"])) == [START - 21, START - 14, START - 7, START]
    assert not any(rows["labelled"])
    collator = recommend.BasketCollator(baskets)
    assert not len(collator([rows[0]])["bought"])
    candidates = recommend.common_items(items, START)
    teacher = recommend.BasketTransformer(items, width=8)
    taught = recommend.teacher_scores(rows, teacher, collator, candidates, 6)
    run = recommend.RankingTrainer(
        recommend.DecayedMeans(items, width=8),
        args=trainer.arguments(replace(profile, batch_size=1, precision="fp32"), tmp_path, 1, 0.01),
        train_dataset=taught,
        eval_dataset=taught,
        collator=collator,
        candidates=candidates,
        start=START,
        alpha=2.0,
        hidden=0.0,
    )
    batch = collator([taught[0]])
    loss, outputs = run.compute_loss(run.model, batch, return_outputs=True)
    own, goal = outputs["logits"].gather(1, batch["teacher_columns"]), batch["teacher_scores"]
    expected = listwise_kl(own, goal, torch.ones_like(goal, dtype=torch.bool))
    assert torch.isclose(loss, 2 * expected)


def test_somebody_who_bought_years_ago_has_a_taste(items):
    """After 1,500 days nothing is left of the sums of the shortest scale."""
    model = recommend.DecayedMeans(items, width=8).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    seen, habit = networks._habits(1_600, np.array([100, 90]), np.array([0, 1]))
    batch = {"user": torch.zeros(2, dtype=torch.long), "mask": torch.ones(1, 1)}
    batch |= {"seen": torch.from_numpy(seen), "habit": torch.from_numpy(habit)}
    with torch.no_grad():
        taste = model.taste(batch, lambda rows: model.vectors(model.read, rows, START))
    assert torch.isfinite(taste).all() and taste.abs().sum() > 0


def trained(items, folder, profile, kind=recommend.DecayedMeans, rows=None, passes=2, **options):
    torch.manual_seed(0)
    rows = recommend.occasions(items.baskets, 40, START, 6, 0) if rows is None else rows
    model, candidates = kind(items, width=8), recommend.common_items(items, START)
    options = {"passes": passes, "learning_rate": 0.01, **options}
    log = recommend.fit(model, rows, candidates, START, profile, folder, **options)
    return model, rows, log


def test_rows_of_whom_nobody_buys_a_common_item_are_left_out(
    items, baskets, profile, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "BUYERS", USERS)  # common is what all have bought
    common = set(recommend.common_items(items, START).tolist())
    rows = recommend.occasions(baskets, 40, START, 1, 0)
    week = [recommend.targets(baskets, row["day"])[row["users"][0]] for row in rows]
    learnable = sum(not common.isdisjoint(own.tolist()) for own in week)
    assert 0 < learnable < len(rows)
    _, _, log = trained(items, tmp_path, profile, rows=rows, passes=1)
    assert log[-1]["step"] == learnable


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_keeps_the_best(kind, items, baskets, profile, tmp_path):
    model, _, log = trained(items, tmp_path, profile, kind)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    looks = [entry["eval_recall"] for entry in log if "eval_recall" in entry]
    rank = recommend.network(recommend.Shelf(model, recommend.BasketCollator(baskets), START))
    assert recommend.evaluate(rank, baskets, START)["recall"] == pytest.approx(max(looks))
    kept = load_file(tmp_path / "model.safetensors")
    assert kept.keys() == model.state_dict().keys()
    assert all(torch.equal(kept[name], part) for name, part in model.state_dict().items())


def test_a_student_comes_closer_to_its_teacher_with_more_weight_on_it(items, profile, tmp_path):
    collator = recommend.BasketCollator(items.baskets)
    teacher, rows, _ = trained(items, tmp_path / "t", profile, recommend.BasketTransformer)
    candidates = recommend.common_items(items, START)
    taught = recommend.teacher_scores(rows, teacher, collator, candidates, 6)
    best = np.array(taught[0]["teacher_scores"])
    assert best.shape == (len(taught[0]["users"]), 6)
    assert (np.diff(best, axis=1) <= 0).all()
    away = []
    for alpha in (0.0, 4.0):
        student, _, _ = trained(
            items, tmp_path / f"s{alpha}", profile, rows=taught, passes=6, alpha=alpha
        )
        batch = collator([taught[0]])
        own = scored(student, batch, candidates).gather(1, batch["teacher_columns"])
        goal = batch["teacher_scores"]
        away.append(listwise_kl(own, goal, torch.ones_like(goal, dtype=torch.bool)))
    assert away[1] < away[0] / 2
    with pytest.raises(
        ValueError, match=r"alpha > 0 needs the columns of recommend.teacher_scores"
    ):
        trained(items, tmp_path / "none", profile, rows=rows, alpha=1.0)


def test_a_network_is_trained_once_and_keyed_by_its_teacher(items, baskets, profile, monkeypatch):
    monkeypatch.setattr(training, "FIRST", 40)
    monkeypatch.setattr(training, "GROUP", 6)
    short = {"learning_rate": 0.01, "passes": 1}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    teacher = recommend.train(recommend.BasketTransformer, items, START, profile, **short)
    alone = recommend.train(recommend.DecayedMeans, items, START, profile, **short)
    lesson = {"teacher": teacher, "depth": 6, **short}
    taught = recommend.train(recommend.DecayedMeans, items, START, profile, **lesson)
    fewer = recommend.train(recommend.DecayedMeans, items, START, profile, **lesson, further=False)
    assert len({teacher, alone, taught, fewer}) == 4
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's draws have changed
    with monkeypatch.context() as nothing:
        nothing.setattr(training, "fit", None)
        assert recommend.train(recommend.DecayedMeans, items, START, profile, **lesson) == taught
        half = replace(profile, precision="bf16")  # not for networks that rank
        assert recommend.train(recommend.DecayedMeans, items, START, half, **lesson) == taught
    model = recommend.load(taught, recommend.DecayedMeans, items)
    assert not model.training
    batch = recommend.BasketCollator(baskets)(row())
    other = recommend.load(alone, recommend.DecayedMeans, items)
    assert not torch.allclose(scored(model, batch), scored(other, batch))
    cheaper = replace(baskets, events=baskets.events.assign(price=2.0))
    again = recommend.Items(cheaper, items.vectors.numpy(), 30, 4, profile)
    assert again.key != items.key


def test_one_text_for_all_items_tells_nothing(baskets, profile):
    same = replace(baskets, items=baskets.items.assign(text="thing"))
    vector = np.random.default_rng(1).standard_normal((1, 16))
    assert not recommend.Items(same, vector, 30, 4, profile).vectors.any()


def test_a_depth_that_no_ranker_shows_is_refused(baskets):
    with pytest.raises(ValueError, match="depth is 11, and the ranker shows 10 items"):
        recommend.evaluate(recommend.popular(baskets, START), baskets, START, depth=11)
