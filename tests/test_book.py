"""The rendered book, opened in a browser from file://, and looked at by axe-core.

`make test` renders it before these run.
"""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from book import trial
from book.common import chapters, pages
from book.pages import beside
from ecomkd import report

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build" / "stored" / "_build" / "html"
AXE = ROOT / "_build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SHADES = {"runOnly": ["color-contrast"]}
"""On a dark page only the colours are others."""
VIEWS = {  # width, height, colour scheme
    "light": (1280, 900, "light"),
    "dark": (1280, 900, "dark"),
    "phone": (375, 800, "light"),
}

pytestmark = pytest.mark.skipif(
    not BUILT.exists(), reason="no rendered book: run `make unit` first"
)


def test_jupyter_book_is_version_1():
    assert version("jupyter-book").split(".")[0] == "1"


def test_every_page_of_the_toc_was_written():
    assert len(pages()) > 5
    missing = [page for page in pages() if not (BUILT / f"{page}.html").is_file()]
    assert not missing
    assert f"{pages()[0]}.html" in (BUILT / "index.html").read_text("utf-8")


def test_every_chapter_is_in_the_toc():
    assert set(chapters()) == set((ROOT / "notebooks").glob("*.ipynb"))


def test_every_page_of_the_book_is_in_the_toc():
    written = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert written <= set(pages())


def test_results_stand_side_by_side():
    kept = {"name": "lift kept", "value": 0.98, "low": 0.95, "high": 1.0}
    cost = {"name": "cost of int8", "value": 0.1, "low": None, "high": None}
    common = {"pairs": {"train": 4_500}, "verdict": "Distil."}
    ranked = {
        "data": {"rows": {"teacher": {"lift@10": 0.2, "macro_f1": 0.5}}, **common},
        "goals": [kept, cost],
    }
    classified = {"data": {"rows": {"teacher": {"macro_f1": 0.4}}, **common}, "goals": [cost]}
    text = beside({"simulated shop": ranked, "ESCI sample": classified})
    assert "| teacher | 0.200 |" in text
    assert "| teacher | 0.500 | 0.400 |" in text
    assert "| lift kept | 0.980 [0.950, 1.00] |  |" in text
    assert "| cost of int8 | 0.100 | 0.100 |" in text
    assert "| train | 4,500 | 4,500 |" in text
    assert "ESCI sample\n: Distil." in text


def test_colab_buttons_only_with_a_repository():
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    html = (BUILT / f"{chapters()[0].relative_to(ROOT).with_suffix('')}.html").read_text("utf-8")
    button = re.search(r'href="https://colab\.research\.google\.com/github/[^"]+"', html)
    assert bool(button) == bool(config["repository"]["url"])


@pytest.fixture(scope="module", params=pages())
def opened(browser, request):
    """A page, loaded once for all tests of it: the tab, and what went wrong in it."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        color_scheme="light",
        reduced_motion="reduce",  # colours change at once
        offline=True,
    )
    context.set_default_timeout(120_000)
    tab, faults = context.new_page(), []
    tab.on("console", lambda line: line.type == "error" and faults.append(line.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    tab.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:")) or faults.append(f"asked: {request.url}")
        ),
    )
    tab.goto((BUILT / f"{request.param}.html").as_uri(), wait_until="load")
    yield tab, faults
    context.close()


def test_what_a_page_shows_is_there(opened):
    tab, _ = opened
    if tab.locator(".math").count():
        tab.wait_for_function("document.querySelector('mjx-container') !== null")
        tab.evaluate("MathJax.startup.promise")
        unset = tab.evaluate(
            "[...document.querySelectorAll('.math')]"
            ".filter(node => !node.querySelector('mjx-container')).map(node => node.innerText)"
        )
        assert not unset, "mathematics that MathJax has not set"
        assert tab.locator("mjx-merror").count() == 0
    for diagram in tab.locator("figure.mermaid svg").all():
        box = diagram.bounding_box()
        assert box["width"] > 100 and box["height"] > 50
        assert diagram.get_attribute("aria-label")
    assert (
        tab.evaluate(
            """() => [...document.querySelectorAll('.bd-article img')]
            .filter(image => !image.naturalWidth || !image.alt).map(image => image.src)"""
        )
        == []
    )


def shown_in(tab, scheme: str) -> None:
    """Wait until the page has followed a change of the reader's colour scheme."""
    tab.emulate_media(color_scheme=scheme)
    tab.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)


