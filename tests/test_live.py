"""A state kept by event: the same answers as the batch model, at once, and after a kill."""

import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recommend_networks import DAYS, ITEMS, LATE, START, USERS, lines, shop

from ecomkd import recommend
from ecomkd.config import Profile
from ecomkd.recommend import journal, live, replay

EVERYONE = np.arange(USERS)
HALF_A_YEAR = 182


@pytest.fixture(scope="module")
def baskets():
    return shop(lines())


@pytest.fixture(scope="module")
def vectors(baskets):
    return np.random.default_rng(1).standard_normal((len(recommend.texts(baskets)[0]), 16))


@pytest.fixture(scope="module")
def model(baskets, vectors, tmp_path_factory):
    profile = Profile.named("smoke", artifacts=tmp_path_factory.mktemp("artifacts"), device="cpu")
    items = recommend.Items(baskets, vectors, 30, 4, profile)
    torch.manual_seed(0)
    made = recommend.DecayedMeans(items, width=8)
    with torch.no_grad():  # away from the start, where all tastes are zero
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        made.scale.running_mean.uniform_(0.5, 1.5)
        made.scale.running_var.uniform_(0.5, 2.0)
    return made.eval()


unshrunk = partial(live.initial_state, prior=0.0)


@pytest.fixture(scope="module")
def shelf(model, baskets):
    return recommend.Shelf(model, recommend.BasketCollator(baskets), START)


@pytest.fixture
def state(shelf):
    return unshrunk(shelf)


def events(baskets, start, end):
    return baskets.between(start, end)[["user", "item", "day"]].to_numpy().tolist()


def answers(state, day, users=EVERYONE):
    return np.stack([state.scores(int(user), day).copy() for user in users])


def same(one, other):
    one, other = one.arrays(), other.arrays()
    return one.keys() == other.keys() and all(
        np.array_equal(part, other[name]) for name, part in one.items()
    )


def test_a_state_scores_as_the_shelf_does(state, shelf):
    assert np.allclose(answers(state, START), shelf.scores(EVERYONE), atol=1e-4)


def test_events_one_by_one_give_what_all_at_once_gives(shelf, baskets, state):
    other = unshrunk(shelf, end=0)
    assert other.events == 0
    for event in events(baskets, 0, START):
        other.update(*event)
    assert other.events == state.events == len(baskets.between(0, START))
    assert np.allclose(answers(other, START), shelf.scores(EVERYONE), atol=1e-4)
    one, two = other.arrays(), state.arrays()
    for name in ("last", "visits", "recent", "times", "ends"):
        assert np.array_equal(one[name], two[name]), name
    assert np.allclose(one["sums"], two["sums"], rtol=1e-5, atol=1e-5)


def test_decay_is_exact_whatever_the_days_between(shelf, model, baskets):
    """The last purchase of a user is asked about after no day and after a long time."""
    state, collator = unshrunk(shelf, end=0), recommend.BasketCollator(baskets)
    for event in events(baskets, 0, DAYS):
        state.update(*event)
    for day in (DAYS, DAYS + 1, DAYS + HALF_A_YEAR):
        later = recommend.Shelf(model, collator, day)
        state.refresh(later)
        assert np.allclose(answers(state, day), later.scores(EVERYONE), atol=1e-4)


def test_days_that_were_learnt_at_once_equal_a_shelf_of_the_next_morning(model, baskets, state):
    for before, day in ((START, START + 3), (START + 3, START + 4), (START + 4, START + 11)):
        for event in events(baskets, before, day):
            state.update(*event)
        morning = recommend.Shelf(model, recommend.BasketCollator(baskets), day)
        state.refresh(morning)
        assert np.allclose(answers(state, day), morning.scores(EVERYONE), atol=1e-4)


def test_a_purchase_changes_one_user(state):
    before = answers(state, START)
    state.update(3, 17, START)
    after = answers(state, START)
    assert np.array_equal(np.delete(before, 3, axis=0), np.delete(after, 3, axis=0))
    assert (before[3] != after[3]).mean() > 0.5


