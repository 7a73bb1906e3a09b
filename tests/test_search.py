"""Search: retrieval, fusion, re-ranking, what encoders learn from, and the engine."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bm25s
import numpy as np
import pandas as pd
import pytest
import Stemmer
import tiny_models
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from ecomkd import export, features, load, metrics, models, search, words
from ecomkd.config import Profile
from ecomkd.data import sources, truth
from ecomkd.data.schema import GAINS, TEXT
from ecomkd.relevance import bi_encoders, judge, stages
from ecomkd.search import encoders


def table(rows: list[dict]) -> Dataset:
    return Dataset.from_list([{name: "" for name in TEXT} | row for row in rows])


# Retrieve ------------------------------------------------------------------------------------


def test_lexical_leaves_out_products_that_share_no_word():
    index = words.bm25(["red shoe", "blue lamp", "red red lamp"])
    scores, rows = search.lexical(index, ["lamp", "unheard"], 3)
    assert sorted(rows[0][:2].tolist()) == [1, 2]
    assert rows[0][2] == -1
    assert np.isneginf(scores[0][2])
    assert rows[1].tolist() == [-1, -1, -1]


def test_of_equal_products_the_first_are_found_by_words():
    index = words.bm25(["oak lamp"] * 3000 + ["desk"])
    assert search.lexical(index, ["lamp"], 10)[1].tolist() == [list(range(10))]


def test_lexical_orders_by_score_and_then_by_row():
    index = words.bm25(["lamp", "lamp", "lamp lamp desk", "desk"])
    scores, rows = search.lexical(index, ["lamp"], 2)
    assert rows[0].tolist() == [0, 1]
    assert scores[0][0] == scores[0][1] > 0


def test_the_words_that_count_are_those_of_bm25s():
    texts = [
        "The red Shoes aren't running",
        "",
        "of the",
        "Über-Café 沙发 3.14 İstanbul STRASSE x y",
    ]
    wanted = bm25s.tokenize(
        texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False,
        show_progress=False,
    )  # fmt: skip
    assert [words.words_of(text) for text in texts] == wanted
    assert wanted[0] == ["red", "shoe", "aren", "run"]
    kept = bm25s.tokenize([words._STOP], stopwords="en", return_ids=False, show_progress=False)
    assert kept == [[]]


def test_exact_and_approximate_find_the_same_neighbours_among_few():
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    _, one = search.exact(vectors).search(vectors[:5], 10)
    graph = search.approximate(vectors)
    graph.hnsw.efSearch = 60
    _, other = graph.search(vectors[:5], 10)
    assert (one == other).all()


def test_exact_keeps_the_order_of_equal_vectors_and_fills_up():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [2, 0]], np.float32)
    scores, rows = search.exact(vectors).search(np.array([[1, 0], [0, 3]]), 5)
    assert rows.tolist() == [[3, 0, 2, 1, -1], [1, 0, 2, 3, -1]]
    assert scores[1].tolist() == [3, 0, 0, 0, -np.inf]


def test_the_first_k_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    cosines = rng.integers(0, 4, (50, 40)) / 4
    words = rng.integers(0, 3, (50, 40)).astype(float)
    for k in (0, 1, 7, 39, 40, 90):
        scores, rows = search.weighted(cosines, words, 0.5, k)
        sums = cosines + 0.5 * words
        wanted = np.argsort(-sums, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(rows, wanted)
        np.testing.assert_array_equal(scores, np.take_along_axis(sums, wanted, 1))


def test_fuse_by_hand():
    scores, rows = search.fuse([np.array([[4, 2, -1]]), np.array([[2, 9, 4]])], k=4, constant=60)
    assert rows[0].tolist() == [2, 4, 9, -1]
    expected = [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62]
    np.testing.assert_allclose(scores[0][:3], expected)
    assert np.isneginf(scores[0][3])


def test_fuse_keeps_the_order_of_the_first_list_where_sums_are_equal():
    _, rows = search.fuse([np.array([[1, 2]]), np.array([[2, 1]])], k=2)
    assert rows[0].tolist() == [1, 2]


# Re-rank -------------------------------------------------------------------------------------


def test_candidates_and_rerank_agree_on_the_order_of_pairs():
    catalogue = table([{"product_id": f"p{n}", "product_title": f"title {n}"} for n in range(4)])
    queries = Dataset.from_dict({"query_id": ["a", "b"], "query": ["one", "two"]})
    rows = np.array([[3, 1], [2, -1]])
    pairs = search.candidates(queries, catalogue, rows)
    assert list(zip(pairs["query_id"], pairs["product_id"], strict=True)) == [
        ("a", "p3"),
        ("a", "p1"),
        ("b", "p2"),
    ]
    scores, ordered = search.rerank(rows, np.array([0.1, 0.9, 0.5]))
    assert ordered.tolist() == [[1, 3], [2, -1]]
    assert scores[0].tolist() == [0.9, 0.1]


def test_rerank_keeps_the_order_of_retrieval_where_scores_are_equal():
    _, ordered = search.rerank(np.array([[5, 3, 8]]), np.array([1.0, 1.0, 2.0]))
    assert ordered.tolist() == [[8, 5, 3]]


def test_ranked_frames_keep_the_order_of_rows():
    frame = search.ranked(["a"], ["p0", "p1", "p2"], np.array([[2, 0, -1]]))
    assert frame["product_id"].tolist() == ["p2", "p0"]
    assert frame["score"].tolist() == [0.0, -1.0]


# Metrics over a catalogue ----------------------------------------------------------------------


JUDGED = pd.DataFrame(
    {
        "query_id": ["a", "a", "a", "b", "c"],
        "product_id": ["x", "y", "z", "x", "x"],
        "esci_label": ["E", "S", "I", "E", "I"],
    }
)


def test_retrieval_by_hand():
    found = pd.DataFrame(
        {"query_id": "a", "product_id": ["y", "x", "new"], "score": [3.0, 2.0, 1.0]}
    )
    result = metrics.retrieval(found, JUDGED, GAINS)
    discount = 1 / np.log2(3)
    ndcg = (0.1 + discount) / (1 + 0.1 * discount)
    assert result["per_query"].index.tolist() == ["a", "b"]
    assert result["per_query"].loc["a", "ndcg@10"] == pytest.approx(ndcg)
    assert result["per_query"].loc["a", "mrr@10"] == 0.5
    assert result["per_query"].loc["a", "recall@100"] == 1
    assert result["per_query"].loc["a", "judged@10"] == pytest.approx(2 / 3)
    # b found nothing and counts 0; c has nothing to find and is left out.
    assert result["per_query"].loc["b"].tolist() == [0, 0, 0, 0]
    assert result["n_without_relevant"] == 1
    assert result["ndcg@10"] == pytest.approx(ndcg / 2)


def test_retrieval_takes_grades():
    judged = JUDGED.drop(columns="esci_label").assign(grade=[3, 1, 0, 3, 0])
    found = pd.DataFrame({"query_id": ["a", "b"], "product_id": "x", "score": 1.0})
    result = metrics.retrieval(found, judged, {g: (2**g - 1) / 7 for g in range(4)})
    ideal = 1 + (1 / 7) / np.log2(3)
    assert result["per_query"]["ndcg@10"].tolist() == pytest.approx([1 / ideal, 1])


@pytest.mark.parametrize(
    ("found", "judged", "message"),
    [
        (["x", "x"], JUDGED, "what is ranked: query a, product x stands twice"),
        (["x"], pd.concat([JUDGED, JUDGED]), "what is judged: query a, .* stands twice"),
        (["x"], JUDGED.replace("S", "Q"), "esci_label 'Q' has no gain"),
        (["x"], JUDGED.drop(columns="esci_label"), "what is judged: no column 'esci_label'"),
        (["x"], JUDGED.replace({"E": "I", "S": "I"}), "no query has a relevant product"),
    ],
)
def test_retrieval_refuses(found, judged, message):
    frame = pd.DataFrame({"query_id": "a", "product_id": found, "score": 1.0})
    with pytest.raises(ValueError, match=message):
        metrics.retrieval(frame, judged, GAINS)


def test_retrieval_refuses_what_is_no_number_and_takes_ids_that_are():
    nothing = pd.DataFrame([("a", "x", np.nan)], columns=["query_id", "product_id", "score"])
    with pytest.raises(ValueError, match="score of query a, product x is NaN"):
        metrics.retrieval(nothing, JUDGED, GAINS)
    with pytest.raises(ValueError, match="gains must be finite and 0 or more"):
        metrics.retrieval(nothing.fillna(1.0), JUDGED, GAINS | {"I": -1.0})
    with pytest.raises(ValueError, match="what is ranked: no column 'score'; it needs query_id"):
        metrics.retrieval(nothing.drop(columns="score"), JUDGED, GAINS)
    named = {"query_id": [7, 8, 7], "product_id": [1, 1, 2]}
    judged = pd.DataFrame(named | {"esci_label": ["E", "E", "I"]})
    found = metrics.retrieval(pd.DataFrame(named | {"score": [1.0, 2.0, 3.0]}), judged, GAINS)
    assert found["per_query"].index.tolist() == [7, 8]
    other = pd.DataFrame(named | {"score": 1.0, "query_id": ["7", "8", "7"]})
    with pytest.raises(ValueError, match="no ranked query is judged"):
        metrics.retrieval(other, judged, GAINS)
    assert found["per_query"]["mrr@10"].tolist() == [0.5, 1]


def test_truth_agrees_with_the_judgments_that_the_shop_gives(smoke):
    profile, data, _ = smoke
    true = truth.judgments(profile, "test").set_index(["query_id", "product_id"])["esci_label"]
    names = data["test"].features["label"].names
    pairs = zip(data["test"]["query_id"], data["test"]["product_id"], strict=True)
    given = {pair: names[label] for pair, label in zip(pairs, data["test"]["label"], strict=True)}
    assert {pair: true.get(pair, "I") for pair in given} == given
    assert len(true) > sum(label != "I" for label in given.values())


def test_truth_refuses_an_unknown_split(smoke):
    with pytest.raises(ValueError, match="no queries in split 'dev': choose one of"):
        truth.judgments(smoke[0], "dev")


# Distil --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    profile = Profile.named("smoke", artifacts=tmp_path_factory.mktemp("search"), device="cpu")
    return profile, load("shop", profile), sources.catalogue("shop", profile)


def test_mined_pairs_are_new_to_their_query(smoke):
    profile, data, catalogue = smoke
    mined = search.hard_negatives(data, catalogue, profile)
    known = {
        pair
        for split in ("train", "unlabelled")
        for pair in zip(data[split]["query_id"], data[split]["product_id"], strict=True)
    }
    new = list(zip(mined["query_id"], mined["product_id"], strict=True))
    assert not known & set(new)
    assert len(set(new)) == len(new)
    assert set(mined["label"]) == {-1}
    asked = {*data["train"]["query_id"], *data["unlabelled"]["query_id"]}
    assert set(mined["query_id"]) <= asked


def test_what_nobody_judged_has_the_label_that_the_teacher_gives(smoke, folders):
    profile, data, catalogue = smoke
    few = search.told(data, catalogue, profile, folders["teacher"], unlabelled=20)
    assert few["product_id"][:20] == data["unlabelled"]["product_id"][:20]
    assert few.features["label"].names == data["train"].features["label"].names
    lesson = DatasetDict({**data, "unlabelled": data["unlabelled"].select(range(20))})
    mined = search.hard_negatives(lesson, catalogue, profile)
    assert len(mined) and few["product_id"][20:] == mined["product_id"][:]
    shown = lesson["unlabelled"], mined
    chances = np.concatenate([judge.predict(folders["teacher"], one, profile) for one in shown])
    assert np.asarray(few["label"]).tolist() == chances.argmax(axis=1).tolist()
    assert few["query_id"][:] == [*shown[0]["query_id"], *mined["query_id"]]


def test_bi_encoder_refuses_an_unknown_row(smoke):
    profile, data, catalogue = smoke
    with pytest.raises(ValueError, match="Unknown row 'soft': choose one of labels, told,"):
        search.bi_encoder(data, catalogue, profile, "soft")


def test_first_stages_differ_in_what_they_learn_and_go_on_from_each_other(smoke, monkeypatch):
    profile, data, catalogue = smoke
    asked, told = [], []

    def contrastive(given, own, told=None, passes=None, rates=None, start=None):
        assert given is data and own is profile
        asked.append((told, passes, rates, start))
        return Path(str(len(asked)))

    monkeypatch.setattr(encoders, "told", lambda *given: told.append(given) or "further")
    monkeypatch.setattr(encoders.bi_encoders, "contrastive", contrastive)
    monkeypatch.setattr(encoders.bi_encoders, "has_learnt", lambda folder: True)
    assert search.bi_encoder(data, catalogue, profile, "labels") == Path("1")
    assert asked == [(None, None, None, None)] and not told
    given = data, catalogue, profile, "distilled", Path("teacher"), 20, "outputs"
    assert search.bi_encoder(*given) == Path("3")
    assert told == [(data, catalogue, profile, Path("teacher"), 20, "outputs")]
    rates = bi_encoders.RATES[-1:]
    first, second = asked[1:]
    assert first == ("further", profile.student_epochs, rates, None)
    assert second == (None, None, rates, Path("2"))
    # A first stage that stayed as it came leaves the second one free to stay so, too.
    monkeypatch.setattr(encoders.bi_encoders, "has_learnt", lambda folder: False)
    search.bi_encoder(*given)
    assert asked[-1] == (None, None, rates, None)


@pytest.fixture(scope="module")
def folders(smoke):
    profile, data, catalogue = smoke
    tables, make = [], encoders._token_table
    texts = {
        *sources.product_text(catalogue[:]),
        *(q for split in data.values() for q in split["query"]),
    }

    def kept(teacher, tokenizer, seed):
        """The table; the teacher is asked for the shop's tokens alone: all take a minute."""
        cut = tokenizer(sorted(texts), add_special_tokens=False)["input_ids"]
        own = {
            name.removeprefix("##") for ids in cut for name in tokenizer.convert_ids_to_tokens(ids)
        }

        def encode(names, **options):
            place = {name: row for row, name in enumerate(sorted(own), start=1)}
            vectors = teacher.encode(["", *place], **options)
            return vectors[[place.get(name, 0) for name in names]]

        tables.append(make(SimpleNamespace(encode=encode), tokenizer, seed))
        return tables[-1].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "_token_table", kept)
        yield models_of(profile, data, catalogue) | {"table": tables}


