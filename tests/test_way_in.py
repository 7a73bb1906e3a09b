"""The way into the book: first page, opening words, results, terms, and the head of pages."""

import json
import re
from functools import cache
from html import unescape
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml

from book import frontier, goals, landing
from book import terms as book_terms
from book.common import OPENING, chapters
from book.pages import records
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_search_page import bm25_scores, static_scores
from shared import by_pair

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build" / "stored" / "_build" / "html"
OPENERS = {"core": "01_concepts", "search": "06_feature_extraction", "people": "10_recommendation"}

built = pytest.mark.skipif(not BUILT.exists(), reason="no rendered book: run `make unit` first")


@cache
def html(page: str) -> str:
    return (BUILT / f"{page}.html").read_text("utf-8")


def text(markup: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", markup))).strip()


# The opening pair -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opening():
    """The book's shop: profile, data, catalogue, texts, and whether a product is what is meant."""
    import ecomkd
    from ecomkd.data import sources

    profile = ecomkd.Profile.named("book")
    data, catalogue = ecomkd.load("shop", profile), sources.catalogue("shop", profile)
    right = np.array(catalogue["product_type"]) == OPENING.kind
    return profile, data, catalogue, sources.product_text(catalogue[:]), right


def test_the_shop_has_what_the_opening_words_mean_in_other_words(opening):
    from ecomkd import words

    _, _, catalogue, texts, right = opening
    assert right.sum() >= 10
    assert not [each for each in texts if OPENING.typed in each.lower()]
    assert [each for each in catalogue["product_title"] if OPENING.sold in each.lower()]
    scores = words.bm25_of(words.bm25(texts), OPENING.typed)
    first = [row for row in np.argsort(-scores, kind="stable")[:10] if scores[row] > 0]
    assert not right[first].any()
    for page in ("README.md", "book/preface.md"):
        assert "slipcover" not in (ROOT / page).read_text("utf-8")
    preface = (ROOT / "book" / "preface.md").read_text("utf-8").split("\n\n")[1]
    assert f'"{OPENING.typed}"' in preface and f"{OPENING.sold}s" in preface


def test_the_student_finds_what_the_opening_words_mean(opening):
    from datasets import Dataset

    from ecomkd import artifacts, models, words
    from ecomkd.relevance import judge, stages
    from ecomkd.search import encoders, retrieve, tune

    stored = [*Path(artifacts.RECORDED).glob("static_encoder-*")]
    assert stored, "the package has no recorded static student: run `make models`"
    profile, data, catalogue, texts, right = opening
    live = profile.live_pairs
    teacher = stages.teacher(data, profile)
    wide = encoders.bi_encoder(data, catalogue, profile, "distilled", teacher, live)
    static = encoders.encoder(encoders.static_encoder(data, catalogue, profile, wide), profile)

    # In the page.
    table, tokenizer = static[0].embedding.weight.detach().numpy(), models.load_tokenizer("minilm")
    found = static_scores([OPENING.typed], texts, tokenizer, table)[0]
    best = np.argsort(-found, kind="stable")
    assert right[best[:5]].all() and right[best[:10]].mean() >= 0.7
    lexical = bm25_scores([OPENING.typed], texts, tokenizer)[0]
    first = [row for row in np.argsort(-lexical, kind="stable")[:10] if lexical[row] > 0]
    assert not right[first].any()
    lost = static_scores(["settee"], texts, tokenizer, table)[0]
    kinds = np.array(catalogue["product_type"])
    assert not (kinds[np.argsort(-lost, kind="stable")[:10]] == "sofa").any()  # as the page says

    # In two stages: words and vectors, and the student reads what they find.
    student = stages.student(data, profile, teacher_folder=teacher, unlabelled=live)
    lexical = retrieve.word_scores(words.bm25(texts), [OPENING.typed])
    sums, rows = retrieve.weighted(found[None], lexical, tune.DEFAULT.words, 20)
    asked = Dataset.from_dict({"query_id": ["0"], "query": [OPENING.typed]})
    read = tune.model_scores(
        student,
        tune.candidates(asked, catalogue, rows),
        data["test"].features["label"],
        judge.gains(data["test"]),
        profile,
    )
    _, best = retrieve.rerank(rows, (sums + tune.DEFAULT.reranker * read).ravel())
    assert right[best[0, :10]].mean() >= 0.8


# The first page ---------------------------------------------------------------------------------


def test_a_record_that_denies_a_sentence_of_the_first_page_stops_the_build():
    found = records()
    assert list(landing.results(found)) == [path.stem for path in chapters()]
    rows = json.loads(json.dumps(found["core_shop"]))
    rows["data"]["rows"]["BM25"]["ndcg@10"] = 0.4
    with pytest.raises(SystemExit, match="deny what the first page says of 01_concepts: A random"):
        landing.results(found | {"core_shop": rows})


def test_the_first_page_says_where_fine_tuning_fails_as_long_as_it_does():
    found = records()
    said = frontier.where_it_fails(found)
    assert "labels of 63 or 64 queries" in said

    def changed(record, system, against, **values):
        own = json.loads(json.dumps(found[record]))
        rows = own["data"].get("msrd", own["data"])["comparisons"]
        (one,) = (row for row in rows if (row["system"], row["against"]) == (system, against)
                  and row.get("measure") != "macro-F1")  # fmt: skip
        one.update(values)
        return found | {record: own}

    free = "the untrained bi-encoder"
    lists = found["core_esci_150"]["data"]["comparisons"]
    systems = [one["system"] for one in lists if one["against"] == free]
    assert len(systems) == 6
    denied = [changed("core_esci_150", one, free, word="beats") for one in systems]
    begun = "the warm start, no label"
    pairs = [(one["system"], one["against"])
             for one in found["whole_lists"]["data"]["comparisons"]
             if one["against"] in ("bi-encoder, untrained", begun)]  # fmt: skip
    assert len(pairs) == 14
    pairs.remove((begun, "bi-encoder, untrained"))
    denied += [changed("whole_lists", *pair, low=0.001) for pair in pairs]
    networks = {
        "further_lists": "all layers gently, rankings as rankings",
        "list_losses": "each product by itself",
        "base_lists": "base-size teacher, with words and bi-encoder",
    }
    denied += [
        changed(record, network, "bi-encoder, untrained", low=0.001)
        for record, network in networks.items()
    ]
    level = changed("whole_lists", begun, "bi-encoder, untrained", low=0.001)
    assert frontier.where_it_fails(level) == said
    denied.append(changed("core_esci_150", "teacher", free, high=0.001))
    films = "words + teacher", "words + base size, untrained"
    denied.append(changed("frontier", *films, low=-0.001))
    for one in denied:
        with pytest.raises(SystemExit, match="deny what the first page says: It does not pay"):
            frontier.where_it_fails(one)
    added = "words and bi-encoder, added up"
    students = f"student, distilled, {added}", f"student, labels only, {added}"
    assert frontier.where_it_fails(changed("core_esci_150", *students, word="beats")) == said


def test_the_first_page_says_how_many_labels_it_takes_as_long_as_the_records_do():
    found = records()
    said = frontier.labels_it_takes(found)
    assert "by all 4,500 pairs it [adds](#teacher-labels) 0.022 [0.017, 0.028]" in said
    assert "(with 50 and with 800 it is not told from nothing)" in said
    assert "3,200 labelled queries taught adds 0.013 [0.009, 0.017]" in said
    assert "Added to such a sum it adds 0.011 [0.004, 0.019]." in said
    assert "stands 0.032 [0.020, 0.044] [below](#sec-film-lists) the encoder" in said
    assert "taught by 256, 0.021 [0.011, 0.031] above it." in said
    assert "[still adds](#sec-sum-weights) 0.008 [0.003, 0.014] if 400 labelled queries" in said
    assert "taught it (0.007 [0.002, 0.012] if it has base size), and 0.0003 [" in said

    def changed(record, system, of, **values):
        own = json.loads(json.dumps(found[record]))
        rows = own["data"].get("msrd", own["data"]).get(of)
        against = "words + untrained", f"{UNTRAINED_SUM}, {system.split(', ')[-1]}"
        (one,) = (row for row in rows if row["system"] == system and row["against"] in against)
        one.get("seeds", one).update(values)
        return found | {record: own}

    few, many = (f"spread, in the sum, {n} labels" for n in (1000, 4500))
    denied = [
        changed("new_head", few, "differences", low=0.001),
        changed("new_head", many, "differences", low=-0.001),
        changed("query_side", "words + teacher of 3200", "comparisons", low=-0.001),
    ]
    network, free = "each product by itself", "bi-encoder, untrained"
    in_the_sum = f"{network}, with words and bi-encoder, 256 queries"
    for system, against, values in (
        (f"{network}, 64 queries", free, {"high": 0.001}),
        (f"{network}, 256 queries", free, {"low": -0.001}),
        (in_the_sum, f"{UNTRAINED_SUM}, 256 queries", {"low": -0.001}),
        (in_the_sum, f"{UNTRAINED_SUM}, weights from all labels, 256 queries", {"low": 0.001}),
    ):
        own = json.loads(json.dumps(found["film_lists"]))
        by_pair(own["data"]["comparisons"])[system, against].update(values)
        denied.append(found | {"film_lists": own})
    for case, values in (
        ("six layers, 100 queries", {"low": 0.001}),
        ("six layers, 400 queries", {"low": -0.001}),
        ("base size, 400 queries", {"low": -0.001}),
    ):
        own = json.loads(json.dumps(found["sum_weights"]))
        pair = (f"words + {name}, weights from all labels, {case}"
                for name in ("teacher", "untrained"))  # fmt: skip
        by_pair(own["data"]["comparisons"])[tuple(pair)].update(values)
        denied.append(found | {"sum_weights": own})
    for one in denied:
        with pytest.raises(SystemExit, match="deny what the first page says: How many labels"):
            frontier.where_it_fails(one)


def test_a_card_has_a_figure_of_its_chapter_in_the_colours_of_the_page():
    for path in chapters():
        drawn = landing.thumbnail(nbformat.read(path, as_version=4), landing.FIGURES[path.stem])
        assert drawn.startswith("<svg ") and "var(--role-ink" in drawn
        assert re.search(r'aria-label="[^"]{20,}"', drawn)
    with pytest.raises(SystemExit, match="No chapter's output has the figure fig"):
        landing.thumbnail(nbformat.v4.new_notebook(), "fig")


@built
def test_the_first_page_has_the_title_three_doors_and_a_card_for_each_chapter():
    page = html("index")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert config["title"] in [text(found) for found in re.findall(r"<h1>(.*?)<a", page, re.DOTALL)]
    doors = re.search(r'class="[^"]*\bdoors\b.*?<section', page, re.DOTALL)[0]
    for target in ("notebooks/01_concepts.html", "own_catalogue.html", "teaching.html"):
        assert target in doors
    sentences = landing.results(records())
    cards = re.findall(r'<div class="[^"]*\bchapter\b.*?</a>\s*</div>', page, re.DOTALL)
    assert len(cards) == len(chapters())
    for card, path in zip(cards, chapters(), strict=True):
        assert f"notebooks/{path.stem}.html" in card
        assert text(sentences[path.stem]).replace("'", "’") in text(card)
        assert "runs in" in card or "not measured" in card
        assert re.search(r'<svg [^>]*role="img" aria-label="[^"]{20,}"', card)
    picture = re.search(r'<figure class="frontier">.*?</figure>', page, re.DOTALL)[0]
    assert "var(--role-student" in picture


@built
@pytest.mark.parametrize(("page", "count"), [("index", 5), ("book/search_page", 10)])
def test_the_live_search_answers_the_opening_words(browser, opening, page, count):
    *_, catalogue, _, right = opening
    kinds = dict(zip(catalogue["product_id"], right, strict=True))
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto((BUILT / f"{page}.html").as_uri(), wait_until="load")
    assert tab.get_by_role("alert").count() == 0, "no recorded data of this page: `make models`"
    assert tab.get_by_role("searchbox", name="Query").input_value() == OPENING.typed
    lists = {
        name: [item.get_attribute("data-product") for item in found.locator("li").all()]
        for name, found in (
            (name, tab.get_by_role("region", name=name)) for name in ("Static student", "BM25")
        )
    }
    assert len(lists["Static student"]) == count
    shown = [kinds[product] for product in lists["Static student"]]
    assert all(shown[:5]) and np.mean(shown) >= 0.7
    assert not any(kinds[product] for product in lists["BM25"])
    for button in tab.locator("#search-page .tries button").all():
        button.click()
        assert tab.get_by_role("searchbox", name="Query").input_value() == button.inner_text()
    tab.get_by_role("searchbox", name="Query").fill("red umbrella")
    samples = tab.locator("#search-page select")
    samples.select_option(index=1)
    assert tab.get_by_role("searchbox", name="Query").input_value() != "red umbrella"
    samples.select_option("")
    assert tab.get_by_role("searchbox", name="Query").input_value() == "red umbrella"
    context.close()


# The results ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goal", "wanted"),
    [
        ("above 0, interval excluding 0", (0, 1)),
        ("below 0, interval excluding 0", (0, -1)),
        ("at least -0.01", (-0.01, 1)),
        ("at least 0.95, interval included", (0.95, 1)),
        ("at most 0.5", (0.5, -1)),
        ("≥ 1/3", (1 / 3, 1)),
        ("≤ 20", (20, -1)),
        ("at least 0.97, of a lift whose interval lies above 0", (0.97, 1)),
        ("0, and right ones after the restart", (0, -1)),
        ("1", (1, 1)),
    ],
)
def test_a_goal_is_read_from_its_words(goal, wanted):
    assert goals.threshold(goal) == wanted


