"""Reasons in words, in purchases and in signals: what they add up to, and what is refused."""

import sys

import lightgbm
import numpy as np
import pandas as pd
import pytest
import tiny_baskets
import tiny_models
import torch

from ecomkd import explain, recommend
from ecomkd.config import Profile
from ecomkd.explain import curves, purchases, signals, words

QUERY, PRODUCT = "red mug", "large red mug steel tea"


# Words --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tokenizer()


@pytest.fixture(scope="module")
def pair(tokenizer):
    return explain.read(QUERY, PRODUCT, tokenizer)


@pytest.fixture(scope="module")
def model():
    return tiny_models.bert().eval()


def test_words_are_those_of_the_product_and_the_query_stays(pair, tokenizer):
    assert pair.words == tuple(PRODUCT.split())
    assert tokenizer.decode(pair.masked).split("[SEP]")[0] == "[CLS] red mug "
    assert (pair.masked == tokenizer.mask_token_id).sum() == 5


def test_what_is_cut_off_is_left_out(tokenizer):
    assert explain.read(QUERY, PRODUCT, tokenizer, max_length=8).words == ("large", "red", "mug")


def test_tokens_are_those_that_the_models_are_trained_on(pair, tokenizer):
    assert pair.ids.tolist() == tokenizer(QUERY, PRODUCT)["input_ids"]


def test_scores_of_the_whole_pair_are_the_models(pair, model):
    with torch.no_grad():
        logits = model(input_ids=pair.ids[None], token_type_ids=pair.types[None]).logits[0]
    odds = logits[0] - logits[1:].logsumexp(0)
    assert explain.scores(model, pair, np.ones((1, 5)))[0] == pytest.approx(float(odds), abs=1e-5)


def test_integrated_gradients_add_up_and_are_captums(pair, model):
    from captum.attr import LayerIntegratedGradients

    ours = explain.integrated_gradients(model, pair, 20)
    ends = explain.scores(model, pair, np.array([[1] * 5, [0] * 5]))
    assert ours.sum() == pytest.approx(ends[0] - ends[1], abs=1e-4)
    layer = model.bert.embeddings.word_embeddings
    theirs = LayerIntegratedGradients(
        lambda ids: words.log_odds(
            model(input_ids=ids, token_type_ids=pair.types.expand_as(ids)).logits
        ),
        layer,
    ).attribute(pair.ids[None], pair.masked[None], n_steps=20, method="gausslegendre")
    assert np.allclose(ours, words.by_word(pair, theirs[0].sum(1).detach().numpy()), atol=1e-5)


def test_shapley_values_add_up_and_converge_to_all_orders(pair, model):
    ends = explain.scores(model, pair, np.array([[1] * 5, [0] * 5]))
    few, many = (explain.shapley(model, pair, orders) for orders in (2, 400))
    assert few.sum() == pytest.approx(ends[0] - ends[1], abs=1e-4)
    exact = explain.coalitions(
        lambda rows: explain.scores(model, pair, rows > 0.5), np.ones(5), np.zeros((1, 5))
    )
    spread = np.abs(exact).max()
    assert np.allclose(many, exact, atol=0.15 * spread)


def test_leave_one_out_is_a_difference_of_two_scores(pair, model):
    kept = np.ones((2, 5), bool)
    kept[1, 2] = False
    whole, without = explain.scores(model, pair, kept)
    assert explain.leave_one_out(model, pair)[2] == pytest.approx(whole - without, abs=1e-6)


def test_gradient_input_is_the_slope_at_the_end(pair, model):
    fine = explain.gradient_input(model, pair).sum()
    way, _ = words._gradients(model, pair, torch.ones(1))
    table = model.get_input_embeddings()(pair.ids).detach()
    ends = [
        words.log_odds(
            model(inputs_embeds=(table - step * way)[None], token_type_ids=pair.types[None]).logits
        ).item()
        for step in (0.0, 1e-2)
    ]
    assert fine == pytest.approx((ends[0] - ends[1]) / 1e-2, rel=0.05, abs=1e-3)