def test_recommend_shows_the_best_ten_in_order(state, shelf):
    past = recommend.history(shelf.model.items.baskets, START)
    expected = recommend.network(shelf)(EVERYONE, False)
    for user in EVERYONE:
        assert state.recommend(int(user), START).tolist() == expected[user].tolist()
    basket = expected[0][:3]
    shown = state.recommend(0, START, without=basket)
    assert shown[:7].tolist() == expected[0][3:].tolist()
    assert past[0].nnz < ITEMS
    assert len(state.recommend(0, START, without=range(ITEMS - 4))) == 4
    assert len(state.recommend(0, START, depth=100)) == ITEMS


@pytest.mark.parametrize("size", [256, 2560])
@pytest.mark.parametrize("depth", [1, 10, 200])
def test_blocks_give_what_sorting_all_gives(size, depth):
    scores = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    assert np.array_equal(live.highest(scores, depth), np.argsort(-scores)[:depth])
    level = np.random.default_rng(0).integers(0, 3, size).astype(np.float32)
    first = np.argsort(-level, kind="stable")[:depth]
    assert np.array_equal(live.highest(level, depth), first), "of equals the first"
    few = np.full(size, -np.inf, np.float32)
    few[[7, 200]] = 1.0, 0.5
    assert live.highest(few, depth).tolist() == [7, 200][:depth]


def test_events_that_cannot_be_are_refused_in_one_sentence(state):
    last = int(state.arrays()["last"][3])
    before = answers(state, START)
    with pytest.raises(ValueError, match=rf"User 3 bought on day {last} already, and a purchase"):
        state.update(3, 1, last - 1)
    with pytest.raises(ValueError, match=r"a question for day 2 comes too late"):
        state.recommend(3, 2)
    with pytest.raises(ValueError, match=r"User 12 is unknown, there are 12: add_user"):
        state.update(USERS, 1, START)
    with pytest.raises(ValueError, match=r"Item 40 is unknown, there are 40: add_item"):
        state.update(3, ITEMS, START)
    assert np.array_equal(before, answers(state, START))


def test_a_new_user_is_shown_what_sells_and_learns(state, shelf):
    row = state.add_user()
    assert row == USERS
    assert np.array_equal(state.scores(row, START), shelf.demand.numpy())
    others = answers(state, START)
    state.update(row, 5, START)
    assert not np.array_equal(state.scores(row, START), shelf.demand.numpy())
    assert np.array_equal(others, answers(state, START))
    for _ in range(20):
        state.add_user()
    assert state.users == USERS + 21
    assert np.array_equal(others, answers(state, START))


def test_users_are_moved_rarely_when_many_more_come(state):
    tables = [state._owned]
    for _ in range(400):
        state.add_user()
        if state._owned is not tables[-1]:
            tables.append(state._owned)
    assert len(tables) < 15
    assert len(state.arrays()["ends"]) == USERS + 400


def test_a_new_item_is_scored_as_one_that_was_never_sold(state, shelf, vectors):
    """Its text is that of an item that the shop has and has not sold."""
    twin = shelf.model.items.text_of[LATE].item()
    vector = live.aligned(vectors[twin], vectors)
    assert np.allclose(vector, shelf.model.items.vectors[twin].numpy(), atol=1e-5)
    before = answers(state, START)
    rows = [state.add_item(vector) for _ in range(300)]  # more than the room there was
    assert rows == list(range(ITEMS, ITEMS + 300))
    after = answers(state, START)
    assert np.array_equal(after[:, :ITEMS], before)
    assert np.allclose(after[:, ITEMS:], before[:, [LATE]], atol=1e-5)
    state.update(2, rows[-1], START)
    state.update(2, LATE, START)
    both = state.scores(2, START + 1)[[rows[-1], LATE]]
    assert both[0] == pytest.approx(both[1], abs=1e-5)
    with pytest.raises(ValueError, match=r"The shelf has 40 items and the state 340"):
        state.refresh(shelf)