def test_a_plot_has_what_is_met_on_the_right_of_its_goal():
    entries = [goal for record in records().values() for goal in record.get("goals", [])]
    for goal in entries:
        drawn = goals.forest(goal)
        value = float(re.search(r'cx="([\d.-]+)"', drawn)[1])
        ends = re.search(r'x1="([\d.-]+)" x2="([\d.-]+)" y1="6"', drawn)
        places = [value, *map(float, ends.groups())] if ends else [value]
        assert all(-0.1 <= place <= goals.WIDTH + 0.1 for place in places)
        strict = "excluding" in goal["goal"] or "included" in goal["goal"]
        decided = min(places) if strict else value
        if "whose interval" in goal["goal"] and not goal["met"]:
            continue  # what it is a share of may be 0, wherever the share itself lies
        assert (decided > goals.MIDDLE) == goal["met"] or decided == goals.MIDDLE, goal


def test_the_results_count_what_is_met_in_the_order_of_the_chapters():
    found = records()
    page = goals.results_page(found)
    entries = [goal for record in found.values() for goal in record.get("goals", [])]
    met = sum(goal["met"] for goal in entries)
    assert f"**{met} of {len(entries)} goals are met.**" in page.split("\n\n")[1]
    assert page.count("✓ met") == met and page.count("✗ missed") == len(entries) - met
    numbers = [int(number) for number in re.findall(r"^## Chapter (\d+)$", page, re.MULTILINE)]
    assert numbers == sorted(set(numbers)) and len(numbers) > 5
    with pytest.raises(SystemExit, match="no title for another"):
        goals.results_page(found | {"another": found["core_shop"]})
    assert "No result is recorded yet." in goals.results_page({})