def test_attention_is_shared_out_and_the_model_is_left_as_it_was(pair, model):
    before = model.config._attn_implementation
    for method in (explain.attention, explain.rollout):
        shares = method(model, pair)
        assert shares.shape == (5,) and (shares > 0).all() and shares.sum() < 1
    assert model.config._attn_implementation == before


def test_words_in_common_know_no_case_and_no_comma(tokenizer):
    pair = explain.read("red mug", "Mug, blue RED", tokenizer)
    assert explain.in_common(pair).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("query", "product"), [(" ", "mug"), ("mug", "")])
def test_a_text_without_a_word_is_refused(tokenizer, query, product):
    with pytest.raises(ValueError, match=r"^read: the (query|product) has no word; give a text\.$"):
        explain.read(query, product, tokenizer)


def test_a_tokenizer_without_a_mask_is_refused(tokenizer):
    other = tiny_models.tokenizer()
    other.mask_token = None
    with pytest.raises(ValueError, match="no mask token; take one of an encoder"):
        explain.read(QUERY, PRODUCT, other)


def test_versions_of_another_width_are_refused(pair, model):
    with pytest.raises(ValueError, match=r"kept is \(1, 4\); give \(versions, 5\)"):
        explain.scores(model, pair, np.ones((1, 4)))


def test_no_step_and_an_odd_number_of_orders_are_refused(pair, model):
    with pytest.raises(ValueError, match="0 steps; give 1 or more"):
        explain.integrated_gradients(model, pair, 0)
    for orders in (0, 3):
        with pytest.raises(ValueError, match=f"{orders} orders; give an even number, 2 or more"):
            explain.shapley(model, pair, orders)


# Curves -------------------------------------------------------------------------------------------


def test_the_right_order_empties_a_sum_first():
    shares = np.array([4.0, 1, 3, 0, 2, 0, 0, 0, 0, 0])

    def score(kept):
        return kept @ shares

    right, wrong = (explain.area(explain.deletion(score, way * shares)) for way in (1, -1))
    assert right < wrong
    filled = explain.insertion(score, shares)
    assert filled[0] == 0 and filled[-1] == 10 == explain.deletion(score, shares)[0]
    assert explain.area(filled) > explain.area(explain.insertion(score, -shares))