def test_a_short_past_is_shrunk_to_what_sells(shelf, state):
    shrunk, demand = live.initial_state(shelf, prior=20.0), shelf.demand.numpy()
    for user in (1, 4):
        n = state._pairs[user]["count"][: state._owned[user]].sum()
        share = n / (n + 20.0)
        wanted = share * state.scores(user, START) + (1 - share) * demand
        assert np.allclose(shrunk.scores(user, START), wanted, atol=1e-5)
    again = live.Live(shrunk.arrays())
    assert np.array_equal(answers(again, START), answers(shrunk, START))
    older = {name: part for name, part in shrunk.arrays().items() if name not in ("prior", "front")}
    assert np.array_equal(answers(live.Live(older), START), answers(state, START))
    with pytest.raises(ValueError, match="prior=-1, front=0: give 0 or more"):
        live.initial_state(shelf, prior=-1)


def test_a_newcomer_is_shrunk_where_no_prior_is_given(shelf):
    made, plain = live.initial_state(shelf, end=0), unshrunk(shelf, end=0)
    for state in (made, plain):
        state.update(2, 5, START)
    demand, own = shelf.demand.numpy(), plain.scores(2, START)
    assert not np.allclose(own, demand, atol=1e-3)
    # One purchase, and one of what sells.
    assert np.allclose(made.scores(2, START), (own + demand) / 2, atol=1e-5)


def test_a_front_shows_the_best_of_what_sells_and_of_what_is_old(shelf, state):
    whole = unshrunk(shelf, front=state.items)
    few = unshrunk(shelf, front=6)
    demand = shelf.demand.numpy()
    best = set(np.argsort(-demand, kind="stable")[:6].tolist())
    for user in EVERYONE:
        without = [int(state.recommend(user, START)[0])]
        wanted = state.recommend(user, START, without)
        assert np.array_equal(whole.recommend(user, START, without), wanted)
        own = set(state._pairs[user]["item"][: state._owned[user]].tolist())
        shown = few.recommend(user, START, without)
        assert set(shown.tolist()) <= (best | own) - set(without)
        scores = state.scores(user, START)
        allowed = np.array(sorted((best | own) - set(without)))
        order = allowed[np.lexsort((allowed, -scores[allowed]))][: len(shown)]
        assert np.array_equal(shown, order)
    assert live.Live(few.arrays()).front == 6
    added = few.add_user()
    assert np.array_equal(few.recommend(added, START), state.recommend(state.add_user(), START))


def test_only_a_student_with_sums_is_kept_live(model, baskets):
    torch.manual_seed(0)
    teacher = recommend.BasketTransformer(model.items, width=8)
    shelf = recommend.Shelf(teacher, recommend.BasketCollator(baskets), START)
    with pytest.raises(ValueError, match=r"A BasketTransformer keeps no sums"):
        unshrunk(shelf)


# Exploration


def test_exploration_shows_rare_items_in_the_last_places(state, monkeypatch):
    monkeypatch.setattr(recommend.live, "RARE", 60)
    times = state.arrays()["times"]
    plain, shares, drawn = state.recommend(4, START), [], []
    owned = state._pairs[4]["item"][: state._owned[4]]
    for seed in range(300):
        shown = state.recommend(4, START, explore=0.3, seed=seed)
        assert len(shown) == len(set(shown.tolist())) == len(plain)
        other = shown[~np.isin(shown, plain)]
        assert (
            shown[: len(plain) - len(other)].tolist() == plain[: len(plain) - len(other)].tolist()
        )
        assert (times[other] < 60).all()
        assert not np.isin(other, owned).any()
        shares.append(len(other) / len(plain))
        drawn.append(other)
    pool = np.flatnonzero(times < 60)
    pool = pool[~np.isin(pool, plain) & ~np.isin(pool, owned)]
    assert len(pool) > 4
    assert np.mean(shares) == pytest.approx(0.3, abs=0.05)
    assert set(np.concatenate(drawn).tolist()) == set(pool.tolist())


