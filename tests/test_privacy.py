"""Households in a model: who can be told, what noise hides, and what bad input gets."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from ecomkd import privacy
from ecomkd.data.baskets import Baskets
from ecomkd.privacy import attack, private, tastes


@pytest.fixture(scope="module")
def baskets() -> Baskets:
    rng = np.random.default_rng(0)
    days = np.sort(rng.integers(0, 100, 90))
    days[-1] = 99
    events = pd.DataFrame(
        {"user": rng.integers(0, 12, 90), "item": rng.integers(0, 9, 90), "day": days}
    )
    items = pd.DataFrame(
        {
            "type": list("cabfedcab"),
            "category": ["first"] * 9,
            "department": ["grocery"] * 9,
        }
    )
    return Baskets(events, items, pd.DataFrame({"user_id": range(12)}), {})


@pytest.fixture
def seen() -> tastes.Records:
    torch.manual_seed(0)
    decayed = torch.rand(40, 2, 6) * (torch.rand(40, 2, 6) < 0.5)
    new = torch.rand(40, 2, 6) * (decayed == 0)
    share = new / new.sum(-1, keepdim=True).clamp(min=1e-6)
    return tastes.Records(decayed.half(), share.half())


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 3))


# Who can be told ----------------------------------------------------------------------------------


def test_a_purchase_that_nobody_else_made_singles_out():
    bought = sp.csr_matrix([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 0]])
    assert attack.unicity(bought, 2)[:, 0].tolist() == [False, True, False]
    assert not attack.unicity(bought[:, :1], 1).any()


def test_more_known_purchases_single_out_as_many_or_more():
    bought = np.random.default_rng(0).random((60, 40)) < 0.4
    shares = [attack.unicity(bought, known, draws=5).mean() for known in (1, 3, 6)]
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize("known", [0, 3])
def test_nobody_with_so_many_purchases_is_said(known):
    with pytest.raises(ValueError, match=f"^unicity: no user with {known} purchases to know of;"):
        attack.unicity(np.eye(3), known)


def halves(models: int, people: int) -> np.ndarray:
    return np.random.default_rng(1).random((models, people)).argsort(axis=0) < models // 2


def test_the_ratio_finds_members_where_a_threshold_cannot():
    members = halves(8, 500)
    rng = np.random.default_rng(0)
    hard = 5 * rng.normal(size=500)  # how hard a household is to foresee
    stat = hard + rng.normal(size=(8, 500)) + 2 * members
    assert attack.auc(stat, members) < 0.65
    assert attack.auc(attack.likelihood_ratio(stat, members), members) > 0.85


def test_without_a_trace_the_ratio_guesses():
    members = halves(8, 4_000)
    stat = np.random.default_rng(2).normal(size=members.shape)
    score = attack.likelihood_ratio(stat, members)
    assert abs(attack.auc(score, members) - 0.5) < 0.02
    assert attack.caught(score, members) == pytest.approx(0.01, abs=0.005)


def test_the_attacked_model_is_none_of_its_own_shadows():
    members = halves(8, 50)
    stat = np.random.default_rng(2).normal(size=members.shape)
    moved = stat.copy()
    moved[3] += 100
    # Far off, the nearer of the two means wins, and model 3 has moved neither.
    order = [4, 5, 6, 7, 0, 1, 2]
    sides = [
        [stat[order, n][kept[order, n]][:3].mean() for n in range(50)]
        for kept in (members, ~members)
    ]
    score, far = np.subtract(*sides), attack.likelihood_ratio(moved, members)[3]
    assert np.corrcoef(score, far)[0, 1] > 0.9


def test_too_few_shadows_and_other_shapes_are_refused():
    members = halves(4, 10)
    with pytest.raises(ValueError, match=r"in, or out of, 2 models; three of each are needed"):
        attack.likelihood_ratio(np.zeros((4, 10)), members)
    with pytest.raises(ValueError, match=r"statistics \(4, 9\) and members \(4, 10\)"):
        attack.likelihood_ratio(np.zeros((4, 9)), members)


def test_auc_counts_ties_as_half():
    who = np.array([True, True, True, False, False])
    assert attack.auc(np.array([2.0, 1, 3, 0, 1]), who) == pytest.approx(5.5 / 6)
    assert attack.auc(np.zeros(5), who) == 0.5
    assert attack.caught(np.zeros(5), who) == 0


@pytest.mark.parametrize("measure", [attack.auc, attack.caught])
def test_members_alone_cannot_be_judged(measure):
    with pytest.raises(ValueError, match="3 members of 3; give a score for each"):
        measure(np.zeros(3), np.ones(3, bool))


def test_a_table_of_pairs_bears_the_trace_of_those_in_it():
    rng = np.random.default_rng(0)
    own = (rng.random((300, 60)) < 0.2).astype(float)
    inside = np.arange(300) < 150
    table, rate = own[inside].T @ own[inside], own.T @ own / 300
    both = attack.traces(table, own, rate, 150)
    single = attack.traces(np.diag(table).copy(), own, np.diag(rate).copy(), 150)
    assert 0.55 < attack.auc(single, inside) < attack.auc(both, inside)
    with pytest.raises(ValueError, match="do not fit; give counts and rates"):
        attack.traces(table, own, rate[:5], 150)


# What is learnt -----------------------------------------------------------------------------------


def test_records_hold_what_is_new_after_the_day(baskets):
    names, codes = privacy.types_of(baskets)
    assert names == [f"{letter} . first . grocery" for letter in "abcdef"]
    (day,) = days = [72]
    found = privacy.records(baskets, codes, days)
    events = baskets.events
    for user in range(12):
        own = events[events["user"] == user]
        before = set(codes[own.loc[own["day"] < day, "item"]])
        after = set(codes[own.loc[(own["day"] >= day) & (own["day"] < day + 28), "item"]])
        assert set(np.flatnonzero(found.decayed[user, 0])) == before
        assert set(np.flatnonzero(found.bought[user, 0])) == after - before
        whole = float(len(after - before) > 0)
        assert float(found.bought[user].sum()) == pytest.approx(whole, abs=1e-2)


@pytest.mark.parametrize("day", [0, 73])
def test_a_day_without_past_or_future_is_refused(baskets, day):
    codes = privacy.types_of(baskets)[1]
    with pytest.raises(ValueError, match=f"^records: day {day} has no past, or no 28 days after"):
        privacy.records(baskets, codes, [day])


def test_items_without_a_type_are_refused(baskets):
    bare = Baskets(baskets.events, baskets.items.drop(columns="type"), baskets.users, {})
    with pytest.raises(ValueError, match="the items have no column 'type'"):
        privacy.types_of(bare)


def test_students_and_teachers_learn(seen, vectors):
    for model in (tastes.Student(vectors, np.zeros(6)), tastes.Teacher(np.zeros(6), hidden=8)):
        before = tastes.losses_of(model, seen, np.arange(40)).mean()
        tastes.fit(model, seen, np.arange(40), 60, 0.03)
        assert not model.training
        assert tastes.losses_of(model, seen, np.arange(40)).mean() < before


def test_a_student_of_its_teacher_alone_never_reads_a_purchase(seen, vectors):
    teacher = tastes.Teacher(np.zeros(6), hidden=8)
    nn.init.normal_(teacher.out.weight)
    blind = tastes.Records(seen.decayed, torch.full_like(seen.bought, torch.nan))
    student = tastes.Student(vectors, np.zeros(6))
    rows = np.arange(40)

    def apart() -> float:
        gap = tastes.scores_of(student, seen, rows) - tastes.scores_of(teacher.eval(), seen, rows)
        return float(np.square(gap[seen.decayed.numpy() == 0]).mean())

    before = apart()
    tastes.fit(student, blind, rows, 60, 0.03, teacher=teacher.eval(), labelled=False)
    assert apart() < before


def test_nothing_to_learn_from_is_said(seen, vectors):
    student = tastes.Student(vectors, np.zeros(6))
    for rows, labelled in ((np.arange(40), False), (np.arange(0), True)):
        with pytest.raises(ValueError, match="neither purchases nor a teacher to learn from"):
            tastes.fit(student, seen, rows, 1, 0.1, labelled=labelled)


def test_hits_count_new_types_alone():
    decayed = torch.zeros(2, 1, 20)
    decayed[0, 0, :3] = 1
    bought = torch.zeros(2, 1, 20)
    bought[0, 0, 5:7] = 0.5
    scores = np.tile(-np.arange(20.0), (2, 1))  # the first types are the best
    seen = tastes.Records(decayed, bought)
    found = tastes.hits(scores, seen, np.arange(2))
    assert found[0] == 1 and np.isnan(found[1])
    bought[0, 0, 19] = 0.5
    assert tastes.hits(scores, seen, np.arange(1))[0] == pytest.approx(2 / 3)
    # Of equal scores the first ten count, among the types that it never had.
    assert tastes.hits(np.zeros((2, 20)), seen, np.arange(1))[0] == pytest.approx(2 / 3)
    few = tastes.Records(decayed[..., 3:7], bought[..., 3:7])  # of four types all are shown
    assert tastes.hits(scores[:, 3:7], few, np.arange(1))[0] == 1


def test_ease_is_its_closed_form():
    rng = np.random.default_rng(0)
    had = (rng.random((50, 5)) < 0.5).astype(float)
    weights = tastes.ease(had.T @ had, 2.0)
    assert not np.diag(weights).any()
    # Each column is the ridge regression of a type on the others.
    for own in range(5):
        others = np.delete(np.arange(5), own)
        gram = had[:, others].T @ had[:, others] + 2 * np.eye(4)
        assert np.allclose(
            weights[others, own], np.linalg.solve(gram, had[:, others].T @ had[:, own])
        )
    with pytest.raises(ValueError, match=r"^ease: a penalty of 0 leaves the table singular"):
        tastes.ease(had.T @ had, 0)


# What noise hides ---------------------------------------------------------------------------------


def test_noise_keeps_within_its_budget_and_hardly_below():
    for epsilon in (0.5, 3.0):
        noise = private.noise_for(epsilon, 0.1, 50)
        assert (
            private.spent([(noise, 0.1, 50)]) <= epsilon < private.spent([(noise / 1.05, 0.1, 50)])
        )


def test_a_budget_that_is_gone_is_said():
    for epsilon, before in ((0.0, []), (1.0, [(1.0, 1.0, 1)])):
        with pytest.raises(ValueError, match=f"^noise_for: no noise .* keeps ε = {epsilon}"):
            private.noise_for(epsilon, before=before)
    with pytest.raises(ValueError, match=r"keeps ε = 0\.05"):  # the accountant tells no less apart
        private.noise_for(0.05)


def test_nobody_adds_more_than_the_clip():
    vectors = np.array([[30.0, 40.0], [0.3, 0.4], [0.0, 0.0]])
    assert np.allclose(private.noisy_sum(vectors, 1.0, 0.0, 0), [0.9, 1.2])
    drawn = [private.noisy_sum(np.zeros((1, 2000)), 3.0, 2.0, seed).std() for seed in range(5)]
    assert np.mean(drawn) == pytest.approx(6, rel=0.03)
    for clip, noise in ((0.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="give above 0, and 0 or more"):
            private.noisy_sum(vectors, clip, noise, 0)


def test_private_steps_are_clipped_sums_of_single_households(seen, vectors):
    """One step of all households without noise is SGD on the clipped gradients, by hand."""
    model = tastes.Student(vectors, np.arange(6.0))
    weights, rest = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(weights, decayed, bought):
        logits = functional_call(model, (weights, rest), (decayed[None],))
        return tastes.household_loss(logits, bought[None])[0]

    seen.bought[5] *= 1_000  # uncut, this household would decide alone
    part = seen.of(np.arange(40))
    each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, part.decayed, part.bought)
    length = torch.sqrt(sum(one.flatten(1).square().sum(1) for one in each.values()))
    assert (length > 0.05).any() and length.isfinite().all()
    short = (0.05 / length).clamp(max=1)
    mean = {n: torch.einsum("b,b...->...", short, g) / 40 for n, g in each.items()}
    whole = {n: g.mean(dim=0) for n, g in each.items()}
    assert any((mean[n].sign() != whole[n].sign()).any() for n in mean)
    before = {n: w.detach().clone() for n, w in weights.items()}
    private.fit_privately(model, seen, np.arange(40), 0.0, 1, 0.01, rate=1.0, clip=0.05, picks=2)
    for name, weight in model.named_parameters():
        # Adam's first step is the rate times the sign of the gradient.
        clear = mean[name].abs() > 1e-5
        step = weight.detach() - before[name]
        assert torch.equal(step[clear].sign(), -mean[name][clear].sign())


def test_noise_comes_from_the_seed_and_hides(seen, vectors):
    def weights(noise: float, seed: int) -> torch.Tensor:
        model = tastes.Student(vectors, np.zeros(6))
        private.fit_privately(model, seen, np.arange(40), noise, 3, 0.01, rate=0.5, seed=seed)
        return model.taste.weight.detach()

    assert torch.equal(weights(5.0, 1), weights(5.0, 1))
    assert not torch.equal(weights(5.0, 1), weights(5.0, 2))


def test_a_layer_that_mixes_households_is_refused(seen):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(2), nn.Linear(6, 6)

        def forward(self, decayed):
            return self.out(self.norm(decayed))

    with pytest.raises(ValueError, match=r"^fit_privately: BatchNorm.*each household by itself"):
        private.fit_privately(Mixed(), seen, np.arange(40), 1.0, 1, 0.01)


def test_too_few_households_for_a_batch_are_said(seen, vectors):
    student = tastes.Student(vectors, np.zeros(6))
    with pytest.raises(ValueError, match=r"^fit_privately: 5 households at a rate of 0\.1 make no"):
        private.fit_privately(student, seen, np.arange(5), 1.0, 1, 0.01)


def test_votes_are_summed_and_hidden_by_what_one_household_changes():
    votes = np.zeros((4, 3, 8))
    votes[:, :, :2] = 1
    assert np.array_equal(private.noisy_votes(votes, 0.0, 0), votes.sum(axis=0))
    votes = np.zeros((4, 3, 4000))
    votes[:, :, :2] = 1
    apart = private.noisy_votes(votes, 1.0, 0) - votes.sum(axis=0)
    assert apart.std() == pytest.approx(np.sqrt(2 * 2 * 3), rel=0.03)
    votes[0, 0, 5] = 1
    with pytest.raises(ValueError, match="teachers cast different numbers of votes"):
        private.noisy_votes(votes, 1.0, 0)


def test_a_rate_of_alarms_is_a_share():
    scores, members = [1.0, 2.0, 3.0], np.array([True, False, False])
    assert privacy.caught(scores, members, 0.5) == 0
    with pytest.raises(ValueError, match="give 0 to below 1"):
        privacy.caught(scores, members, 1.0)


def test_a_statistic_that_is_missing_is_no_household_that_is_safe():
    members = halves(8, 50)
    stat = np.random.default_rng(2).normal(size=members.shape)
    stat[3, 7] = np.nan
    with pytest.raises(ValueError, match="household 7 under model 3 is nan; leave the household"):
        attack.likelihood_ratio(stat, members)
    for measure in (attack.auc, attack.caught):
        with pytest.raises(ValueError, match="1 of 400 scores are NaN"):
            measure(stat, members)


def test_an_item_that_stands_twice_is_one_purchase():
    twice = sp.csr_matrix((np.ones(4), [0, 0, 1, 0], [0, 2, 3, 4]), (3, 2))
    with pytest.raises(ValueError, match="no user with 2 purchases"):
        attack.unicity(twice, 2)
    assert attack.unicity(twice, 1)[:, 0].tolist() == [False, True, False]
