"""`ecomkd recommend`: somebody's own purchases in, a verdict and a recommender that serves out."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny_baskets
import tiny_models
import torch
from serving import service
from tiny_baskets import DAYS, ITEMS, USERS

from ecomkd import cli, outputs, recommend
from ecomkd.config import Profile
from ecomkd.data import purchases
from ecomkd.data.contract import DataError
from ecomkd.recommend import answers, run, training, tuning
from ecomkd.recommend.purchases import targets, users_before

LINE = "user_id,item_id,time\n"


def lines_of(shop) -> pd.DataFrame:
    events = shop.events
    return pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in events["user"]],
            "item_id": [f"i{item}" for item in events["item"]],
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(events["day"], "D"),
            "text": shop.items["text"].to_numpy()[events["item"]],
        }
    )


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    return lines_of(tiny_baskets.shop())


@pytest.fixture(scope="module")
def shop(lines, tmp_path_factory):
    path = tmp_path_factory.mktemp("till") / "purchases.csv"
    lines.to_csv(path, index=False)
    return purchases.load(path)


# The file -----------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_bought(shop):
    made = tiny_baskets.shop()
    baskets = shop.baskets
    assert shop.has_texts
    assert (len(baskets.users), len(baskets.items), baskets.days) == (USERS, ITEMS, made.days)
    names = baskets.items["item_id"].to_numpy()[baskets.events["item"]]
    found = sorted(zip(baskets.events["day"], names, strict=True))
    wanted = zip(made.events["day"], (f"i{item}" for item in made.events["item"]), strict=True)
    assert found == sorted(wanted)
    text = dict(zip(baskets.items["item_id"], baskets.items["text"], strict=True))
    assert text == {f"i{item}": own for item, own in enumerate(made.items["text"])}


def test_a_folder_may_have_the_texts_in_a_table_of_their_own(tmp_path, lines, shop):
    lines.drop(columns="text").to_parquet(tmp_path / "purchases.parquet")
    items = lines[["item_id", "text"]].drop_duplicates("item_id")
    items[items["item_id"] != "i3"].to_csv(tmp_path / "items.csv", index=False)
    found = purchases.load(tmp_path)
    assert found.has_texts
    text = found.baskets.items.set_index("item_id")["text"]
    assert text["i3"] == "i3", "an item without a text is read by its id"
    assert text["i4"] == shop.baskets.items.set_index("item_id")["text"]["i4"]
    assert found.baskets.events.equals(shop.baskets.events)


def test_times_baskets_and_numbers_in_their_forms(tmp_path):
    path = tmp_path / "purchases.csv"
    path.write_text(
        "user_id,item_id,time,basket_id,quantity,value\n"
        "7,a,1767225600,1,2,3.0\n"  # 2026-01-01
        "7,b,2026-01-01T10:00:00+02:00,2,1,5\n"
        "7,a,2026-01-02,3,0,1\n",
        encoding="utf-8",
    )
    found = purchases.load(path)
    assert not found.has_texts
    events = found.baskets.events
    assert events["day"].tolist() == [0, 0] and events["basket"].nunique() == 2
    assert events["price"].tolist() == [1.5, 5.0]
    assert found.baskets.left_out["no piece"] == 1


def test_a_number_used_again_is_another_basket_and_a_voucher_no_purchase(tmp_path):
    path = tmp_path / "purchases.csv"
    path.write_text(
        "user_id,item_id,time,basket_id,value\n"
        "a,x,2024-01-01,1,2\na,y,2024-06-01,1,3\na,voucher,2024-06-01,1,-5\n"
    )
    found = purchases.load(path).baskets
    assert found.events["day"].tolist() == [0, 152] and found.events["basket"].nunique() == 2
    assert found.left_out["value below 0"] == 1


def test_large_numbers_of_users_are_no_floating_point_numbers(tmp_path):
    frame = pd.DataFrame({"user_id": [1e17, 2e17], "item_id": ["x", "y"], "time": "2024-01-01"})
    frame.to_parquet(tmp_path / "purchases.parquet")
    with pytest.raises(DataError, match="so large that digits are lost; store ids as text"):
        purchases.load(tmp_path / "purchases.parquet")


def test_settings_are_chosen_on_users_who_can_be_asked(monkeypatch):
    baskets = tiny_baskets.shop()
    day = baskets.validation_start
    monkeypatch.setattr(tuning, "ASKED", 3)
    monkeypatch.setattr(tuning, "LEAST_ASKED", 5)
    can = np.intersect1d(users_before(baskets, day), list(targets(baskets, day)))
    assert len(can) > 5 and len(tuning.some_users(baskets)) == 3
    some = tuning.some_users(baskets, day)
    assert np.isin(some, can).sum() == 5 and some[-1] in can
    monkeypatch.setattr(tuning, "LEAST_ASKED", 10**6)
    assert len(tuning.some_users(baskets, day)) == len(baskets.users)


def test_a_basket_is_one_users_however_it_is_numbered(tmp_path):
    path = tmp_path / "purchases.csv"
    path.write_text(
        "user_id,item_id,time,basket_id\n"
        "a,x,2024-01-01,1\na,y,2024-02-01,2\nb,x,2024-05-01,1\nb,z,2024-06-01,2\n"
    )
    events = purchases.load(path).baskets.events.sort_values("day")
    assert events["day"].tolist() == [0, 31, 121, 152] and events["basket"].nunique() == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("user_id,item_id\n1,2\n", "column 'time' is missing"),
        (LINE + "1,2,yesterday\n", "line 2, column 'time': 'yesterday' is no time"),
        (LINE + "1,2,2026-01-01\n,2,2026-01-01\n", "line 3, column 'user_id': is empty"),
        ("user_id;item_id;time\n1;2;3\n", "separated by semicolons"),
        ("1,2,2026-01-01\n", "put the names before the rows, such as user_id, item_id, time"),
        (LINE[:-1] + ",quantity\n1,2,2026-01-01,many\n", "'many' is no number"),
        (LINE[:-1] + ",quantity\n1,2,2026-01-01,0\n", "no line is left"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_place_and_mend(text, sentence, tmp_path):
    path = tmp_path / "purchases.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as refused:
        purchases.load(path)
    assert sentence in str(refused.value), refused.value


def test_a_folder_without_purchases_is_told(tmp_path):
    with pytest.raises(DataError, match=r"no purchases\.parquet or purchases\.csv here"):
        purchases.load(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        purchases.load(tmp_path / "none.csv")


# The run ------------------------------------------------------------------------------------------


def shrink(patch, folder) -> Profile:
    start = tiny_models.save(tiny_models.bert(seed=1), folder / "start")
    own = tiny_models.profile(folder / "artifacts", teacher=str(start), frozen_layers=None)
    patch.setattr(Profile, "named", staticmethod(lambda name=None, **changes: own))
    for name, value in {"FIRST": 30, "GROUP": 12, "BUYERS": 2}.items():
        patch.setattr(training, name, value)
    patch.setattr(run, "FIRST", 30)
    patch.setattr(run, "NETWORK_DAYS", 100)
    grids = {
        name: (make, {key: values[1:3] for key, values in grid.items()})
        for name, (make, grid) in run.RANKERS.items()
    }
    patch.setattr(run, "RANKERS", grids)
    items = run.Items
    patch.setattr(
        run, "Items", lambda shop, vectors, first, width, profile: items(
            shop, vectors, first, 4, profile
        )
    )  # fmt: skip
    return own


def test_a_stray_early_date_is_named_before_anything_is_tuned(lines, tmp_path):
    """A single early order makes the span of a young shop long enough for networks."""
    late = lines[lines["time"] >= lines["time"].max() - pd.Timedelta(days=50)]
    early = late.head(1).assign(time=late["time"].max() - pd.Timedelta(days=250))
    pd.concat([early, late]).to_csv(tmp_path / "purchases.csv", index=False)
    own = purchases.load(tmp_path / "purchases.csv")
    assert own.baskets.days >= run.NETWORK_DAYS
    assert not run._networks_can_learn(own.baskets, True)
    (note,) = [one for one in run._cautions(own.baskets, True) if "stray early date" in one]
    assert "none was trained" in note


@pytest.fixture(scope="module")
def ran(tmp_path_factory, lines):
    """The folder of a run with networks, and what it said."""
    folder = tmp_path_factory.mktemp("ran")
    lines.to_csv(folder / "purchases.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, folder)
        command = ["recommend", str(folder / "purchases.csv"), "--seeds", "2", "--first-seed", "0"]
        assert cli.main([*command, "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_a_report_has_all_rows_and_its_verdict_follows_from_them(ran):
    found = json.loads((ran / "report.json").read_text(encoding="utf-8"))
    data = found["data"]
    assert list(data["rows"]) == [*run.RANKERS, run.ALONE, run.STUDENT, run.TEACHER]
    assert found["seeds"] == [0, 1]
    chosen = json.loads((ran / "recommender.json").read_text(encoding="utf-8"))["kind"]
    table = pd.DataFrame(data["comparisons"]).set_index(["measure", "system", "against"])
    best = run.POPULAR
    for name in (run.AGAIN, run.NEAR, run.STUDENT):
        if table.loc[("recall@10", name, best), "low"] > 0:
            best = name
    assert chosen == best != run.POPULAR, "people here buy again"
    assert run._CALLED[best] in data["verdict"]
    page = (ran / "report.html").read_text(encoding="utf-8")
    assert data["verdict"] in page and f"{USERS} users" in page
    outputs.check(ran, answers.KIND)


def test_the_validation_days_choose_how_much_newcomers_are_shrunk(ran):
    data = json.loads((ran / "report.json").read_text(encoding="utf-8"))["data"]
    own = data["settings"][run.STUDENT]
    assert set(own["tried"]) == {f"{prior:g}" for prior in recommend.PRIORS}
    chosen = own["recall"]["prior"]
    assert own["tried"][f"{chosen:g}"] == max(own["tried"].values())
    assert own["new_recall"]["prior"] == chosen
    (said,) = [note for note in data["notes"] if f"(prior {chosen:g})" in note]
    assert f"{chosen:g}: {own['tried'][f'{chosen:g}']:.4f}" in said
    assert said in (ran / "report.html").read_text(encoding="utf-8")


def rows_of(patch_rows: dict[str, float], users: int = 40) -> dict:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (2, users))
    return {
        name: {"recall": noise * (at + 1) + value, "new_recall": noise + value / 10, "p50_ms": 1.0}
        for at, (name, value) in enumerate(patch_rows.items())
    }


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ({run.POPULAR: 0.1, run.AGAIN: 0.1, run.NEAR: 0.1}, run.POPULAR),
        ({run.POPULAR: 0.1, run.AGAIN: 0.3, run.NEAR: 0.3}, run.AGAIN),
        ({run.POPULAR: 0.1, run.AGAIN: 0.3, run.NEAR: 0.4}, run.NEAR),
        ({run.POPULAR: 0.3, run.AGAIN: 0.1, run.NEAR: 0.4}, run.NEAR),
        (
            {run.POPULAR: 0.1, run.AGAIN: 0.3, run.NEAR: 0.4, run.ALONE: 0.4, run.STUDENT: 0.5,
             run.TEACHER: 0.5},
            run.STUDENT,
        ),
    ],
)  # fmt: skip
def test_the_simplest_ranking_that_none_beats_is_served(values, chosen):
    rows = rows_of(values)
    found, said = run.verdict(rows, run.comparisons(rows))
    assert found == chosen
    assert said.startswith(f"Serve {run._CALLED[chosen]}")


def test_few_users_give_no_verdict():
    rows = rows_of({run.POPULAR: 0.1, run.AGAIN: 0.3, run.NEAR: 0.4}, users=19)
    found, said = run.verdict(rows, run.comparisons(rows))
    assert found == run.POPULAR and said.startswith("No verdict: 19 users")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lines: lines[lines["time"] < "2026-02-20"], "the purchases span 50 days"),
        (
            lambda lines: lines.assign(user_id=lines["user_id"] + lines["time"].astype(str)),
            "give purchases of people who come back",
        ),
    ],
)
def test_purchases_that_can_teach_nothing_are_refused(change, sentence, lines, tmp_path, capsys):
    path = tmp_path / "purchases.csv"
    change(lines).to_csv(path, index=False)
    assert cli.main(["recommend", str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_the_program_did_not_write_is_not_replaced(tmp_path, lines, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me", encoding="utf-8")
    lines.to_csv(tmp_path / "purchases.csv", index=False)
    command = ["recommend", str(tmp_path / "purchases.csv"), "--out", str(tmp_path / "mine")]
    assert cli.main(command) == 1
    assert "notes.txt" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text(encoding="utf-8") == "keep me"


def test_where_most_items_have_few_buyers_the_networks_learn_of_all(shop, lines, tmp_path):
    assert run._least_buyers(shop.baskets) == 5
    path = tmp_path / "purchases.csv"
    # The same purchases, of items that are others for every twelfth user.
    group = lines["user_id"].str[1:].astype(int) % 12
    lines.assign(item_id=lines["item_id"] + "-" + group.astype(str)).to_csv(path, index=False)
    assert run._least_buyers(purchases.load(path).baskets) == 1


# The folder ---------------------------------------------------------------------------------------


def scores_of(kind: str, baskets, settings) -> recommend.Ranker:
    chosen = {name: value for name, value in settings.items() if name != "old"}
    make = {run.POPULAR: recommend.popular, run.AGAIN: recommend.buy_again,
            run.NEAR: recommend.user_knn}[kind]  # fmt: skip
    return make(baskets, baskets.days, **chosen)


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(shop, tmp_path, monkeypatch):
    def write(window):
        with outputs.replaced(tmp_path / "made", answers.KIND) as folder:
            answers.write(folder, run.POPULAR, shop.baskets, {"window": window, "old": True})
        return answers.load(tmp_path / "made")

    second, first = write(2), write(28)
    read, left = np.load, [1]

    def late(*given, **options):
        if left:
            left.clear()
            write(2)
        return read(*given, **options)

    monkeypatch.setattr(answers.np, "load", late)
    found = answers.load(tmp_path / "made")
    assert found.recommend("a stranger", 5) == second.recommend("a stranger", 5)
    assert found.version == second.version != first.version


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (run.POPULAR, {"window": 28, "old": True}),
        (run.AGAIN, {"scale": None, "window": 14, "old": True}),
        (run.AGAIN, {"scale": 28.0, "window": 28, "old": False}),
        (run.NEAR, {"neighbours": 5, "scale": 56.0, "window": 14, "share": 3.0, "old": True}),
    ],
)
def test_a_folder_answers_as_the_ranker_that_it_holds(kind, settings, shop, tmp_path):
    baskets = shop.baskets
    with outputs.replaced(tmp_path / "made", answers.KIND) as folder:
        answers.write(folder, kind, baskets, settings)
    found = answers.load(tmp_path / "made")
    rank = scores_of(kind, baskets, settings)
    ids = baskets.items["item_id"].to_numpy()
    for row in (0, 5):
        user = baskets.users["user_id"][row]
        for new in (None, False, True):
            known, hits = found.recommend(user, 10, new)
            wanted = rank(np.array([row]), not settings["old"] if new is None else new)[0]
            assert known and [hit.item_id for hit in hits] == ids[wanted].tolist()
    known, hits = found.recommend("a stranger", 10)
    popular = recommend.popular(baskets, baskets.days, settings["window"])
    assert not known
    assert [hit.item_id for hit in hits] == ids[popular(np.array([0]), False)[0]].tolist()
    with pytest.raises(ValueError, match="k is 0"):
        found.recommend("a stranger", 0)


@pytest.fixture
def student(shop, tmp_path):
    """A student of random weights, whose tastes say little."""
    profile = tiny_models.profile(tmp_path / "artifacts")
    vectors = np.random.default_rng(0).normal(size=(len(recommend.texts(shop.baskets)[0]), 8))
    items = recommend.Items(shop.baskets, vectors.astype(np.float32), 30, 4, profile)
    torch.manual_seed(0)
    model = recommend.DecayedMeans(items).eval()
    with torch.no_grad():
        for weight in model.mix.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def on(model, day: int) -> recommend.Shelf:
    return recommend.Shelf(model, recommend.BasketCollator(model.items.baskets), day)


@pytest.mark.parametrize("prior", [0.0, 200.0])
def test_a_student_answers_from_its_folder_as_from_its_shelf(student, prior, shop, tmp_path):
    baskets, shelf = shop.baskets, on(student, shop.baskets.days)
    live = recommend.initial_state(shelf, prior=prior)
    with outputs.replaced(tmp_path / "made", answers.KIND) as folder:
        answers.write(folder, run.STUDENT, baskets, {"old": True, "prior": prior}, live)
    found = answers.load(tmp_path / "made")
    users = np.array([0, 3, 7])
    bought = recommend.history(baskets, baskets.days).sum(axis=1).A1[users]
    share = (bought / (bought + prior))[:, None]
    wanted = share * shelf.scores(users) + (1 - share) * shelf.demand.numpy()
    for user, scores in zip(users, wanted, strict=True):
        _, hits = found.recommend(baskets.users["user_id"][user], 5)
        best = np.sort(scores)[::-1][:5]
        assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)


def test_a_folder_from_before_there_were_priors_answers_as_it_did(student, shop, tmp_path):
    baskets, shelf = shop.baskets, on(student, shop.baskets.days)
    tables = recommend.initial_state(shelf, prior=50.0).arrays()
    older = SimpleNamespace(arrays=lambda: {k: v for k, v in tables.items() if k != "prior"})
    with outputs.replaced(tmp_path / "made", answers.KIND) as folder:
        answers.write(folder, run.STUDENT, baskets, {"old": True}, older)
    _, hits = answers.load(tmp_path / "made").recommend(baskets.users["user_id"][3], 5)
    best = np.sort(shelf.scores(np.array([3]))[0])[::-1][:5]
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)


def test_a_student_is_measured_as_it_is_served(student, shop):
    shelf, users = on(student, shop.baskets.test_start), np.array([1, 4, 9])
    plain, shrunk = (run._as_served(shelf, prior=prior) for prior in (0.0, 1e9))
    for new in (False, True):
        assert np.array_equal(plain(users, new), recommend.network(shelf)(users, new))
    demand = np.argsort(-shelf.demand.numpy(), kind="stable")[:10]
    assert all(shown.tolist() == demand.tolist() for shown in shrunk(users, False))


def test_a_prior_is_chosen_by_the_first_two_visits_of_those_who_come_as_if_new(student):
    baskets = student.items.baskets
    shelf = on(student, baskets.validation_start)
    prior, tried = recommend.tuned_prior(shelf, 1)
    assert set(tried) == set(recommend.PRIORS) and tried[prior] == max(tried.values())
    assert len(set(tried.values())) > 1
    events = baskets.events
    visit = events[events["day"] >= shelf.day].groupby("user")["day"].rank("dense")
    early = events.loc[visit.index[visit <= 2]]
    known = pd.concat([events[events["day"] < shelf.day], early])
    student.items.baskets = replace(baskets, events=known)
    assert recommend.tuned_prior(shelf, 1) == (prior, tried)
    assert recommend.tuned_prior(shelf, USERS + 1) == (recommend.PRIOR, {})


def test_a_damaged_folder_is_told_in_one_sentence(shop, tmp_path):
    with pytest.raises(FileNotFoundError, match="write the folder with `ecomkd recommend` first"):
        answers.load(tmp_path)
    with outputs.replaced(tmp_path / "made", answers.KIND) as folder:
        answers.write(folder, run.POPULAR, shop.baskets, {"window": 28, "old": True})
    made = tmp_path / "made" / "users.json"
    made.write_text(made.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(ValueError, match=r"users\.json: .*write the folder again with"):
        answers.load(tmp_path / "made")


# The service --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(ran):
    with service(answers.load(ran)) as one:
        yield one


def test_recommend_gives_items_over_http(client, ran, shop):
    user = shop.baskets.users["user_id"][2]
    status, content, headers = client.ask(f"/recommend?user={user}&k=3")
    _, wanted = answers.load(ran).recommend(user, 3)
    assert status == 200 and content["known"] and content["user"] == user
    assert content["hits"] == [
        {"item_id": hit.item_id, "text": hit.text, "score": hit.score} for hit in wanted
    ]
    assert "format 1" in headers["x-ecomkd-index"]
    assert not client.ask("/recommend?user=nobody").content["known"]
    old = set(shop.baskets.events.loc[shop.baskets.events["user"] == 2, "item"])
    fresh = client.ask(f"/recommend?user={user}&new=true").content["hits"]
    ids = shop.baskets.items["item_id"]
    assert not {ids[item] for item in old} & {hit["item_id"] for hit in fresh}
    assert client.ask("/health").content["ready"]
    assert client.metrics()["ecomkd_requests_total", "/recommend", "200"] >= 3


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/recommend", 422, "user is missing; ask like this: GET /recommend?user=1234&k=10"),
        ("/recommend?user=", 422, "The user is empty: give an id."),
        ("/recommend?user=1&k=0", 422, "k is 0: give 1 to 100."),
        ("/recommend?user=1&new=perhaps", 422, "new: input should be a valid boolean"),
        ("/search?q=sofa", 404, "ask /recommend, /health, /live, /metrics"),
    ],
)
def test_a_bad_request_gets_one_sentence(client, path, status, sentence):
    found = client.ask(path)
    assert found.status == status
    assert sentence in found.content["error"]


def test_what_is_about_searches_is_refused(ran, tmp_path, capsys):
    for option in (["--depth", "5"], ["--depth", "0"], ["--shadow", "0.5"]):
        assert cli.main(["serve", str(ran), *option]) == 1
        assert f"{option[0]} is about searches" in capsys.readouterr().err
    from ecomkd.service import create_app

    with pytest.raises(ValueError, match="has no queries"):
        create_app(answers.load(ran), reference=["sofa"] * 200)


def test_the_last_days_of_the_shop_are_the_tests():
    baskets = tiny_baskets.shop()
    assert (baskets.test_start, baskets.days) == (DAYS - 28, DAYS)


def test_a_prior_is_chosen_where_few_of_many_users_still_come(student, monkeypatch):
    monkeypatch.setattr(recommend.tuning, "ASKED", 2)
    shelf = on(student, student.items.baskets.validation_start)
    assert set(recommend.tuned_prior(shelf, 5)[1]) == set(recommend.PRIORS)


def test_a_stray_late_date_is_hinted_at(tmp_path):
    days = pd.date_range("2025-01-01", periods=120).strftime("%Y-%m-%d")
    rows = [f"u{user},i{user},{day}" for day in days for user in range(3)]
    text = "\n".join(["user_id,item_id,time", *rows, "u1,i1,9999-12-31"])
    (tmp_path / "purchases.csv").write_text(text)
    found = purchases.load(tmp_path)
    with pytest.raises(DataError, match="a stray late date"):
        run._cautions(*found)