def test_the_first_draw_follows_the_scores(state, monkeypatch):
    monkeypatch.setattr(recommend.live, "RARE", 60)
    plain = state.recommend(4, START, depth=1)
    draws = [state.recommend(4, START, depth=1, explore=0.999, seed=seed) for seed in range(2000)]
    counts = np.bincount(np.concatenate(draws), minlength=ITEMS)
    weights = np.exp(state.scores(4, START).astype(float))
    weights[plain] = weights[state._pairs[4]["item"][: state._owned[4]]] = 0
    weights[state.arrays()["times"] >= 60] = 0
    assert np.allclose(counts / counts.sum(), weights / weights.sum(), atol=0.04)


# A state that outlives its process


@pytest.fixture
def kept(state, tmp_path):
    return journal.Durable(state, tmp_path / "state")


def test_a_state_comes_back_from_snapshot_and_log(kept, shelf, baskets, vectors):
    """Everything that changes a state, before the snapshot and after it."""
    folder, half = kept.folder, START + 14
    for event in events(baskets, START, half):
        kept.update(*event)
    kept.refresh(shelf)
    for event in events(baskets, half, DAYS):
        kept.update(*event)
    kept.update(kept.add_user(), kept.add_item(live.aligned(vectors[3], vectors)), DAYS)
    back = journal.Durable.restore(folder)
    assert same(back.live, kept.live)
    assert np.array_equal(answers(back.live, DAYS), answers(kept.live, DAYS))
    for seed in range(20):
        one, two = (x.live.recommend(1, DAYS, explore=0.5, seed=seed) for x in (back, kept))
        assert np.array_equal(one, two)
    back.update(0, 0, DAYS + 1)
    again = journal.Durable.restore(folder)
    assert same(again.live, back.live)


def ask(folder, question, *given):
    """What another connection finds in the database, or changes there."""
    database = sqlite3.connect(folder / "state.sqlite")
    with database:
        found = database.execute(question, given).fetchall()
    database.close()
    return found


def logged(folder):
    """What each event says, in order."""
    return [json.loads(change) for (change,) in ask(folder, "SELECT change FROM event")]