# Parts, terms and heads -------------------------------------------------------------------------


@built
@pytest.mark.parametrize(("opener", "first"), OPENERS.items())
def test_a_part_begins_with_its_overview(opener, first):
    page = html(f"notebooks/{first}")
    before = re.search(r'<a class="left-prev"\s+href="([^"]+)"', page)[1]
    assert before == f"../book/{opener}.html"
    stems = next(names for _, page, names in landing.parts_of_the_book() if page.endswith(opener))
    article = re.search(
        r'<article class="bd-article.*?</article>', html(f"book/{opener}"), re.DOTALL
    )
    assert all(f'href="../notebooks/{stem}.html"' in article[0] for stem in stems)


@built
@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_links_its_terms_once(path):
    linked = re.findall(
        r'href="\.\./book/glossary\.html#(term-[^"]+)"', html(f"notebooks/{path.stem}")
    )
    assert len(linked) >= 5
    assert len(linked) == len(set(linked))
    known = json.loads((BUILT / "_static/glossary-terms.js").read_text("utf-8")[21:-2])
    assert set(linked) <= set(known)


def test_a_word_that_is_no_term_where_it_stands_holds_no_link():
    said = "Stores drift apart, and readers lift the sum, which gains 0.02. Alarms tell of drift:"
    said += " a lift falls, or the expected gain."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(said)])
    (cell,) = book_terms.linked(notebook).cells
    assert cell.source.startswith("Stores drift apart, and readers lift the sum, which gains 0.02.")
    assert all(f"{{term}}`{term}`" in cell.source for term in ("drift", "lift", "gain"))