def test_agreement_knows_order_and_beginning():
    assert explain.rank_correlation([1, 2, 3], [2, 4, 9]) == pytest.approx(1)
    assert explain.rank_correlation([1, 1, 1], [1, 2, 3]) == 0
    assert explain.overlap([5, 4, 3, 0, 0], [0, 4, 5, 3, 0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("shares", [[], [np.nan, 1.0], [[1.0]]])
def test_shares_that_are_no_numbers_are_refused(shares):
    with pytest.raises(ValueError, match="give one finite number a reason"):
        explain.steps_of(shares)


def test_reasons_that_do_not_fit_are_refused():
    for measure in (explain.rank_correlation, explain.overlap):
        with pytest.raises(ValueError, match="of the same two or more reasons"):
            measure([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="top=3 of 2 reasons; give 1 to 2"):
        explain.overlap([1, 2], [2, 1])


# Purchases ----------------------------------------------------------------------------------------

DAY = tiny_baskets.DAYS - 28


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
    profile = Profile.named("smoke", artifacts=tmp_path_factory.mktemp("artifacts"), device="cpu")
    baskets = tiny_baskets.shop()
    vectors = np.random.default_rng(1).standard_normal((len(recommend.texts(baskets)[0]), 16))
    items = recommend.Items(baskets, vectors, 30, 4, profile)
    collator, found = recommend.BasketCollator(baskets), {}
    for kind in (recommend.DecayedMeans, recommend.BasketTransformer):
        torch.manual_seed(0)
        model = kind(items, width=8)
        with torch.no_grad():  # away from the start, where all tastes are zero
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        found[kind.__name__] = recommend.Shelf(model.eval(), collator, DAY)
    return found


@pytest.fixture(scope="module")
def student(shelves):
    return explain.Household(shelves["DecayedMeans"], 3)


@pytest.fixture(scope="module")
def teacher(shelves):
    return explain.Household(shelves["BasketTransformer"], 3)


def test_what_is_shown_is_what_the_network_ranks(student, teacher):
    for household in (student, teacher):
        rank = recommend.network(household.shelf)
        assert household.shown().tolist() == rank(np.array([3]), True)[0].tolist()


def test_sums_are_what_reading_anew_gives(student):
    rng = np.random.default_rng(0)
    kept = rng.random((20, len(student.seen))) < 0.6
    kept[:, 0] = True
    assert torch.allclose(student.tastes(kept), student.read_anew(kept), atol=1e-5)


def test_leaving_one_out_is_a_shop_that_never_sold_it(shelves, student):
    """The purchases of one item are taken out of the table of events itself."""
    baskets = student.shelf.collator.baskets
    item, asked = int(student.seen[1]), student.new[:5]
    rows = (baskets.events["user"] == 3) & (baskets.events["item"] == item)
    collator = recommend.BasketCollator(
        type(baskets)(baskets.events[~rows], baskets.items, baskets.users, {})
    )
    shelf = shelves["DecayedMeans"]
    batch = collator([{"day": DAY, "users": np.array([3]), "labelled": False}])
    with torch.no_grad():
        taste = shelf.model.taste(batch, shelf.read.__getitem__)
        score = taste @ shelf.offers[asked].T + shelf.demand[asked]
    falls = student.scores(student.whole, asked)[0] - score[0].double().numpy()
    # These are scores of some 20 in single precision, and processors sum in orders of their own.
    assert np.allclose(student.leave_one_out(asked)[1], falls, atol=5e-5)


def test_what_is_left_of_long_ago_is_as_if_read_anew(shelves):
    """The latest purchases are gone, and what stays is a year and a half older."""
    home = explain.Household(shelves["DecayedMeans"], 3)
    latest = home.own["day"] == home.own["day"].max()
    home.own = home.own.assign(day=home.own["day"] - np.where(latest, 0, 600))
    latest = home.own.loc[latest, "item"].unique()
    kept = ~np.isin(home.seen, latest)[None]
    found, anew = home.tastes(kept), home.read_anew(kept)
    assert kept.any() and torch.isfinite(found).all()
    assert torch.allclose(found, anew, atol=1e-4)


def test_a_counterfactual_is_true_and_needs_all_that_it_names(student):
    shown = student.shown()
    found = [explain.counterfactual(student, int(item), most=20) for item in shown]
    assert any(found)
    for item, one in zip(shown, found, strict=True):
        if one is None:
            continue
        assert not explain.still_shown(student, int(item), one.gone)
        for given in one.gone:
            rest = [other for other in one.gone if other != given]
            if rest:
                assert explain.still_shown(student, int(item), rest)
        events = student.shelf.collator.baskets.events.loc[one.events]
        assert set(events["item"]) == set(one.gone.tolist())
        assert (events["user"] == 3).all() and (events["day"] < DAY).all()


def test_what_is_shown_whatever_was_bought_has_no_counterfactual(student, monkeypatch):
    """As many items are new as are shown."""
    few = np.sort(student.shown())[:10]
    monkeypatch.setattr(student, "new", few)
    assert explain.counterfactual(student, int(few[0])) is None


def test_a_sentence_adds_up_purchases_of_one_name(student):
    one = explain.Counterfactual(int(student.new[0]), student.seen[:2], np.array([], int))
    baskets = student.shelf.collator.baskets
    count = sum(len(labels) for labels in student.labels[:2])
    names = pd.Series("tea", baskets.items.index)
    told = explain.sentence(student, one, names)
    assert told == f"Had you not bought tea ({count}×), tea would not be shown."
    own = pd.Series([f"thing {item}" for item in baskets.items.index], baskets.items.index)
    assert " and thing " in explain.sentence(student, one, own)


def test_attention_to_purchases_is_shared_out(teacher):
    shares = explain.attention_to_purchases(teacher)
    assert shares.shape == teacher.seen.shape
    assert shares.sum() == pytest.approx(1, abs=1e-5) and (shares > 0).all()


def test_whoever_has_bought_nothing_has_no_reasons(shelves):
    with pytest.raises(ValueError, match=r"User 99 has bought 0 items before day .* another user"):
        explain.Household(shelves["DecayedMeans"], 99)


def test_versions_that_do_not_fit_a_household_are_refused(student):
    with pytest.raises(ValueError, match=r"kept is \(1, 2\); give \(versions, \d+\)"):
        student.tastes(np.ones((1, 2)))
    with pytest.raises(ValueError, match="a version keeps no purchase; leave one in each"):
        student.tastes(~student.whole)


def test_an_item_that_was_bought_is_a_habits(student):
    with pytest.raises(ValueError, match=r"has bought item \d+ before; ask for new items"):
        student.scores(student.whole, student.seen[:1])


def test_what_is_not_shown_has_no_counterfactual(student):
    hidden = np.setdiff1d(student.new, student.shown())[0]
    with pytest.raises(ValueError, match=r"is not shown to user 3; take one of `shown\(\)`"):
        explain.counterfactual(student, int(hidden))


def test_what_was_never_bought_is_no_reason(student):
    with pytest.raises(ValueError, match="user 3 never bought item"):
        explain.still_shown(student, int(student.shown()[0]), student.new[:1])


def test_an_item_without_a_name_makes_no_sentence(student):
    one = explain.Counterfactual(int(student.new[0]), student.seen[:1], np.array([], int))
    with pytest.raises(ValueError, match="an item has no name"):
        explain.sentence(student, one, pd.Series(["tea"]))


def test_sums_have_no_attention(student):
    with pytest.raises(ValueError, match="a DecayedMeans has no attention"):
        explain.attention_to_purchases(student)


# Signals ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trees():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 4))
    target = rows[:, 0] * (rows[:, 1] > 0) + 0.1 * rows[:, 2]
    made = lightgbm.train(
        {"objective": "regression", "num_leaves": 6, "verbosity": -1, "num_threads": 1},
        lightgbm.Dataset(rows, target),
        num_boost_round=20,
    )
    return made, rows


def test_values_of_trees_are_those_of_all_coalitions(trees):
    booster, rows = trees
    found = explain.tree_shap(booster, rows[:3], rows[50:90])
    brute = [explain.coalitions(booster.predict, row, rows[50:90]) for row in rows[:3]]
    assert np.allclose(found, brute, atol=1e-8)
    ends = booster.predict(rows[:3]) - booster.predict(rows[50:90]).mean()
    assert np.allclose(found.sum(axis=1), ends, atol=1e-8)


def test_signals_that_do_not_fit_are_refused(trees):
    booster, rows = trees
    with pytest.raises(ValueError, match="give the same number of columns to both"):
        explain.tree_shap(booster, rows, rows[:, :3])
    with pytest.raises(ValueError, match="give at most 12 signals"):
        explain.coalitions(booster.predict, np.zeros(13), np.zeros((2, 13)))
    with pytest.raises(ValueError, match=r"and \(rows, 4\)"):
        explain.coalitions(booster.predict, rows[0], rows[:, :3])


def test_a_missing_shap_is_named(monkeypatch, trees):
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ModuleNotFoundError, match=r"shap is missing.*ecomkd\[explain\]"):
        explain.tree_shap(*trees, trees[1])


def test_every_module_says_its_chapter():
    for module in (curves, purchases, signals, words):
        assert "Chapter 17" in module.__doc__


def test_purchases_are_moved_to_where_the_network_lies(teacher, monkeypatch):
    """On a card a network cannot read what lies beside the CPU."""
    moved, read = [], []
    network = teacher.shelf.model

    def move(batch, device):
        assert device == network.items.device
        moved.append(dict(batch))
        return moved[-1]

    def taste(batch, read_of):
        read.append(batch)
        return type(network).taste(network, batch, read_of)

    monkeypatch.setattr(purchases.networks, "moved", move)
    monkeypatch.setattr(network, "taste", taste)
    teacher.read_anew(teacher.whole)
    explain.attention_to_purchases(teacher)
    assert len(read) == 2
    assert all(one is other for one, other in zip(read, moved, strict=True))


def test_every_row_of_a_large_background_counts(trees):
    booster, rows = trees
    found = explain.tree_shap(booster, rows[:3], rows[50:])
    ends = booster.predict(rows[:3]) - booster.predict(rows[50:]).mean()
    assert np.allclose(found.sum(axis=1), ends, atol=1e-6)


@pytest.mark.parametrize("blank", [True, False])
def test_a_tokenizer_that_reads_blanks_cuts_as_in_training(blank):
    other = tiny_models.roberta_tokenizer()
    spec = other.backend_tokenizer
    spec.pre_tokenizer = type(spec.pre_tokenizer)(add_prefix_space=blank)  # False, as published
    pair = explain.read(QUERY, PRODUCT, other)
    assert pair.words == tuple(PRODUCT.split())
    assert pair.ids.tolist() == other(QUERY, PRODUCT)["input_ids"]
    assert np.diff(pair.word[pair.word >= 0]).min() >= 0


@pytest.mark.parametrize(("product", "room"), [("\u200b", 32), ("steel", 4)])
def test_a_product_of_which_no_token_is_left_is_refused(tokenizer, product, room):
    with pytest.raises(ValueError, match="no token of the product is left"):
        explain.read(QUERY, product, tokenizer, max_length=room)


def test_versions_are_truths_however_they_are_read(student):
    ones = np.ones((1, len(student.seen)), int)
    assert torch.equal(student.read_anew(ones), student.read_anew(student.whole))
    with pytest.raises(ValueError, match="one column an item of `seen`"):
        student.read_anew(np.ones((1, len(student.seen) + 1)))
    with pytest.raises(ValueError, match="a version keeps no purchase; leave one in each"):
        explain.still_shown(student, int(student.shown()[0]), student.seen)


@pytest.mark.parametrize("item", [-1, 10**6])
def test_what_is_not_new_is_not_asked_for(student, item):
    for odd in (item, int(student.seen[0])):
        with pytest.raises(ValueError, match="is not new to user 3; give one of `new`"):
            explain.still_shown(student, odd, student.seen[:1])


def test_scores_are_those_of_items_that_there_are(student):
    assert student.scores(student.whole, []).shape == (1, 0)
    for odd in (-1, len(student.shelf.columns)):
        with pytest.raises(ValueError, match="are not all items; give rows 0 to 59"):
            student.scores(student.whole, [odd])


def test_a_network_that_is_looked_into_goes_on_training(teacher):
    model = teacher.shelf.model
    model.train()
    try:
        explain.attention_to_purchases(teacher)
        assert model.training
    finally:
        model.eval()


def test_signs_are_no_words_in_common(tokenizer):
    pair = explain.read("mug - red", "lamp & Red stand", tokenizer)
    assert explain.in_common(pair).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("measure", [explain.rank_correlation, explain.overlap])
def test_reasons_that_are_no_numbers_do_not_agree(measure):
    with pytest.raises(ValueError, match="give one finite number a reason"):
        measure([np.nan, 1, 2], [1, 2, 3])