def models_of(profile, data, catalogue) -> dict:
    teacher = stages.teacher(data, profile)
    distilled = search.bi_encoder(data, catalogue, profile, "distilled", teacher)
    return {
        "teacher": teacher,
        "labels": search.bi_encoder(data, catalogue, profile, "labels", teacher),
        "distilled": distilled,
        "static": search.static_encoder(data, catalogue, profile, distilled),
        "student": stages.student(data, profile, teacher_folder=teacher),
    }


def test_encoders_train_save_and_load(smoke, folders):
    profile = smoke[0]
    start = search.encoder(models.checkpoint("minilm"), profile)[0].auto_model
    for name in ("labels", "distilled", "static"):
        model = search.encoder(folders[name], profile)
        vectors = model.encode(["red sofa", "couch"])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        if name != "static":
            assert len(bi_encoders.contrastive_choices(folders[name])) > 1
            kept = model[0].auto_model.embeddings.word_embeddings.weight
            assert torch.equal(kept, start.embeddings.word_embeddings.weight)


def test_a_shop_of_one_product_has_encoders(tmp_path):
    profile = tiny_models.profile(tmp_path / "artifacts")
    teacher = tiny_models.save(tiny_models.bert(), tmp_path / "teacher")
    catalogue = table([{"product_id": "p", "product_title": "red shoe"}])
    data = DatasetDict(
        {
            name: tiny_models.pairs(3, seed=seed, labelled=name != "unlabelled", prefix=name)
            .remove_columns(["product_id", "query_id"])
            .add_column("product_id", ["p"] * 3)
            .add_column("query_id", [f"{name}{row}" for row in range(3)])
            for seed, name in enumerate(("train", "validation", "unlabelled"))
        }
    )
    assert len(search.hard_negatives(data, catalogue, profile)) == 0
    assert len(search.told(data, catalogue, profile, teacher)) == 3
    with pytest.warns(UserWarning, match="stays as it was"):
        wide = search.bi_encoder(data, catalogue, profile, teacher_folder=teacher)
    teacher = search.encoder(wide, profile)
    assert teacher.encode("red shoe").shape == (384,)
    start = np.eye(len(tiny_models.tokenizer()), dtype=np.float32)
    bag = StaticEmbedding(tiny_models.tokenizer(), embedding_weights=start)
    model = SentenceTransformer(modules=[bag, Normalize()], device="cpu")
    kept = features.encode(teacher, ["red shoe"])
    encoders._imitate(model, teacher, ["red mug", ""], ["red shoe"], kept, seed=0)
    assert np.linalg.norm(model.encode("red shoe")) == pytest.approx(1, abs=1e-5)