def test_a_term_is_not_linked_where_the_word_means_something_else():
    other = "A network in train mode is rather a loss. Input less baseline is what a batch is not."
    other += " Sentence Transformers came later."
    own = " The loss of a batch falls below the baseline in each mode of a transformer."
    cells = [nbformat.v4.new_markdown_cell(source) for source in (other, own)]
    before, after = book_terms.linked(nbformat.v4.new_notebook(cells=cells)).cells
    for term in ("mode", "loss", "baseline", "batch", "transformer"):
        assert f"{term}`" not in before.source.casefold() and f"{{term}}`{term}`" in after.source


@built
@pytest.mark.parametrize("width", [1440, 390])
def test_a_term_shows_its_definition_when_pointed_at_or_focused(browser, width):
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    tab = context.new_page()
    tab.goto((BUILT / "notebooks/02_teacher.html").as_uri(), wait_until="load")
    link, box = tab.locator("a.term").first, tab.get_by_role("tooltip")
    assert box.count() == 0
    link.focus()
    assert box.is_visible()
    assert link.get_attribute("aria-describedby") == box.get_attribute("id")
    wanted = json.loads((BUILT / "_static/glossary-terms.js").read_text("utf-8")[21:-2])
    assert box.inner_text() == wanted[link.get_attribute("href").partition("#")[2]]
    place = box.bounding_box()
    assert place["x"] >= 0 and place["x"] + place["width"] <= width
    tab.keyboard.press("Escape")
    assert box.count() == 0
    tab.locator("a.term").nth(1).hover()
    assert box.is_visible()
    context.close()