def left(kept, folder, length=None):
    """What a power cut leaves of a folder, with so many bytes of the write-ahead log."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept.folder, folder, ignore=shutil.ignore_patterns("*-shm"))
    if length is not None:
        os.truncate(folder / "state.sqlite-wal", length)
    return folder


def ahead(kept):
    return (kept.folder / "state.sqlite-wal").stat().st_size


def test_a_torn_last_change_is_dropped_wherever_it_ends(kept, tmp_path):
    whole, ends = [], []
    for item in range(4):
        whole.append(live.Live(kept.live.arrays()))
        kept.update(1, item, START)
        ends.append(ahead(kept))
    assert ends == sorted(set(ends))
    for cut in [ends[1] + 1, *range(ends[1] + 24, ends[2], 500), ends[2] - 1]:
        back = journal.Durable.restore(left(kept, tmp_path / "left", cut))
        assert same(back.live, whole[2])
        back.update(1, 2, START)
        assert len(logged(back.folder)) == 3
        assert same(back.live, whole[3])
        assert same(journal.Durable.restore(back.folder).live, whole[3])


def spoil(folder, what):
    """Damage the closed file of a state in one place."""
    file = folder / "state.sqlite"
    content = bytearray(file.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    if what == "head":
        content[:8] = b"damaged!"
    elif what == "page":
        ((root,),) = ask(folder, "SELECT rootpage FROM sqlite_master WHERE name = 'event'")
        content[(root - 1) * size : root * size] = bytes(size)
    elif what == "event":
        content[content.index(b'["update"') + 4] ^= 1
    elif what == "not text":
        content[content.index(b'["update"') + 4] = 255
    elif what == "snapshot":
        content[len(content) // 2] ^= 1
    elif what == "end":
        del content[-size:]
    file.write_bytes(content)


@pytest.mark.parametrize("what", ["head", "page", "event", "not text", "snapshot", "end"])
def test_damage_is_told_and_nothing_is_cut(kept, what):
    for item in range(4):
        kept.update(1, item, START)
    kept._database.close()
    spoil(kept.folder, what)
    content = (kept.folder / "state.sqlite").read_bytes()
    with pytest.raises(ValueError, match=r"state.sqlite: (is )?damaged"):
        journal.Durable.restore(kept.folder)
    assert (kept.folder / "state.sqlite").read_bytes() == content


def test_what_the_log_may_not_ask_for_is_refused_by_name(kept):
    for change in ('["size"]', '[["update"], 1]', '["update", 1]', '["update", 99, 1, 200]', "1"):
        ask(kept.folder, "REPLACE INTO event VALUES (1, ?)", change)
        with pytest.raises(ValueError, match=r"state.sqlite: damaged at event 1, "):
            journal.Durable.restore(kept.folder)


def test_events_that_are_missing_are_told(kept):
    for item in range(4):
        kept.update(1, item, START)
    ask(kept.folder, "DELETE FROM event WHERE number = 2")
    with pytest.raises(ValueError, match="event 2 is missing"):
        journal.Durable.restore(kept.folder)
    kept.snapshot()
    ask(kept.folder, "DELETE FROM event")
    with pytest.raises(ValueError, match="4 events were taken and 0 are there"):
        journal.Durable.restore(kept.folder)
    ask(kept.folder, "DELETE FROM snapshot")
    with pytest.raises(ValueError, match="damaged at its snapshot"):
        journal.Durable.restore(kept.folder)


def test_nothing_is_unpickled(kept, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "unpickled",)

    array = np.array([Trap()], dtype=object)
    for arrays in (pickle.dumps(Trap()), array.dumps()):
        ask(kept.folder, "UPDATE snapshot SET arrays = ?", arrays)
        with pytest.raises(ValueError, match="damaged at its snapshot"):
            journal.Durable.restore(kept.folder)
    assert not (tmp_path / "unpickled").exists()


def test_a_refused_event_leaves_no_row(kept):
    with pytest.raises(ValueError, match="comes too late"):
        kept.update(1, 1, 0)
    with pytest.raises(ValueError, match=r"has 16 finite numbers; this one has the shape \(3,\)"):
        kept.add_item(np.zeros(3))
    with pytest.raises(ValueError, match="15 of them finite"):
        kept.add_item(np.array([np.nan, *range(15)]))
    assert logged(kept.folder) == []


def fill(kept, pages):
    """Leave room for so many more pages of the database than it has."""
    ((there,),) = kept._database.execute("PRAGMA page_count").fetchall()
    kept._database.execute(f"PRAGMA max_page_count = {there + pages}")


def test_half_a_change_on_a_full_disk_is_taken_back(kept, shelf):
    kept.update(1, 1, START)
    before = live.Live(kept.live.arrays())
    fill(kept, 0)
    with pytest.raises(OSError, match=r"No space left while writing .*state.sqlite"):
        kept.update_basket(1, [2] * 5000, START)
    with pytest.raises(OSError, match="No space left"):
        kept.refresh(shelf)
    assert same(kept.live, before)
    fill(kept, 1000)
    kept.update(1, 3, START)
    back = journal.Durable.restore(kept.folder)
    assert len(logged(kept.folder)) == 2
    assert same(back.live, kept.live)


def test_a_state_for_which_there_is_no_room_can_be_made_again(state, tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(np, "savez", lambda *given, **arrays: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            journal.Durable(state, tmp_path)
    with pytest.raises(ValueError, match="its format is 0x0, not 0x"):
        journal.Durable.restore(tmp_path)
    journal.Durable(state, tmp_path)
    assert same(journal.Durable.restore(tmp_path).live, state)


def test_a_writer_that_does_not_give_way_is_told(kept):
    other = sqlite3.connect(kept.folder / "state.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    kept._database.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(OSError, match=r"state.sqlite: database is locked"):
        kept.update(1, 1, START)
    other.close()
    kept.update(1, 1, START)
    assert len(logged(kept.folder)) == 1


def test_tables_that_could_not_be_written_are_not_answered_from(kept, model, baskets, monkeypatch):
    morning = recommend.Shelf(model, recommend.BasketCollator(baskets), START + 2)
    with monkeypatch.context() as full:
        full.setattr(np, "savez", lambda *given, **arrays: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kept.refresh(morning)
    kept.update(1, 3, START + 2)
    assert same(kept.live, journal.Durable.restore(kept.folder).live)


def test_a_change_is_on_the_disk_before_it_counts(kept):
    committed = []

    def watched(statement):
        if statement == "COMMIT":
            committed.append(kept.live.events)

    for name, value in {"synchronous": 2, "journal_mode": "wal"}.items():  # 2 is FULL
        assert kept._database.execute(f"PRAGMA {name}").fetchall() == [(value,)]
    kept._database.set_trace_callback(watched)
    events = kept.live.events
    for item in range(3):
        kept.update(1, item, START)
    assert committed == [events, events + 1, events + 2]
    kept.update_basket(2, [4, 5, 6], START)
    assert committed[3:] == [events + 3]
    assert kept.live.events == events + 6
    assert logged(kept.folder) == [
        *(["update", 1, item, START] for item in range(3)),
        ["update_basket", 2, [4, 5, 6], START],
    ]


def test_a_basket_counts_whole_or_not_at_all(kept, tmp_path):
    before = live.Live(kept.live.arrays())
    with pytest.raises(ValueError, match="Item 40 is unknown"):
        kept.update_basket(1, [3, ITEMS], START)
    assert same(kept.live, before)
    kept.update_basket(1, [3, 5, 3], START)
    back = journal.Durable.restore(left(kept, tmp_path / "left"))
    assert same(back.live, kept.live)
    for cut in [*range(0, ahead(kept), 500), ahead(kept) - 1]:
        back = journal.Durable.restore(left(kept, tmp_path / "left", cut))
        assert same(back.live, before)


def test_a_second_writer_learns_what_the_first_one_wrote(kept, shelf, model, baskets):
    other = journal.Durable.restore(kept.folder)
    kept.update(1, 3, START)
    other.update(1, 3, START)
    kept.update(1, 7, START + 1)
    with pytest.raises(ValueError, match="comes too late"):
        other.update(1, 3, START)
    assert other.add_user() == kept.add_user() - 1 == USERS
    kept.refresh(recommend.Shelf(model, recommend.BasketCollator(baskets), START + 2))
    other.update(2, 3, START + 2)  # with the tables that the first one took
    kept.update(2, 4, START + 2)
    back = journal.Durable.restore(kept.folder)
    assert same(back.live, kept.live)


def test_a_folder_is_not_written_over_and_not_made_up(kept, tmp_path):
    with pytest.raises(FileExistsError, match="holds a state; restore it, or name another"):
        journal.Durable(kept.live, kept.folder)
    strange = tmp_path / "strange"
    strange.mkdir()
    file = strange / "state.sqlite"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="holds a state; restore it, or name another"):
        journal.Durable(kept.live, strange)
    with pytest.raises(ValueError, match=r"state.sqlite: is damaged, or no live state"):
        journal.Durable.restore(strange)
    assert file.read_text() == "mine"
    file.unlink()
    ask(strange, "CREATE TABLE event (mine)")
    with pytest.raises(ValueError, match=r"its format is 0x0, not 0x[0-9a-f]+ of a live state"):
        journal.Durable.restore(strange)
    assert ask(strange, "PRAGMA journal_mode") == [("delete",)]
    ask(kept.folder, f"PRAGMA application_id = {journal._FORMAT + 1}")
    with pytest.raises(ValueError, match="its format is 0x"):
        journal.Durable.restore(kept.folder)
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no state; make one with Durable"):
            journal.Durable.restore(folder)
    assert not (tmp_path / "none").exists()


WRITER = """
import sys
from ecomkd.recommend.journal import Durable
kept = Durable.restore(sys.argv[1])
for number in range(1_000_000):
    kept.update(number % 12, number * 7 % 40, 200)
    if number % 20 == 19:
        kept.snapshot()
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_had_said(kept):
    before = journal.Durable.restore(kept.folder)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, kept.folder], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )  # fmt: skip
    for line in writer.stdout:
        if int(line) >= 70:
            os.kill(writer.pid, signal.SIGKILL)
            break
    said = [int(line) for line in writer.stdout.read().split()]
    assert writer.wait() == -signal.SIGKILL
    back = journal.Durable.restore(kept.folder)
    taken = back.live.events - before.live.events
    assert taken >= (said[-1] if said else 70) + 1
    for number in range(taken):
        before.live.update(number % 12, number * 7 % 40, 200)
    assert same(back.live, before.live)
    assert [event[2] for event in logged(kept.folder)] == [n * 7 % 40 for n in range(taken)]