def test_the_loss_of_a_static_student_by_hand():
    """Two queries and three products of a few tokens, in NumPy."""
    rows = np.random.default_rng(5).normal(size=(len(tiny_models.tokenizer()), 6))
    bag = StaticEmbedding(tiny_models.tokenizer(), embedding_weights=rows.astype(np.float32))
    model = SentenceTransformer(modules=[bag, Normalize()], device="cpu")
    queries, products = [[5, 6], [7]], [[5], [6, 7, 8], [9, 9]]
    wanted = torch.tensor([[0.9, 0.2, 0.1], [0.0, 0.3, 0.4]])

    def side(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        starts = np.cumsum([0, *map(len, texts)])[:-1]
        flat = [token for text in texts for token in text]
        return torch.tensor(flat), torch.from_numpy(starts)

    def unit(texts: list[list[int]]) -> np.ndarray:
        means = np.stack([rows[text].mean(axis=0) for text in texts])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    p = np.exp(wanted.numpy() / 0.05)
    p /= p.sum(axis=1, keepdims=True)
    q = np.exp(unit(queries) @ unit(products).T / 0.05)
    q /= q.sum(axis=1, keepdims=True)
    by_hand = 0.05**2 * (p * np.log(p / q)).sum(axis=1).mean()
    loss = search.imitation_loss(model, side(queries), side(products), wanted)
    assert loss.item() == pytest.approx(by_hand, rel=1e-4)
    loss.backward()
    assert bag.embedding.weight.grad.abs().sum() > 0


def test_a_static_student_learns_its_teachers_ranking(smoke, folders, monkeypatch):
    profile, data, catalogue = smoke
    texts = sources.product_text(catalogue[:])
    queries = list(dict.fromkeys(data["unlabelled"]["query"]))

    def cosines(folder):
        model = search.encoder(folder, profile)
        return model.encode(queries) @ model.encode(texts).T

    def agreement(folder):
        both = zip(cosines(folder), wanted, strict=True)
        return np.mean([np.corrcoef(found, row)[0, 1] for found, row in both])

    wanted = cosines(folders["distilled"])
    learnt = agreement(folders["static"])
    (table,) = folders["table"]
    monkeypatch.setattr(encoders, "_token_table", lambda *_: table)
    monkeypatch.setattr(encoders, "_PASSES", 0)
    start = search.static_encoder(data, catalogue, profile, folders["distilled"])
    assert learnt > agreement(start) + 0.05


def test_a_large_catalogue_is_shown_in_part(monkeypatch):
    rng = np.random.default_rng(0)
    cosines = torch.from_numpy(rng.random((3, 100)))
    assert encoders._shown(cosines, rng).tolist() == list(range(100))
    monkeypatch.setattr(encoders, "_SHOWN", 20)
    monkeypatch.setattr(encoders, "NEAREST", 5)
    shown = encoders._shown(cosines, rng)
    assert len(set(shown)) == len(shown) <= 20 + 3 * 5
    for row in cosines.numpy():
        assert set(np.argsort(-row)[:5]) <= set(shown)


# The engine ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(smoke, folders, tmp_path_factory):
    return search.build("shop", smoke[0], tmp_path_factory.mktemp("engine") / "served")


@pytest.fixture(scope="module")
def engine(index):
    return search.load(index)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_engine_loads_nothing_that_trains_and_little_memory(index):
    heavy = ("torch", "transformers", "sentence_transformers", "datasets", "lightgbm", "faiss")
    code = (
        "import pathlib, sys\n"
        "from ecomkd import search\n"
        f"engine = search.load({str(index)!r})\n"
        "assert engine.search('red sofa')\n"
        f"print(*[name for name in {(*heavy, 'scipy')} if name in sys.modules])\n"
        # What getrusage says of a process holds that of its parent before it began, too.
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, kibibytes = done.stdout.splitlines()
    assert modules == ""
    assert int(kibibytes) <= 200 * 1024


def test_engine_embeds_as_the_static_student_does(smoke, folders, engine):
    texts = ["red sofa", "", "沙发 🛋️", "Ångström café"]
    expected = search.encoder(folders["static"], smoke[0]).encode(texts)
    np.testing.assert_allclose(engine.embed(texts), expected, atol=1e-6)
    assert not engine.embed([""]).any()


def test_engine_scores_as_the_exported_student_does(smoke, folders, engine):
    profile, data, _ = smoke
    pairs = data["test"].select(range(8))
    exported = export.exports(folders["student"], profile)
    chances = export.predict_onnx(exported / "model.int8.onnx", pairs, profile)
    expected = metrics.expected_gain(chances, judge.gains(pairs))
    found = engine.score(pairs["query"], sources.product_text(pairs[:]))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_sum_by_hand():
    cosines, words = np.array([[0.9, 0.5, 0.1, 0.5]]), np.array([[0.0, 10.0, 30.0, 10.0]])
    scores, rows = search.weighted(cosines, words, 0.0, 3)
    assert rows.tolist() == [[0, 1, 3]] and scores.tolist() == [[0.9, 0.5, 0.5]]
    scores, rows = search.weighted(cosines, words, 0.05, 2)
    assert rows.tolist() == [[2, 1]] and scores[0] == pytest.approx([1.6, 1.0])


def test_weights_are_chosen_by_their_quality():
    rng = np.random.default_rng(0)
    wanted = rng.random((20, 50))
    words = rng.random((20, 50))
    gains = rng.random((20, 50))
    cosines = wanted - 0.02 * words - 0.2 * gains
    best = np.argsort(-wanted, axis=1)[:, :10]

    def quality(rows):
        both = zip(rows[:, :10], best, strict=True)
        return np.mean([np.mean(found == right) for found, right in both])

    def read(rows):
        return np.take_along_axis(gains, rows, 1).ravel()

    assert search.choose_weights(cosines, words, quality, read, 50).reranker == 0.2
    exact = search.choose_weights(cosines + 0.2 * gains, words, quality, read, 50)
    assert exact == search.Weights(0.02, 0.0)


def test_an_engine_adds_up_words_vectors_and_student(engine, monkeypatch):
    query = "red sofa"
    cosines, words = engine.compare([query])
    gains = engine.score([query] * len(engine.texts), engine.texts)
    for weights in (search.Weights(), search.Weights(0.1), search.Weights(0.1, 0.5)):
        monkeypatch.setattr(engine, "weights", weights)
        sums = cosines[0] + weights.words * words[0]
        first = np.argsort(-sums, kind="stable")[: engine.depth]
        sums = sums[first] + weights.reranker * gains[first]
        hits = engine.search(query, k=7)
        order = np.argsort(-sums, kind="stable")[:7]
        assert [hit.product_id for hit in hits] == [engine.ids[row] for row in first[order]]
        np.testing.assert_allclose([hit.score for hit in hits], sums[order], rtol=1e-6)


def test_engine_answers_with_the_best_first(engine):
    hits = engine.search(engine.titles[0], k=5)
    assert len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.product_id for hit in hits}) == 5
    assert engine.search("zzzz qqqq", k=3)  # vectors answer where words do not