@built
def test_chinese_words_are_marked_as_such():
    page = html("book/glossary")
    bare = re.sub(r'<(span|dt)[^>]*lang="zh"[^>]*>.*?</\1>', "", page, flags=re.DOTALL)
    article = re.search(r'<article class="bd-article.*?</article>', bare, re.DOTALL)[0]
    assert not re.findall(r"[\u4e00-\u9fff]+", text(article))
    assert page.count('lang="zh"') > 100
    letters = re.search(r'<p class="letters">(.*?)</p>', page, re.DOTALL)[1]
    for anchor in re.findall(r'href="#([^"]+)"', letters):
        assert f'id="{anchor}"' in page
    assert text(letters).split() == sorted(set(text(letters).split()))


@built
@pytest.mark.parametrize(
    "page", ["book/film_queries", "book/results", "notebooks/06_feature_extraction"]
)
def test_a_number_and_its_percent_stay_on_one_line(page):
    article = re.search(r'<article class="bd-article.*?</article>', html(page), re.DOTALL)[0]
    prose = re.sub(r"<(pre|code|svg|script)\b.*?</\1>", "", article, flags=re.DOTALL)
    assert "\u00a0%" in prose and not re.findall(r".{0,20}\d[ \n]%", prose)


@built
@pytest.mark.parametrize("page", ["index", "book/preface", "book/glossary", "notebooks/08_search"])
def test_a_page_says_what_it_is_to_those_who_link_to_it(page):
    head = html(page).partition("</head>")[0]
    said = dict(re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)"', head))
    assert 40 < len(said["description"]) <= 160
    assert said["og:description"] == said["description"]
    assert said["og:title"] and "<" not in said["og:title"]
    assert " A B C D" not in said["description"]
    assert head.count('name="viewport"') == 1
    assert re.search(r'<link rel="icon" href="[^"]*favicon\.svg"', head)
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert ("og:url" in said) == bool(config["html"].get("baseurl"))


def test_the_first_use_of_a_term_becomes_a_link_on_the_way_into_the_book(monkeypatch, tmp_path):
    glossary = (
        "# Glossary\n\n```{glossary}\nhard label\n硬标签\n  One class.\n\nlabel\n  A class.\n```\n"
    )
    monkeypatch.setattr(book_terms, "GLOSSARY", tmp_path / "glossary.md")
    book_terms.GLOSSARY.write_text(glossary, "utf-8")
    assert book_terms.terms(glossary) == ["hard label", "label"]
    sources = [
        "# A label\n\n`label` **label** $label$ [label](x) <span data-value='a'>label</span>",
        "Hard labels beside a label and a label. unlabelled.",
    ]
    cells = [nbformat.v4.new_markdown_cell(source) for source in sources]
    found = book_terms.linked(nbformat.v4.new_notebook(cells=cells))
    assert [cell.source for cell in found.cells] == [
        sources[0],
        "{term}`Hard labels <hard label>` beside a {term}`label` and a label. unlabelled.",
    ]


def test_no_chapter_has_a_role_that_jupyter_would_show_as_markup():
    for path in chapters():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                assert not re.findall(r"\{[a-z:]+\}`[^`\n]+`", cell.source), path


def test_a_page_beside_the_chapters_is_no_longer_than_two_of_them():
    pages = (ROOT / "book").glob("*.md")
    long = {path.name: len(path.read_text("utf-8").split()) for path in pages}
    assert max(long.values()) <= 6_000, max(long, key=lambda name: long[name])