HALF = """
import os, sys
from ecomkd.recommend.journal import Durable
kept = Durable.restore(sys.argv[1])
kept.update(1, 5, 200)
database = kept._database
database.execute("BEGIN IMMEDIATE")
database.execute("PRAGMA cache_size = 0")  # so that what is not committed is on the disk
for number in range(2, 2000):
    database.execute("INSERT INTO event VALUES (?, ?)", (number, '["update", 1, 6, 200]'))
os.kill(os.getpid(), 9)
"""


def test_a_transaction_that_a_kill_ends_is_gone_and_the_one_before_is_there(kept):
    died = subprocess.run(
        [sys.executable, "-c", HALF, kept.folder], cwd=Path(__file__).resolve().parent.parent
    )
    assert died.returncode == -signal.SIGKILL
    back = journal.Durable.restore(kept.folder)
    assert logged(kept.folder) == [["update", 1, 5, 200]]
    kept.live.update(1, 5, 200)
    assert same(back.live, kept.live)


TWO_WRITERS = """
import sys
from ecomkd.recommend.journal import Durable
kept = Durable.restore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    kept.update(number % 3, int(sys.argv[2]), 200)
    print(number, flush=True)
    if number % 25 == 24:
        kept.snapshot()
"""


def test_two_processes_at_once_lose_no_purchase_and_count_none_twice(kept):
    before, taken = live.Live(kept.live.arrays()), kept.live.events
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_WRITERS, kept.folder, item], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
        )
        for item in ("5", "6")
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    told = [len(writer.communicate()[0].split()) for writer in writers]
    assert told == [60, 60]
    back = journal.Durable.restore(kept.folder)
    assert back.live.events == taken + 120
    for _, *event in logged(kept.folder):
        before.update(*event)
    assert same(back.live, before)
    own = back.live._pairs[1][: back.live._owned[1]]
    others = kept.live._pairs[1][: kept.live._owned[1]]
    for item in (5, 6):
        more = own["count"][own["item"] == item].sum()
        assert more == others["count"][others["item"] == item].sum() + 20


