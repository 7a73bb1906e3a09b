"""Search by words at its best: spelling by hand, signals against the plain ones, a typo mended."""

import datasets
import numpy as np
import pytest
import tiny_models
from datasets import Dataset

from ecomkd import metrics, words
from ecomkd.data.schema import TEXT
from ecomkd.relevance import baselines, judge, lexical
from ecomkd.relevance.fusion import choose_fusion

KNOWN = words.spelling(
    ["steel lamp", "oak desk with drawers", "desk lamp", "red dusk 90cm", "lamp"]
)


def shop(*rows: tuple[str, str, str]) -> Dataset:
    """Pairs of a query, a title and a label, each of another product."""
    pairs = [
        {name: "" for name in TEXT}
        | {"query_id": query, "query": query, "product_id": f"p{number}", "product_title": title}
        | {"label": label}
        for number, (query, title, label) in enumerate(rows)
    ]
    return Dataset.from_list(pairs).cast_column("label", tiny_models.CLASSES)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lqmp", "lamp"),  # a letter changed,
        ("lmp", "lamp"),  # dropped,
        ("laamp", "lamp"),  # added,
        ("lapm", "lamp"),  # and swapped with its neighbour
        ("stele", "steel"),
        ("drrawwers", "drawers"),  # a long word may be two edits away,
        ("dsekk", "dsekk"),  # a short one may not,
        ("oka", "oak"),
        ("lp", "lp"),  # and one of two letters may not be one away
        ("eamp", "eamp"),  # the first letter has to agree
        ("dask", "desk"),  # as near as "dusk", and in two texts instead of one
        ("drawer", "drawer"),  # another form of a word that is there
        ("desk", "desk"),
        ("dusk", "dusk"),  # a word of the vocabulary is not mended, however rare
        ("wjth", "wjth"),  # nothing is near: stop words are no words of the catalogue
        ("with", "with"),
        ("80cm", "80cm"),  # a size is no slip
        ("Lqmp, STEEL!", "lamp, steel!"),
        ("", ""),
    ],
)
def test_spelling(typed, meant):
    assert words.mended(KNOWN, typed) == meant


def test_equally_near_and_frequent_words_go_by_the_alphabet():
    assert words.mended(words.spelling(["bold", "bald"]), "bild") == "bald"
    assert words.mended(words.spelling(["bald", "bold", "bold"]), "bild") == "bold"


def test_nothing_is_mended_into_a_catalogue_without_words():
    assert words.mended(words.spelling(["the", "!"]), "lqmp") == "lqmp"


