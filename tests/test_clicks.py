"""Simulated clicks, propensities from swaps, and interleaving: closed forms and small worlds."""

import itertools

import numpy as np
import pytest

import click_judges
import click_students
from ecomkd.search import clicks


def rng(seed=0):
    return np.random.default_rng(seed)


def log(searches, depth, eta, seed=0, share=0.5):
    """Lists in an order that follows their gains, as a good ranker's do; some swapped, clicked."""
    draw = rng(seed)
    gains = -np.sort(-(draw.random((searches, depth)) ** 3), axis=1)
    swapped = clicks.swaps(searches, depth, draw, share)
    shown = clicks.swap(clicks.attraction(gains), swapped)
    return clicks.click(shown, draw, eta), swapped


def test_a_shopper_clicks_what_was_looked_at_and_attracts():
    seen = clicks.click(np.full((200_000, 3), 0.6), rng(), eta=2.0)
    wanted = 0.6 * np.array([1, 1 / 4, 1 / 9])
    error = np.sqrt(wanted * (1 - wanted) / len(seen))
    assert (np.abs(seen.mean(axis=0) - wanted) < 4 * error).all()
    assert clicks.examined(5, eta=0).tolist() == [1] * 5


def test_a_share_of_the_searches_is_swapped_with_every_other_rank_alike():
    swapped = clicks.swaps(100_000, 5, rng(), share=0.2)
    counts = np.bincount(swapped, minlength=5)
    assert counts[0] == pytest.approx(80_000, abs=500)
    assert counts[1:] == pytest.approx(5_000, abs=300)
    assert not clicks.swaps(9, 1, rng(), share=1.0).any()  # a list of one has no other rank


def test_swapping_twice_gives_the_list_back():
    lists, swapped = rng().integers(0, 99, (50, 6)), rng(1).integers(0, 6, 50)
    assert (clicks.swap(clicks.swap(lists, swapped), swapped) == lists).all()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_propensities_are_recovered_within_three_standard_errors(eta):
    """The error is that of the estimate itself, from logs of other seeds."""
    found = np.array([clicks.propensities(*log(40_000, 5, eta, seed)) for seed in range(12)])
    error = np.maximum(found.std(axis=0, ddof=1), 1e-3)
    gap = np.abs(found - clicks.examined(5, eta))
    assert (gap < 3 * error + 0.01).all()


def test_click_rates_alone_take_the_better_first_products_for_more_looks():
    """What swaps are for: without them the quotient is too low where better products come first."""
    seen, swapped = log(200_000, 5, 1.0, share=0.5)
    plain = seen[swapped == 0].mean(axis=0)
    assert plain[4] / plain[0] < 0.7 * clicks.propensities(seen, swapped)[4]


def test_a_rank_that_was_never_swapped_is_refused():
    with pytest.raises(ValueError, match="no search has column 2 in `swapped`: log more"):
        clicks.propensities(np.zeros((3, 3)), np.array([0, 1, 1]))


def test_propensities_never_rise_and_never_vanish():
    found = clicks.propensities(np.zeros((40, 4)), np.tile(np.arange(4), 10))
    assert (np.diff(found) <= 0).all() and (found > 0).all() and found.max() <= 1


def test_falling_values_are_the_nearest_by_least_squares():
    values = np.array([1.0, 0.2, 0.6, 0.5, 0.1])
    grid = np.linspace(0, 1, 21)
    every = itertools.combinations_with_replacement(grid[::-1], len(values))
    best = min(every, key=lambda one: ((values - one) ** 2).sum())
    assert clicks.falling(values) == pytest.approx(best, abs=0.05)
    assert (np.diff(clicks.falling(rng().random(50))) <= 1e-12).all()


def test_weighed_clicks_have_the_risk_of_the_labels_in_the_mean():
    """All eight outcomes of a list of three, each with its probability."""
    gains, losses = np.array([0.0, 1.0, 0.1]), np.array([0.3, 1.2, 2.0])
    looks, chance = clicks.examined(3), clicks.attraction(gains)
    weighed = plain = 0.0
    for outcome in itertools.product([0, 1], repeat=3):
        seen = np.array(outcome)
        own = np.where(seen, looks * chance, 1 - looks * chance).prod()
        weighed += own * (seen / looks * losses).sum()
        plain += own * (seen * losses).sum()
    assert weighed == pytest.approx((chance * losses).sum())
    assert plain == pytest.approx((looks * chance * losses).sum()) != pytest.approx(weighed)


def test_the_log_counts_clicks_where_their_products_stand_without_a_swap():
    seen = np.array([[1, 0, 1], [0, 1, 0]])
    found = click_students.Log(np.array([1, 1]), np.array([2, 0]), seen)
    inverse = np.array([1.0, 2.0, 3.0])
    # The first search showed the third product first, and the first one third.
    assert found.worth(inverse, 2).tolist() == [[0, 0, 0], [3, 2, 1]]
    assert found.unchanged().worth(inverse, 2).tolist() == [[0, 0, 0], [0, 2, 0]]