def test_threads_that_share_an_object_lose_no_purchase(kept):
    taken = kept.live.events
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: kept.update(1, item, START), [*range(ITEMS)] * 2))
    assert kept.live.events == taken + 2 * ITEMS
    assert same(journal.Durable.restore(kept.folder).live, kept.live)


# Predict, then learn


class Watched:
    """Notes what it is asked and told, in order."""

    def __init__(self):
        self.seen = []

    def recommend(self, user, day, without):
        self.seen.append(("asked", user, day, len(without)))
        return np.array([0, 1, 2])

    def learn(self, user, item, day):
        self.seen.append(("told", user, item, day))


def test_each_basket_is_asked_for_before_it_is_told(baskets):
    watched = Watched()
    found = replay.prequential({"it": watched}, baskets, START, days=3, heads=(0, 2))
    told = [entry[1:] for entry in watched.seen if entry[0] == "told"]
    assert sorted(map(list, told)) == sorted(events(baskets, START, START + 3))
    assert [day for _, _, day in told] == sorted(day for _, _, day in told)
    asked = [entry for entry in watched.seen if entry[0] == "asked"]
    assert len(asked) == len(found)
    size = None
    for entry in watched.seen:
        if entry[0] == "asked" and entry[3] == 0:
            size = 0
        elif entry[0] == "asked":
            assert size == entry[3] == 2
        else:
            size += 1
    own = baskets.between(START, START + 3)
    for row in found[found["head"] == 0].itertuples():
        items = own.loc[own["basket"] == row.basket, "item"]
        assert row.items == len(items)
        assert row.it == np.isin([0, 1, 2], items).sum() / min(10, len(items))
    assert (found.loc[found["head"] == 2, "items"] > 0).all()