@pytest.mark.parametrize("view", VIEWS)
def test_a_page_fits(opened, view):
    tab, _ = opened
    width, height, scheme = VIEWS[view]
    tab.set_viewport_size({"width": width, "height": height})
    shown_in(tab, scheme)
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    if view == "phone":
        assert out_of_reach(tab) == []


def test_a_page_has_no_faults_and_asks_nobody(opened):
    """After all that was done to the page, but before axe-core, which asks for style sheets."""
    _, faults = opened
    assert not faults


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core: install npm, then run `make unit`")
def test_nothing_keeps_people_from_reading_a_page(opened):
    tab, _ = opened
    shown_in(tab, "light")
    tab.evaluate(AXE.read_text("utf-8"))
    found = serious(tab, {})
    shown_in(tab, "dark")
    found += serious(tab, SHADES)
    assert not found


def serious(tab, options: dict) -> list[str]:
    """What axe finds that is serious or critical: the rule and the element of each."""
    return tab.evaluate(
        """async options => (await axe.run({ ...options, resultTypes: ['violations'] })).violations
            .filter(rule => ['serious', 'critical'].includes(rule.impact))
            .flatMap(rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 200)}`))""",
        options,
    )


def test_a_page_is_dark_from_the_start_where_that_is_wished(browser):
    context = browser.new_context(color_scheme="dark", offline=True)
    context.set_default_timeout(120_000)
    tab = context.new_page()
    tab.goto((BUILT / f"{pages()[0]}.html").as_uri(), wait_until="load")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    context.close()


def out_of_reach(tab) -> list[str]:
    """What has to be scrolled sideways inside the article, and that the keyboard cannot scroll."""
    return tab.evaluate(
        """() => [...document.querySelectorAll('.bd-article *')]
            .filter(node => node.scrollWidth > node.clientWidth + 1 && node.clientWidth > 0
                && ['auto', 'scroll'].includes(getComputedStyle(node).overflowX)
                && node.tabIndex !== 0)
            .map(node => `${node.tagName}.${node.className}: ${node.innerText.slice(0, 60)}`)"""
    )


def test_the_diagrams_of_the_sources_are_on_the_pages():
    for page in pages():
        drawn = (BUILT / f"{page}.html").read_text("utf-8").count('<figure class="mermaid')
        source = ROOT / f"{page}.md"
        if source.exists():
            assert drawn == source.read_text("utf-8").count("```mermaid"), page


def test_the_page_of_trials_shows_its_code_and_every_group():
    found = report.recorded("recommendation")
    parts = trial.page_parts(report.recorded("trial"), found)
    assert "def adjusted(" in parts["trial_code"] and "def weight_of(" in parts["trial_code"]
    tables = parts["trial_groups"].split("**")[1:]
    kinds = [(shop, kind) for shop in trial.SHOPS for kind in found["data"][shop]["by_group"]]
    heads, bodies = tables[::2], tables[1::2]
    for head, body, (shop, kind) in zip(heads, bodies, kinds, strict=True):
        assert head.startswith(f"{trial.SHOPS[shop]}, by ")
        groups = found["data"][shop]["by_group"][kind]["groups"]
        assert [f"| {name}" in body for name in groups] == [True] * len(groups)
    assert parts["trial_groups"].count("| fewest: ") == len(trial.SHOPS)
    assert not [name for name, text in parts.items() if re.search(r"\bnan\b", text)]