def edits(a: str, b: str) -> int:
    """Optimal string alignment, cell by cell, as the textbook has it."""
    table = np.add.outer(np.arange(len(a) + 1), np.arange(len(b) + 1))
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            ways = [table[i - 1, j] + 1, table[i, j - 1] + 1]
            ways.append(table[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                ways.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(ways)
    return table[len(a), len(b)]


def test_edits_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    drawn = ["".join(rng.choice(list("abc"), size)) for size in rng.integers(1, 7, 120)]
    for word in drawn[:12]:
        for size in range(1, 7):
            others = [other for other in drawn if len(other) == size]
            letters = np.array([words._points(other) for other in others]).T
            found = words._edits(words._points(word), letters)
            assert found.tolist() == [min(3, edits(word, other)) for other in others]


PAIRS = tiny_models.pairs(60, seed=3)


def test_signals_are_the_plain_ones_where_every_word_is_known():
    query = [" ".join(query.split()[1:]) + " lamp lamp" for query in PAIRS["query"]]
    pairs = PAIRS.remove_columns("query").add_column("query", query)
    found = lexical.lexical_signals(pairs)(pairs)
    assert found.shape == (60, len(lexical.LEXICAL))
    np.testing.assert_allclose(found[:, 0], baselines.bm25_scores(pairs, pairs), rtol=1e-5)
    # These pairs have no text but the title.
    np.testing.assert_allclose(found[:, 2], found[:, 0], rtol=1e-5)
    cosine = baselines._cosine_of_words(
        list(pairs["product_title"]), analyzer="char_wb", ngram_range=(3, 5)
    )
    np.testing.assert_allclose(found[:, 1], cosine(query, list(pairs["product_title"])))


def test_products_that_the_catalogue_lacks_are_indexed_as_well():
    signals = lexical.lexical_signals(PAIRS.select(range(20)))
    whole = lexical.lexical_signals(PAIRS)
    np.testing.assert_array_equal(signals(PAIRS), whole(PAIRS))
    assert not np.array_equal(signals(PAIRS.select(range(20))), whole(PAIRS.select(range(20))))


def test_each_pair_is_scored_by_its_own_text():
    """A product may have had another title when another pair was judged."""
    those = PAIRS.select(range(20))
    alone = lexical.lexical_signals(PAIRS)(PAIRS)
    one = those.remove_columns("product_id").add_column("product_id", ["p"] * 20)
    rest = PAIRS.select(range(20, 60))
    found = lexical.lexical_signals(rest)(datasets.concatenate_datasets([one, rest]))
    # The catalogue has the same texts, whoever they are of.
    np.testing.assert_allclose(found, alone, rtol=1e-12)


def test_pairs_are_multiplied_part_by_part(monkeypatch):
    whole = lexical.lexical_signals(PAIRS)(PAIRS)
    monkeypatch.setattr(lexical, "_PAIRS", 7)
    np.testing.assert_array_equal(lexical.lexical_signals(PAIRS)(PAIRS), whole)


def summed(pairs):
    """The sum of all that words say, with weights that these very pairs choose, and its scores."""
    signals = lexical.lexical_signals(pairs)(pairs)
    chosen = choose_fusion("z", signals, pairs)
    return chosen, chosen.scores(signals, pairs["query_id"])


def test_a_typo_is_found_by_words_at_their_best_alone():
    asked = [("lqmp", "lamp"), ("tqble", "table"), ("sofaa", "sofa"), ("mirrro", "mirror")]
    rows = [
        (typed, f"oak {title}", "E" if title == meant else "I")
        for typed, meant in asked
        for _, title in asked
    ]
    pairs = shop(*rows)
    chosen, scores = summed(pairs)
    assert not baselines.bm25_scores(pairs, pairs).any()
    found = metrics.ranking(judge.frame(pairs, scores), judge.gains(pairs))
    assert found["ndcg@10"] == 1.0
    assert chosen.kind == "z" and len(chosen.weights) == len(lexical.LEXICAL)


@pytest.mark.parametrize("title", ["the", "a", "!"], ids=["stop word", "letter", "mark"])
def test_titles_without_a_word(title):
    pairs = shop(*[("lamp", title, "E"), ("lamp", title, "I"), ("desk", title, "E")])
    _, scores = summed(pairs)
    assert np.isfinite(scores).all()


TOLD = ["Steel lamp, a lamp for desks", "oak desk", "The", "desk lamps of steel", "lamp lamp lamp"]


def test_a_text_by_itself_adds_what_the_index_of_all_has_for_it():
    index, known = words.bm25(TOLD), words.statistics(iter(TOLD))
    assert known.numbers == index.numbers
    for row, text in enumerate(TOLD):
        own = np.zeros(len(index.numbers))
        numbers, adds = words.added(known, text)
        assert (numbers.dtype, adds.dtype) == (np.int32, np.float32)
        own[numbers] = adds
        for word, number in index.numbers.items():
            assert own[number] == pytest.approx(words.bm25_of(index, word)[row], abs=1e-6)


def drawn_texts() -> list[str]:
    rng = np.random.default_rng(0)
    known = [f"{name}{number}" for number in range(40) for name in ("lamp", "desk", "shoe")]
    return [" ".join(rng.choice(known, rng.integers(0, 30))) for _ in range(300)]


@pytest.mark.parametrize("rows", [7, 1_000])
@pytest.mark.parametrize("texts", [TOLD, ["The"], drawn_texts()])
def test_an_index_tells_of_its_texts_what_counting_them_again_tells(texts, rows, monkeypatch):
    monkeypatch.setattr(words, "_ROWS", rows)
    index, counted = words.bm25(texts), words.statistics(texts)
    known = words.statistics_of(index, texts)
    assert (known.numbers, known.length) == (counted.numbers, counted.length)
    assert known.idf.tobytes() == counted.idf.tobytes()
    found = list(words.entries(index))
    assert len(found) == len(texts)
    for text, own in zip(texts, found, strict=True):
        again = words.added(counted, text)
        assert [part.dtype for part in own] == [part.dtype for part in again]
        assert [part.tobytes() for part in own] == [part.tobytes() for part in again]


def test_a_query_and_a_text_have_the_bm25_of_the_index():
    index, known = words.bm25(TOLD), words.statistics(TOLD)
    numbers, often = words.asked(known, "lamp unheard lamps steel")
    assert sorted(often.tolist()) == [1.0, 2.0]
    for row, text in enumerate(TOLD):
        adds = dict(zip(*(part.tolist() for part in words.added(known, text)), strict=True))
        found = sum(n * adds.get(w, 0) for w, n in zip(numbers.tolist(), often, strict=True))
        expected = words.bm25_of(index, "lamp unheard lamps steel")[row]
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_new_text_has_the_idf_of_the_old_ones_and_unknown_words_add_nothing():
    known = words.statistics(TOLD)
    numbers, adds = words.added(known, "brass desk")
    assert numbers.tolist() == [known.numbers["desk"]]
    # Two words, of which one is known: as long as "oak desk", which has it once, too.
    old = dict(zip(*words.added(known, "oak desk"), strict=True))
    assert adds.tolist() == [old[known.numbers["desk"]]]
    assert len(words.added(words.statistics([]), "oak")[0]) == 0