def test_a_schedule_answers_as_the_shelf_of_its_morning(model, baskets, shelf):
    collator, mornings = recommend.BasketCollator(baskets), {}

    def on(day):
        return mornings.setdefault(day, recommend.Shelf(model, collator, day))

    systems = {
        "at once": replay.Scheduled(unshrunk(shelf), START, None, on),
        "nightly": replay.Scheduled(unshrunk(shelf), START, 1, on),
        "weekly": replay.Scheduled(unshrunk(shelf), START, 7, on),
        "never": replay.Scheduled(unshrunk(shelf), START, DAYS),
    }
    replay.prequential(systems, baskets, START, days=16)
    day = START + 15
    assert {at for at in mornings if (at - START) % 7} >= {START + 1, day}
    for name, morning in {"nightly": day, "weekly": START + 14, "never": START}.items():
        assert systems[name].day == morning
        expected = recommend.network(on(morning))(EVERYONE, False)
        for user in EVERYONE:
            shown = systems[name].recommend(int(user), day, ())
            assert shown.tolist() == expected[user].tolist(), name
    tomorrow = recommend.Shelf(model, collator, day + 1)
    systems["at once"].live.refresh(tomorrow)
    scores = answers(systems["at once"].live, day + 1)
    assert np.allclose(scores, tomorrow.scores(EVERYONE), atol=1e-4)


def test_of_two_processes_that_make_one_folder_the_second_is_told(state, tmp_path, monkeypatch):
    journal.Durable(state, tmp_path)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as it was when the second looked
    with pytest.raises(FileExistsError, match="holds a state; restore it"):
        journal.Durable(state, tmp_path)


def test_a_front_answers_who_has_bought_an_item_that_was_added_late(shelf):
    few = unshrunk(shelf, front=6)
    rows = [few.add_item(np.ones(16)) for _ in range(300)]
    few.update(0, rows[-1], START)
    assert rows[-1] in few.bought(0)
    assert len(few.recommend(0, START)) == 10
    assert rows[-1] not in few.recommend(0, START, [rows[-1]])


def test_a_copy_has_the_same_front_after_an_item_was_added(shelf, model):
    few = unshrunk(shelf, front=6)
    few.add_item(50 * model.appeal.weight.detach().numpy()[0])
    again = live.Live(few.arrays())
    for user in EVERYONE:
        assert np.array_equal(again.recommend(user, START), few.recommend(user, START))


def test_a_snapshot_may_be_larger_than_a_value_of_sqlite(state, tmp_path, monkeypatch):
    connect = sqlite3.connect

    def small(*given, **options):
        made = connect(*given, **options)
        made.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 30_000)
        return made

    monkeypatch.setattr(journal.sqlite3, "connect", small)
    monkeypatch.setattr(journal, "_PART", 10_000, raising=False)
    journal.Durable(state, tmp_path).update(0, 3, START)
    assert same(journal.Durable.restore(tmp_path).live, state)