def test_a_draft_takes_each_product_once_and_gives_both_as_many_picks():
    draw = rng()
    for depth in (1, 4, 7, 10, 12):
        a, b = draw.permutation(12), draw.permutation(12)
        shown, teams = clicks.team_draft(a, b, draw, depth)
        assert len(set(shown.tolist())) == len(shown) == len(teams) == depth
        assert abs((teams == 0).sum() - (teams == 1).sum()) <= depth % 2
        for team, order in enumerate((a, b)):
            own = [np.flatnonzero(order == one)[0] for one in shown[teams == team]]
            assert own == sorted(own)


def test_drafts_of_equal_rankers_show_their_list_and_favour_nobody():
    draw, order = rng(), np.arange(10)
    drafts = [clicks.team_draft(order, order, draw) for _ in range(4_000)]
    assert all(shown.tolist() == order.tolist() for shown, _ in drafts)
    teams = np.array([teams for _, teams in drafts])
    assert np.abs(teams.mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(len(teams))
    seen = clicks.click(np.tile(clicks.attraction(np.linspace(1, 0, 10)), (4_000, 1)), draw)
    credit = clicks.credit(seen, teams)
    assert abs(credit.mean()) < 4 * credit.std() / np.sqrt(len(credit))


def test_a_draft_favours_the_ranker_with_the_good_product_first():
    draw, gains = rng(), np.eye(5)[3]
    good, poor = np.array([3, 0, 1, 2, 4]), np.arange(5)
    wins = []
    for _ in range(2_000):
        shown, teams = clicks.team_draft(good, poor, draw)
        wins.append(clicks.credit(clicks.click(clicks.attraction(gains)[shown], draw), teams))
    assert np.mean(wins) > 0.2


def test_the_number_of_searches_gives_the_power_that_it_promises():
    difference, deviation = 0.2, 1.0
    size = clicks.searches_needed(difference, deviation)
    found = rng().normal(difference, deviation, size=(4_000, size)).mean(axis=1)
    named = (found * np.sqrt(size) / deviation > 1.96).mean()
    assert named == pytest.approx(0.8, abs=0.03)
    assert clicks.searches_needed(0.0, 1.0) == np.inf
    assert clicks.searches_needed(difference, deviation, power=0.9) > size


# The judges of the benchmark


def test_what_a_search_says_in_a_b_is_what_clicks_say():
    draw, attraction = rng(), np.array([[0.9, 0.1, 0.5, 0.0]])
    order = np.array([[2, 0, 1, 3]])
    told = click_judges.said(attraction, order)
    seen = clicks.click(np.tile(attraction[0][order[0]], (400_000, 1)), draw)
    first = np.where(seen.any(axis=1), 1 / (1 + seen.argmax(axis=1)), 0)
    wanted = {"clicks": seen.sum(axis=1), "any click": seen.any(axis=1), "first click": first}
    for name, (values, chances) in told.items():
        assert chances.sum() == pytest.approx(1)
        assert chances[0] @ values == pytest.approx(wanted[name].mean(), abs=0.004)
        assert chances[0] @ values**2 == pytest.approx((wanted[name] ** 2).mean(), abs=0.006)


def test_the_needed_searches_of_an_a_b_test_are_those_of_a_drawn_one(monkeypatch):
    monkeypatch.setattr(click_judges, "TRIALS", 4_000)
    attraction = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.9]])
    a, b = np.array([[0, 1, 2], [1, 2, 0]]), np.array([[1, 0, 2], [1, 2, 0]])
    values, ours = click_judges.said(attraction, a)["first click"]
    theirs = click_judges.said(attraction, b)["first click"][1]
    both = np.column_stack([click_judges.moments(values, own) for own in (ours, theirs)])
    searches = click_judges.by_halves(both.mean(axis=0)[None])[0]
    arms = [ours.mean(axis=0), theirs.mean(axis=0)]
    named = click_judges.right(values, arms, searches, rng())
    assert named == pytest.approx(0.8, abs=0.03)
    # Half of the shoppers click nothing: half the difference, and more noise.
    lazy = [0.5 * own + 0.5 * (values == 0) for own in arms]
    longer = click_judges.by_halves(both.mean(axis=0)[None], idle=0.5)[0]
    assert longer > 2 * searches
    assert click_judges.right(values, lazy, longer, rng()) == pytest.approx(0.8, abs=0.03)
    assert click_judges.by_strata(both.mean(axis=0)[None])[0] < searches


def test_equal_rankers_cause_false_alarms_at_one_look_as_promised_and_more_at_many():
    attraction = np.tile(clicks.attraction(np.linspace(1, 0, 6)), (5, 1))
    order = np.tile(np.arange(6), (5, 1))
    for found in click_judges.same(attraction, order, rng()).values():
        assert found["one look"] == pytest.approx(0.05, abs=0.02)
        assert found["every look"] > 0.25
        assert found["every look, divided"] < 0.05


def test_what_both_rank_alike_counts_for_nobody():
    attraction = np.array([[0.9, 0.9, 0.1, 0.1]])
    a, b = np.array([[0, 1, 2, 3]]), np.array([[0, 1, 3, 2]])
    found = click_judges.drafted(attraction, a, b, rng())
    plain, apart = (found[name][0] for name in click_judges.INTERLEAVED)
    assert apart[1] > plain[1] and apart.sum() == pytest.approx(1)
    same = click_judges.drafted(attraction, a, a, rng())
    assert same[click_judges.INTERLEAVED[1]][0].tolist() == [0, 1, 0]