def test_an_index_with_the_teacher_gives_what_the_teacher_gives(smoke, folders, tmp_path):
    profile, data, _ = smoke
    engine = search.load(search.build("shop", profile, tmp_path / "served", with_teacher=True))
    pairs = data["test"].select(range(8))
    chances = judge.predict(folders["teacher"], pairs, profile)
    expected = metrics.expected_gain(chances, judge.gains(pairs))
    found = engine.shadow(pairs["query"], sources.product_text(pairs[:]))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no engine\.json in it"):
        search.load(tmp_path)


@pytest.mark.parametrize(
    ("other", "more", "first"),
    [("a", 0.0, False), ("z", 0.0, True), ("a", 1e-9, True), ("z", 1e-9, True)],
)
def test_all_measures_of_a_list_see_one_order(other, more, first):
    """Equal scores go by product_id, and scores that are nearly equal are not equal."""
    judged = pd.DataFrame({"query_id": "q", "product_id": ["p"], "esci_label": "E"})
    rows = [("q", other, 1.0), ("q", "p", 1.0 + more)]
    for given in (rows, rows[::-1]):
        found = pd.DataFrame(given, columns=["query_id", "product_id", "score"])
        values = metrics.retrieval(found, judged, GAINS)
        assert values["mrr@10"] == (1.0 if first else 0.5)
        assert values["ndcg@10"] == pytest.approx(1.0 if first else 0.6309, abs=1e-4)


def test_retrieval_refuses_scores_that_are_texts():
    judged = pd.DataFrame({"query_id": "q", "product_id": ["p"], "esci_label": "E"})
    found = pd.DataFrame({"query_id": "q", "product_id": ["p"], "score": ["1.0"]})
    with pytest.raises(ValueError, match="give numbers"):
        metrics.retrieval(found, judged, GAINS)
