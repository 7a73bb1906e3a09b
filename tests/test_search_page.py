"""The page that searches: its data file, and that its script computes what Python does."""

import base64
import itertools
import json
import math
import re
import shutil
import sys
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import normalizers

from book.common import pages
from book.render import page_data
from ecomkd import load, metrics, models, report, search, words
from ecomkd.config import Profile
from ecomkd.data import sources, truth
from ecomkd.relevance import judge
from ecomkd.search import page as search_page
from ecomkd.search.retrieve import token_means
from measure_search_page import bm25_scores, static_scores

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "book" / "_static" / "search.js"
BUILT = ROOT / "_build" / "stored" / "_build" / "html"
PAGE = "book/search_page"
PROSE = ROOT / f"{PAGE}.md"
BARE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>bare</title><h1>bare</h1>
<div id="search-page"></div><script src="search_data.js"></script><script src="search.js"></script>
"""
WIDTH = 24
GAINS = [1.0, 0.1, 0.01, 0.0]
ODD = [
    "",
    " ",
    " \t\n\r ",
    "\u200b",
    "\x00\x07\x1b",
    "沙发",
    "沙发 cover 沙发套",
    "ソファー カバー",
    "がぎぐ ﾊﾝｶｸ",
    "소파 커버",
    "한글",
    "㐀𠀀豈",
    "👍",
    "👩\u200d👩\u200d👧 sofa",
    "👍🏽 👍🏿 mug",
    "🇩🇪 flag",
    "1️⃣ 2️⃣",
    "cafe\u0301 crème brûlée",
    "e\u0301\u0302\u0303\u0328",
    "naïve Ångström ÅNGSTRÖM",
    "ﬁne ﬂask ½ ² Ⅷ",
    "ΣΑΣ ΟΔΥΣΣΕΥΣ",
    "ὈΔΥΣΣΕΎΣ",
    "İstanbul ISPARTA ıspanak",
    "STRASSE straße ẞ",
    "Ǆungla ǅ ǆ",
    "Привет ЁЛКА ёлка",
    "שָׁלוֹם עוֹלָם",
    "السَّلامُ عليكم",
    "नमस्ते दुनिया",
    "ภาษาไทย",
    "ᜃ᜴ tagalog",
    "so\u200bfa so\u00adfa so\ufefffa",
    "so\u2060fa\u200d co\u200cver",
    "tab\tnew\nline\rreturn\x0bvertical\x0cform\x85next",
    "non\u00a0breaking\u2003em\u3000wide\u2028line",
    "\ufffd replacement \ue000 private \U000f0000",
    "x" * 100,
    "x" * 101,
    "é" * 100 + " " + "é" * 101,
    "e\u0301" * 101,
    "𐐀" * 100,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "sofa!!! ... ??? --- ___",
    "<b>sofa</b> & \"quotes\" 'single' `tick`",
    "$5 €5 £5 ¥5 5% 5° ±5 5×5",
    "«guillemets» “curly” ‘curly’ „low“ … – —",
    "、。「」・ ！？（）",
    "C:\\path\\file ~/home a|b a^b {x} [y]",
    "0 1 12 123 1234567890 3.14 1,000 10-12",
    "120cm 2x4 18V 6500K A4 M8x40",
    "[UNK] [CLS]sofa[SEP] [MASK] [PAD]",
    "[unk] [Cls] [unused0] ##sofa # ##",
    "sofa sofa sofa blue",
    "a" * 3000,
    "red " * 300,
    "zzzz qqqq xjxjxj",
    "ᾳ ᾼ ŉ ǰ ΐ",
    "\u0344 \u0f73 \u1d15e",
    "\U0001d7ce\U0001d400 ℌ 𝒜",
]


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Profile:
    return Profile.named("smoke", artifacts=tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def catalogue(profile) -> Dataset:
    return sources.catalogue("shop", profile)


@pytest.fixture(scope="module")
def products(catalogue) -> list[str]:
    return sources.product_text(catalogue[:])


@pytest.fixture(scope="module")
def shop_queries(profile) -> list[str]:
    splits = sources.load("shop", profile).values()
    return list(dict.fromkeys(query for split in splits for query in split["query"]))


@pytest.fixture(scope="module")
def queries(shop_queries) -> list[str]:
    mixed = [f"{query}, {odd}" for query, odd in zip(shop_queries, ODD, strict=False)]
    texts = list(dict.fromkeys([*ODD, *mixed, *shop_queries]))[:200]
    assert len(texts) == 200
    return texts


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("minilm")


@pytest.fixture(scope="module")
def vectors(tokenizer) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(tokenizer), WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def samples(shop_queries) -> dict[str, list[int]]:
    rng = np.random.default_rng(1)
    return {query: rng.permutation(200)[:10].tolist() for query in shop_queries[:5]}


@pytest.fixture(scope="module")
def labels(samples) -> dict[str, np.ndarray]:
    """Of two of the samples; for the second of them, one product is exact and no other."""
    classes = np.random.default_rng(2).integers(0, 4, 200)
    _, second, third, *_ = samples
    return {second: classes, third: np.where(np.arange(200) == 7, 0, np.maximum(classes, 1))}


@pytest.fixture(scope="module")
def data_file(tmp_path_factory, tokenizer, vectors, catalogue, samples, labels) -> Path:
    path = tmp_path_factory.mktemp("search") / "search_data.js"
    return search_page.write(path, tokenizer, vectors, catalogue, samples, labels, GAINS)


@pytest.fixture(scope="module")
def bare(tmp_path_factory, data_file) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    shutil.copy(SCRIPT, folder)
    shutil.copy(data_file, folder)
    (folder / "index.html").write_text(BARE, "utf-8")
    return folder / "index.html"


# In Python --------------------------------------------------------------------------------------


def test_a_row_is_rounded_to_one_byte_a_number():
    vectors = np.random.default_rng(3).normal(size=(50, 7)) * np.logspace(-6, 6, 50)[:, None]
    vectors[4] = 0
    rows, scales = search_page.quantise(vectors)
    assert rows.dtype == np.int8
    assert scales.dtype == np.float32
    assert (np.abs(rows).max(axis=1) == np.where(np.arange(50) == 4, 0, 127)).all()
    error = np.abs(rows * scales[:, None].astype(float) - vectors)
    assert (error <= 0.5001 * scales[:, None]).all()


@pytest.mark.parametrize("wrong", [np.array([[1.0, np.nan]]), np.ones(3), np.ones((2, 2, 2))])
def test_only_a_table_of_finite_numbers_is_rounded(wrong):
    with pytest.raises(ValueError, match="give one row per token"):
        search_page.quantise(wrong)


def test_the_vectors_are_those_of_a_static_embedding(tokenizer, queries):
    table = np.random.default_rng(4).integers(-126, 127, (len(tokenizer), 8)).astype(np.float32)
    table[:, 0] = 127  # so that the scale is 1 and rounding changes nothing
    texts = [query for query in queries if search_page.token_ids([query], tokenizer)[0]]
    short = [text for text in texts if len(search_page.token_ids([text], tokenizer)[0]) <= 128]
    encoder = StaticEmbedding(models.load_tokenizer("minilm"), embedding_weights=table)
    wanted = encoder(encoder.preprocess(short))["sentence_embedding"].detach().numpy()
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(token_means(search_page.token_ids(short, tokenizer), table), wanted)
    cosines = static_scores(short, short, tokenizer, table)
    assert np.allclose(cosines, wanted @ wanted.T, atol=0.02)


def test_a_text_without_tokens_scores_nothing(tokenizer, vectors):
    texts = ["", "\u200b", "lamp"]
    assert (static_scores(texts, texts, tokenizer, vectors) != 0).tolist() == [
        [False, False, False],
        [False, False, False],
        [False, False, True],
    ]
    assert (bm25_scores(texts, texts, tokenizer) != 0).sum() == 1
    assert static_scores([], texts, tokenizer, vectors).shape == (0, 3)
    assert bm25_scores([], texts, tokenizer).shape == (0, 3)


def test_bm25_by_hand(tokenizer):
    scores = bm25_scores(["red lamp lamp"], ["red lamp lamp", "lamp", "mug"], tokenizer)
    mean = 5 / 3

    def part(count, having, length):
        rarity = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        return rarity * count / (1.5 * (0.25 + 0.75 * length / mean) + count)

    first = part(1, 1, 3) + 2 * part(2, 2, 3)
    assert np.allclose(scores, [[first, 2 * part(1, 2, 1), 0]], atol=1e-6)


def test_the_file_is_one_assignment_in_ascii(data_file, catalogue, samples, labels):
    text = data_file.read_text("ascii")
    assert text.startswith("window.ecomkdSearch = {")
    data = json.loads(text.removeprefix("window.ecomkdSearch = ").removesuffix(";\n"))
    assert data["products"]["ids"] == list(catalogue["product_id"])
    assert {sample["query"]: sample["teacher"] for sample in data["samples"]} == samples
    assert data["gains"] == GAINS
    known = {one["query"]: one["labels"] for one in data["samples"] if "labels" in one}
    assert known.keys() == labels.keys()
    for query, rows in known.items():
        assert [labels[query][part].tolist() for part in rows] == [
            [label] * len(part) for label, part in enumerate(rows)
        ]
        assert sum(map(len, rows)) == (labels[query] < 3).sum()


def test_bad_input_is_named_and_the_old_file_stays(tmp_path, tokenizer, vectors, catalogue):
    path = tmp_path / "search_data.js"
    path.write_text("old")

    def fails(match, *, table=vectors, rows=catalogue, samples=None, cutter=tokenizer, **labels):
        with pytest.raises(ValueError, match=match):
            search_page.write(path, cutter, table, rows, samples or {}, **labels)

    fails("30521 token vectors for a vocabulary of 30522", table=vectors[1:])
    fails("the catalogue has no products", rows=catalogue.select([]))
    fails("'lamp' names row 200, and .* rows are 0 to 199", samples={"lamp": [200]})

    def labelled(match, query, classes, gains=GAINS):
        fails(match, samples={"lamp": [1]}, labels={query: classes}, gains=gains)

    labelled("199 labels of 'lamp': .* 200 products", "lamp", np.zeros(199, int))
    labelled("200 labels of 'lamp': give one from 0 to 3", "lamp", np.arange(200))
    labelled("'mug', which is not a sample", "mug", np.zeros(200, int))
    labelled("nothing is exact for 'lamp'", "lamp", np.ones(200, int))
    labelled("four gains, those of E, S, C and I", "lamp", np.zeros(200, int), gains=())
    fails("more than 6,000,000: take fewer", table=np.tile(vectors, 6))
    cased = models.load_tokenizer("minilm")
    cased.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    fails("this tokenizer keeps them", cutter=cased)
    cased.backend_tokenizer.normalizer = normalizers.NFC()
    fails("this tokenizer's normalizer is another one", cutter=cased)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# In a browser -----------------------------------------------------------------------------------


@contextmanager
def tab_of(browser, page: Path, data: Path | None = None, fails: bool = False, **options):
    """A tab that shows `page`, with `data` in place of its data file; faults are errors."""
    context = browser.new_context(offline=True, **options)
    context.set_default_timeout(60_000)
    tab = context.new_page()
    faults, outside = [], []
    tab.on("console", lambda line: line.type == "error" and faults.append(line.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or outside.append(request.url),
    )
    if data is not None:
        tab.route("**/search_data.js", lambda route: route.fulfill(path=data))
    tab.goto(page.as_uri(), wait_until="load")
    yield tab
    context.close()
    assert bool(faults) == fails, faults
    assert not outside


def test_the_script_computes_what_python_does(browser, bare, tokenizer, vectors, queries, products):
    with tab_of(browser, bare) as tab:
        found = tab.evaluate(
            """texts => {
              const ranker = window.ecomkdRanker, index = ranker.open(window.ecomkdSearch);
              return texts.map(text => {
                const ids = ranker.tokenise(index, text);
                return [ids, [...ranker.cosines(index, ranker.embed(index, ids))],
                        [...ranker.bm25(index, ids)]];
              });
            }""",
            queries,
        )
    ids, cosines, words = zip(*found, strict=True)
    wanted = search_page.token_ids(queries, tokenizer)
    assert {text: row for text, row in zip(queries, ids, strict=True)} == {
        text: row for text, row in zip(queries, wanted, strict=True)
    }
    static = static_scores(queries, products, tokenizer, vectors)
    assert np.abs(np.array(cosines) - static).max() < 1e-3
    lexical = bm25_scores(queries, products, tokenizer)
    assert np.abs(np.array(words) - lexical).max() < 1e-3
    assert np.abs(static).max() > 0.5 and lexical.max() > 1


def test_the_script_cuts_at_every_character_as_python_does(browser, bare, tokenizer):
    everything = set(map(chr, range(sys.maxunicode)))
    # It decomposes since Unicode 13, and the tokenizer is older than that.
    everything.remove("\U00011938")
    known = [each for each in everything if unicodedata.category(each) not in ("Cn", "Cs")]
    text = "\n".join(f"x{each}Y {each}" for each in sorted(known))
    backend = tokenizer.backend_tokenizer
    normal = backend.normalizer.normalize_str(text)
    wanted = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
    with tab_of(browser, bare) as tab:
        found = tab.evaluate(
            "text => ecomkdRanker.words(ecomkdRanker.open(ecomkdSearch), text).join('\\n')", text
        ).split("\n")
    wrong = [pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]]
    assert not wrong, wrong[:5]
    assert len(found) == len(wanted)


def shown(tab, name: str) -> list[str]:
    """The ids of the products under a heading."""
    items = tab.get_by_role("region", name=name).locator("ol > li")
    return items.evaluate_all("items => items.map(item => item.dataset.product)")


def test_a_keystroke_ranks(browser, bare, tokenizer, vectors, products, catalogue):
    ids = np.array(catalogue["product_id"])
    with tab_of(browser, bare) as tab:
        query = tab.get_by_role("searchbox", name="Query")
        assert tab.get_by_role("heading", level=3).count() == 0
        for letters in ("c", "cu", "cutting board"):
            query.fill(letters)
            static = static_scores([letters], products, tokenizer, vectors)[0]
            assert shown(tab, "Static student") == ids[np.argsort(-static)[:10]].tolist()
            lexical = bm25_scores([letters], products, tokenizer)[0]
            best = dict(zip(ids, lexical, strict=True))
            scores = [best[product] for product in shown(tab, "BM25")]
            positive = np.sort(lexical[lexical > 0])[::-1]
            assert np.allclose(scores, positive[:10], atol=1e-3)
        assert len(scores) == 10
        assert tab.locator(".pieces").inner_text() == "Pieces: cutting · board"
        time = tab.locator(".time").inner_text()
        assert re.match(r"200 products in \d+\.\d ms .*; \d+\.\d ms from your input", time)
        assert tab.get_by_role("region", name="Teacher").count() == 0


def test_products_of_a_sample_have_their_true_labels(browser, bare, labels, catalogue, samples):
    """The mark of each product, and nDCG of each list as Python computes it."""
    ids, letters = list(catalogue["product_id"]), "ESCI"
    gains = dict(zip(letters, GAINS, strict=True))
    with tab_of(browser, bare) as tab:
        for query, classes in labels.items():
            tab.get_by_label("Sample queries").select_option(query)
            pairs = pd.DataFrame({"query_id": "q", "product_id": ids})
            judged = pairs.assign(esci_label=[letters[label] for label in classes])
            for name in ("Static student", "BM25", "Teacher"):
                place = tab.get_by_role("region", name=name)
                rows = [ids.index(product) for product in shown(tab, name)]
                marks = place.locator("li > abbr").all_inner_texts()
                assert marks == [letters[classes[row]] for row in rows]
                ranked = pairs.iloc[rows].assign(score=-np.arange(len(rows), dtype=float))
                wanted = metrics.retrieval(ranked, judged, gains)["ndcg@10"]
                remark = place.locator("p").inner_text()
                assert remark.startswith(f"nDCG@10 {wanted:.3f}. "), (name, remark)
        tab.get_by_label("Sample queries").select_option(next(iter(samples)))
        assert tab.locator("li > abbr").count() == 0
        assert "nDCG" not in tab.locator("#search-page").inner_text()


def test_a_third_list_is_the_sum_of_both(browser, bare, tokenizer, vectors, products, catalogue):
    ids = np.array(catalogue["product_id"])
    page = bare.with_name("sum.html")
    page.write_text(BARE.replace('id="search-page"', 'id="search-page" data-words="0.5"'), "utf-8")
    with tab_of(browser, page) as tab:
        tab.get_by_role("searchbox", name="Query").fill("cutting board")
        texts = ["cutting board"]
        scores = static_scores(texts, products, tokenizer, vectors)[0]
        scores = scores + 0.5 * bm25_scores(texts, products, tokenizer)[0]
        best = dict(zip(ids, scores, strict=True))
        found = [best[product] for product in shown(tab, "Both, added up")]
        assert np.allclose(found, np.sort(scores)[::-1][:10], atol=1e-3)
    with tab_of(browser, bare) as tab:  # without a weight there is no such list
        tab.get_by_role("searchbox", name="Query").fill("board")
        assert tab.get_by_role("region", name="Both, added up").count() == 0


def test_the_weight_in_the_page_is_the_one_that_was_measured():
    measured = report.recorded("search_page")["data"]["words"]
    text = (ROOT / f"{PAGE}.md").read_text("utf-8")
    written = re.search(r'data-words="([\d.]+)"', text)[1]
    assert f"plus {written} times that of BM25" in " ".join(text.split())
    assert measured == float(written)


def test_bm25_in_the_page_is_not_shown_to_be_weaker_than_that_of_chapter_8(tmp_path):
    profile = Profile.named("book", artifacts=tmp_path)
    tested = load("shop", profile)["test"]
    catalogue, judged = sources.catalogue("shop", profile), truth.judgments(profile)
    asked = dict(zip(tested["query_id"], tested["query"], strict=True))
    queries, texts = list(asked.values()), sources.product_text(catalogue[:])

    def ndcg(rows):
        frame = search.ranked(list(asked), catalogue["product_id"], rows)
        return metrics.retrieval(frame, judged, judge.gains(tested))["per_query"]["ndcg@10"]

    scores = bm25_scores(queries, texts, models.load_tokenizer("minilm"))
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    own = ndcg(np.where(np.take_along_axis(scores, rows, 1) > 0, rows, -1))
    chapters = ndcg(search.lexical(words.bm25(texts), queries, 100)[1])
    span = metrics.paired_bootstrap(own, chapters)
    told = (
        f"Over the shop's {len(queries)} test queries it has an nDCG@10 of {own.mean():.3f} and "
        f"that of the chapter {chapters.mean():.3f}, a difference of "
    )
    told += "{difference:.3f} [{low:.3f}, {high:.3f}].".format(**span).replace("-", "−")
    assert span["low"] < 0 < span["high"]
    assert told in " ".join(PROSE.read_text("utf-8").split())


def test_the_outcome_is_spoken_once_the_typing_rests(browser, bare):
    with tab_of(browser, bare) as tab:
        spoken = tab.locator("[aria-live=polite]")
        tab.get_by_label("Query").press_sequentially("blue board")
        spoken.filter(has_text="First by the static student: ").wait_for(state="attached")
        first = (
            tab.get_by_role("region", name="BM25")
            .locator("li")
            .first.evaluate("item => item.firstChild.data")
        )
        assert first in spoken.text_content()


def test_what_is_unknown_is_said_in_words(browser, bare):
    with tab_of(browser, bare) as tab:
        query = tab.get_by_label("Query")
        for text, sentence in (
            ("👍🏽 👩‍👩‍👧", "No results: none of these words is known."),
            ("  ", "Type a query, or choose a sample."),
            ("x" * 101, "No results: none of these words is known."),
            ("", "Type a query, or choose a sample."),
        ):
            query.fill("board")
            assert tab.locator("li").first.is_visible()
            query.fill(text)
            assert tab.locator(".pieces").inner_text() == sentence
            assert not tab.locator(".lists").is_visible()
        query.fill("ψ")
        assert len(shown(tab, "Static student")) == 10
        assert shown(tab, "BM25") == []
        words = tab.get_by_role("region", name="BM25").locator("p").inner_text()
        assert words == "No product has any of these pieces."


def test_a_query_is_shown_as_text(browser, bare):
    with tab_of(browser, bare) as tab:
        tab.get_by_label("Query").fill("<img src=x onerror=alert(1)>")
        assert tab.locator("img").count() == 0
        assert "< · im" in tab.locator(".pieces").inner_text()


def test_the_keyboard_does_it_all(browser, bare, samples, catalogue):
    ids = list(catalogue["product_id"])
    sample, rows = next(iter(samples.items()))
    with tab_of(browser, bare) as tab:

        def focused() -> str:
            return tab.evaluate("document.activeElement.id || document.activeElement.tagName")

        tab.keyboard.press("Tab")
        assert focused() == "search-query"
        tab.keyboard.type("board")
        tab.keyboard.press("Enter")
        assert shown(tab, "BM25")
        tab.keyboard.press("Tab")
        assert focused() == "search-sample"
        tab.keyboard.press("ArrowDown")
        assert tab.get_by_label("Query").input_value() == sample
        assert shown(tab, "Teacher") == [ids[row] for row in rows]
        common = set(shown(tab, "Static student")) & set(shown(tab, "Teacher"))
        remark = tab.get_by_role("region", name="Static student").locator("p").inner_text()
        assert remark == f"{len(common)} of these are among the teacher's first 10."
        tab.keyboard.press("Tab")
        assert focused() not in ("search-query", "search-sample")
        tab.keyboard.press("Shift+Tab")
        tab.keyboard.press("Shift+Tab")
        assert focused() == "search-query"
        tab.keyboard.type(" x")
        assert tab.get_by_label("Sample queries").input_value() == ""
        assert tab.get_by_role("region", name="Teacher").count() == 0


MISSING = (
    "This page cannot search, for its data file _static/search_data.js is missing or cut short; "
    "build the book again."
)


@pytest.mark.parametrize("damage", ["missing", "stub", "cut", "size", "format", "base64"])
def test_missing_or_damaged_data_is_one_sentence(browser, bare, data_file, tmp_path, damage):
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "index.html").write_text(BARE, "utf-8")
    text = data_file.read_text("ascii")
    changed = {
        "stub": "window.ecomkdSearch = null;\n",
        "cut": text[: len(text) // 2],
        "size": text.replace(f'"width":{WIDTH}', f'"width":{WIDTH + 1}'),
        "format": text.replace('"format":2', '"format":0'),
        "base64": text.replace('"tokens":"', '"tokens":"*'),
    }
    if damage != "missing":
        assert changed[damage] != text
        (tmp_path / "search_data.js").write_text(changed[damage], "ascii")
    with tab_of(browser, tmp_path / "index.html", fails=damage in ("missing", "cut")) as tab:
        sentence = tab.get_by_role("alert").inner_text()
        assert tab.locator("#search-page input").count() == 0
    if damage in ("missing", "stub", "cut"):
        assert sentence == MISSING
    else:
        assert re.fullmatch(r"This page cannot .* is damaged \(.+\); build the .*\.", sentence)


def test_what_the_page_says_of_its_samples(tokenizer):
    """The mean nDCG@10 of each list, which of them differ, and that all fail at one query."""
    data = json.loads(page_data().decode().removeprefix("window.ecomkdSearch = ")[:-2])
    samples = [one for one in data["samples"] if "labels" in one]
    assert len(samples) == 39 and data["samples"][0] not in samples
    tokens = np.frombuffer(base64.b64decode(data["tokens"]), np.int8).reshape(-1, data["width"])
    table = tokens * np.frombuffer(base64.b64decode(data["scales"]), "<f4")[:, None]
    products = sources.product_text(sources.catalogue("shop", Profile.named("book"))[:])
    queries, ids = [one["query"] for one in samples], np.array(data["products"]["ids"])
    near = static_scores(queries, products, tokenizer, table)
    shared = bm25_scores(queries, products, tokenizer)
    weight = float(re.search(r'data-words="([\d.]+)"', PROSE.read_text("utf-8"))[1])
    scores = {"static student": near, "BM25": shared, "both": near + weight * shared}
    orders = {name: np.argsort(-of, axis=1, kind="stable") for name, of in scores.items()}
    orders["teacher"] = [one["teacher"] for one in samples]
    pairs = [
        (one["query"], ids[row], letter)
        for one in samples
        for letter, rows in zip("ESC", one["labels"], strict=True)
        for row in rows
    ]
    judged = pd.DataFrame(pairs, columns=["query_id", "product_id", "esci_label"])
    found = {}
    for name, rows in orders.items():
        best = [
            (query, ids[row], -rank)
            for place, query in enumerate(queries)
            for rank, row in enumerate(rows[place][:10])
            if name != "BM25" or shared[place][row] > 0
        ]
        ranked = pd.DataFrame(best, columns=["query_id", "product_id", "score"])
        gains = dict(zip("ESCI", data["gains"], strict=True))
        found[name] = metrics.retrieval(ranked, judged, gains)["per_query"]["ndcg@10"]
    means = [f"{one.mean():.2f}" for one in found.values()]
    assert (
        "the mean is {} for the static student, {} for BM25, {} for both added up, and {} for the "
        "teacher."
    ).format(*means) in " ".join(PROSE.read_text("utf-8").split())
    for one, other in itertools.combinations(found, 2):
        span = metrics.paired_bootstrap(found[one], found[other])
        assert (span["low"] <= 0 <= span["high"]) == ("BM25" not in (one, other))
    assert all(one["good cagoule"] < 0.01 for one in found.values())  # none of them is exact
    exact = judged[judged["query_id"] == "good cagoule"]["esci_label"]
    answers = set(judged.loc[exact.index[exact == "E"], "product_id"])
    cagoule = queries.index("good cagoule")
    assert not any(answers & set(ids[rows[cagoule][:10]]) for rows in orders.values())
    assert (exact == "E").sum() == 40 and not any("cagoule" in text.lower() for text in products)
    assert (shared[queries.index("good cagoule")] == 0).all()
    flask = queries.index("hot soup jug for travel")
    for name, rows in orders.items():
        assert found[name][queries[flask]] == 0
        assert "water jug" in data["products"]["titles"][rows[flask][0]].lower()


# In the book ------------------------------------------------------------------------------------

built = pytest.mark.skipif(
    not (BUILT / f"{PAGE}.html").exists(),
    reason="the book has no such page, or is not rendered",
)


@built
def test_two_pages_load_it():
    written = {page: (BUILT / f"{page}.html").read_text("utf-8") for page in pages()}
    file = "_static/search_data.js"
    assert [page for page, html in written.items() if file in html] == ["index", PAGE]


@built
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (375, "light"), (375, "dark")]
)
def test_the_page_of_the_book(browser, data_file, samples, width, scheme):
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = BUILT / f"{PAGE}.html"
    with tab_of(browser, page, data_file, reduced_motion="reduce", **view) as tab:
        place = tab.locator("#search-page")
        query = place.get_by_role("searchbox", name="Query")
        query.focus()
        assert query.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        place.get_by_label("Sample queries").select_option(next(iter(samples)))
        lists = place.get_by_role("region")
        assert [region.get_attribute("aria-labelledby") for region in lists.all()] == [
            "search-student", "search-bm25", "search-sum", "search-teacher",
        ]  # fmt: skip
        assert all(lists.nth(place).locator("li").count() == 10 for place in (0, 2, 3))
        left = {round(region.bounding_box()["x"]) for region in lists.all()}
        assert len(left) == (1 if width == 375 else 3)
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
        wider = place.locator("*").evaluate_all(
            "nodes => nodes.filter(node => node.getBoundingClientRect().right > innerWidth).length"
        )
        assert wider == 0
        moving = place.locator("*").evaluate_all(
            """nodes => nodes.map(node => getComputedStyle(node)).filter(style =>
                style.transitionDuration !== "0s" || style.animationName !== "none").length"""
        )
        assert moving == 0
