"""The Open Bandit Dataset, as the package obp carries it."""

import pytest

from ecomkd.data import impressions


@pytest.mark.parametrize(("campaign", "items"), [("all", 80), ("men", 34), ("women", 46)])
def test_what_is_read_is_what_was_shown(campaign, items):
    uniform = impressions.load("uniform", campaign)
    assert list(uniform) == ["item", "position", "click", "probability"]
    assert len(uniform) == 10_000 and uniform["item"].nunique() == items
    assert uniform["probability"].to_numpy() == pytest.approx(1 / items, rel=1e-4)
    assert set(uniform["position"]) == {1, 2, 3} and set(uniform["click"]) == {0, 1}
    sampled = impressions.load("Thompson sampling", campaign)
    assert sampled["probability"].between(0, 1).all() and sampled["probability"].nunique() > 1_000
    assert (sampled["probability"] > 0).all(), "what was shown could be shown"


def test_another_log_is_refused_and_a_missing_package_is_named(monkeypatch):
    with pytest.raises(ValueError, match="choose one of uniform, Thompson sampling"):
        impressions.load("greedy", "all")
    monkeypatch.setattr(impressions, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps obp=="):
        impressions.load("uniform", "all")
