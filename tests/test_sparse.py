"""The sparse student: what it weighs, how it learns and is kept, and the posting lists of it."""

import json

import numpy as np
import pytest
import tiny_models
import torch
from datasets import DatasetDict
from scipy import sparse as matrices
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer

from ecomkd import search, words
from ecomkd.search import sparse

TEXTS = ["red shoe", "blue shoe small", "green lamp", "large lamp wool", "tea pot", "steel mug"]
QUERIES = ["red shoe", "lamp", "tea mug", "blue", "nothing known", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bi-encoder over a few words, whose tokens have random states of their own."""
    root = tmp_path_factory.mktemp("sparse")
    model = tiny_models.bert(layers=0, dropout=0.0).base_model
    for table in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
        torch.nn.init.zeros_(table.weight)
    tiny_models.save(model, root / "bert")
    parts = [Transformer(str(root / "bert"))]
    parts += [Pooling(parts[0].get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(root / "start"))
    return root / "start"


@pytest.fixture
def student(folder, tmp_path):
    model = search.encoder(folder, tiny_models.profile(tmp_path))
    return search.SparseStudent(model, sparse.untrained_head(model, TEXTS))


def trained(student, wanted, penalty=0.0, kept=None) -> None:
    """Train the student's head to rank the texts for the queries as `wanted` (Q, N) has it.

    So few texts begin with no piece but their own; a bias of 0 gives them others to learn from.
    """
    with torch.no_grad():
        student.head.bias.zero_()
    states = sparse.token_states(student.encoder, TEXTS)
    asked = sparse.piece_counts(student.encoder, QUERIES)
    sparse.fit(student.head, states, asked, lambda rows: wanted[rows], 0, penalty, kept)


def scores(student) -> np.ndarray:
    return (student.queries(QUERIES) @ student.documents(TEXTS).T).toarray()


@pytest.fixture
def wanted():
    """A teacher whose favourites have nothing to do with the words."""
    return np.random.default_rng(0).permutation(36).reshape(6, 6).astype(np.float32) / 36


def test_a_product_holds_what_its_nearest_token_gives(student):
    """Against the definition, one product, piece and token at a time."""
    found = student.documents(TEXTS).toarray()
    states = sparse.token_states(student.encoder, TEXTS).float()
    head = student.head
    for row in range(len(TEXTS)):
        for piece in student.terms:
            mapped, bias = head.pieces[piece] @ head.map.detach(), head.bias[piece].item()
            near = max(float(state @ mapped) for state in states[row])
            expected = np.log1p(max(0.0, near + bias))
            assert found[row, piece] == pytest.approx(expected, abs=1e-4)
    assert 0 < np.count_nonzero(found) < found.size


def test_no_product_holds_a_special_token(student):
    with torch.no_grad():
        student.head.bias.fill_(5.0)
    held = student.documents(TEXTS).toarray().any(axis=0)
    specials = student.encoder.tokenizer.all_special_ids
    assert not held[specials].any() and held.sum() == len(student.terms) == held.size - len(
        specials
    )


def test_a_shorter_text_is_not_changed_by_a_longer_one_beside_it(student):
    alone = student.documents(TEXTS[:1]).toarray()
    beside = student.documents([TEXTS[0], " ".join(tiny_models.WORDS)]).toarray()
    np.testing.assert_allclose(alone[0], beside[0], atol=2e-3)  # states have half precision


def test_the_states_are_the_same_however_many_texts_are_read_at_a_time(student, monkeypatch):
    whole = sparse.token_states(student.encoder, TEXTS)
    monkeypatch.setattr(sparse, "_TEXTS", 2)
    sliced = sparse.token_states(student.encoder, TEXTS)
    assert whole.shape == sliced.shape == (len(TEXTS), 3, whole.shape[2])
    torch.testing.assert_close(sliced, whole)


def test_a_query_runs_no_network(student, monkeypatch):
    """It is a look-up: idf times a factor, for each piece as often as it stands there."""

    def refuse(*_, **__):
        raise AssertionError("a network was run")

    monkeypatch.setattr(SentenceTransformer, "encode", refuse)
    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    found = student.queries(["lamp lamp tea", ""]).toarray()
    lamp, tea = student.encoder.tokenizer.convert_tokens_to_ids(["lamp", "tea"])
    idf = [np.log(1 + (6 - n + 0.5) / (n + 0.5)) for n in (2, 1)]
    assert found[0, [lamp, tea]].tolist() == pytest.approx([2 * idf[0], idf[1]])
    assert np.count_nonzero(found[0]) == 2 and not found[1].any()


def test_posting_lists_serve_the_same_scores(student):
    index = student.postings(student.documents(TEXTS))
    pieces = Tokenizer.from_str(student.encoder.tokenizer.backend_tokenizer.to_str())
    pieces.no_padding()
    served = [
        words.term_sums(index, pieces.encode(query, add_special_tokens=False).tokens)
        for query in QUERIES
    ]
    np.testing.assert_allclose(served, scores(student), atol=1e-5)
    assert np.any(served)


def test_distillation_moves_the_order_to_the_teachers(student, wanted, monkeypatch):
    monkeypatch.setattr(sparse, "_PASSES", 150)
    monkeypatch.setattr(sparse, "_RATES", (1e-2, 3e-2))

    def agreement() -> float:
        both = zip(scores(student)[:4], wanted, strict=False)
        return float(np.mean([np.corrcoef(found, row)[0, 1] for found, row in both]))

    before = agreement()
    trained(student, wanted)
    assert agreement() > before + 0.3


def test_the_penalty_makes_products_sparser(folder, tmp_path, wanted, monkeypatch):
    monkeypatch.setattr(sparse, "_PASSES", 60)
    monkeypatch.setattr(sparse, "_RATES", (1e-2, 3e-2))
    held = []
    for penalty in (0.0, 30.0):
        model = search.encoder(folder, tiny_models.profile(tmp_path))
        student = search.SparseStudent(model, sparse.untrained_head(model, TEXTS))
        trained(student, wanted, penalty)
        held.append(student.documents(TEXTS).nnz)
    assert held[1] < 0.7 * held[0]


def test_no_factor_of_the_query_evades_the_penalty(student):
    """The same scores cost the same, however the two sides share them."""
    states, chosen = sparse.token_states(student.encoder, TEXTS).float(), torch.arange(6, 12)
    counts, wanted = torch.ones(2, 6), torch.zeros(2, 6)

    def penalties() -> float:
        losses = [
            search.sparse_loss(student.head, states, counts, chosen, wanted, penalty).item()
            for penalty in (0.0, 1.0)
        ]
        return losses[1] - losses[0]

    once = penalties()
    with torch.no_grad():
        student.head.log_factor += np.log(2)
    assert penalties() == pytest.approx(4 * once, rel=1e-4) and once > 0


def test_without_expansion_a_product_holds_its_own_pieces_alone(student, wanted):
    kept = sparse.own_pieces(student.encoder, TEXTS)
    trained(student, wanted, kept=kept)
    plain = search.SparseStudent(student.encoder, student.head, expands=False)
    held = plain.documents(TEXTS)
    assert held.nnz > 0 and held.nnz == held.multiply(kept > 0).nnz
    assert student.documents(TEXTS).nnz > held.nnz


def test_a_sparse_student_is_made_once_and_loads_as_it_was(folder, tmp_path, monkeypatch):
    profile, data = tiny_models.profile(tmp_path), tiny_models.shop()
    catalogue = data["test"].select_columns(
        [name for name in data["test"].column_names if name.startswith("product_")]
    )
    made, fit = [], sparse.fit

    def fitted(head, *given, **options):
        fit(head, *given, **options)
        made.append(head)

    monkeypatch.setattr(sparse, "fit", fitted)
    monkeypatch.setattr(sparse, "weights_on", lambda *_: search.Weights(0.1))
    place = search.sparse_encoder(data, catalogue, profile, folder)
    student = search.load_sparse(place, profile)
    same = search.SparseStudent(search.encoder(folder, profile), made[0])
    for texts in (TEXTS, QUERIES):
        np.testing.assert_array_equal(
            student.documents(texts).toarray(), same.documents(texts).toarray()
        )
        np.testing.assert_array_equal(
            student.queries(texts).toarray(), same.queries(texts).toarray()
        )
    assert search.sparse_encoder(data, catalogue, profile, folder) == place and len(made) == 1
    less = DatasetDict({**data, "unlabelled": data["unlabelled"].select(range(4))})
    assert search.sparse_encoder(less, catalogue, profile, folder) != place
    assert json.loads((place / "sparse.json").read_text()) == {"expands": True}
    assert isinstance(student.documents(TEXTS), matrices.csr_matrix)


def test_the_teacher_is_a_sum_with_the_weight_that_validation_prefers(folder, tmp_path):
    """Where products are found by their words alone, words count; the sum is by hand."""
    profile, data = tiny_models.profile(tmp_path), tiny_models.shop()
    catalogue = data["test"].select_columns(
        [name for name in data["test"].column_names if name.startswith("product_")]
    )
    texts = list(catalogue["product_title"])
    pairs = data["validation"].select(range(4))
    best = [{"query": text, "query_id": text} for text in texts[:4]]
    columns = {name: [one[name] for one in best] for name in ("query", "query_id")}
    columns |= {name: catalogue[name][:4] for name in catalogue.column_names}
    columns["label"] = [0] * 4
    pairs = type(pairs).from_dict(columns).cast_column("label", pairs.features["label"])
    model = search.encoder(folder, profile)
    answers = sparse.whole_search(model, pairs, catalogue, QUERIES)
    cosines = model.encode(QUERIES) @ model.encode(texts).T
    added = answers(np.arange(6)) - cosines
    bm25 = search.word_scores(words.bm25(texts), QUERIES)
    weight = added[bm25 > 0] / bm25[bm25 > 0]
    assert np.allclose(weight, weight[0], atol=1e-4)
    assert min(abs(float(weight[0]) - known) for known in search.WORDS) < 1e-4
