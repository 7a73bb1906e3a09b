"""Every page of the built book under axe-core: nothing that keeps people from reading it."""

from pathlib import Path

import pytest

from book.common import pages

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build" / "stored" / "_build" / "html"
AXE = ROOT / "_build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SHADES = {"runOnly": ["color-contrast"]}
"""On a dark page only the colours are others."""

pytestmark = [
    pytest.mark.skipif(not BUILT.exists(), reason="no rendered book: run `make unit` first"),
    pytest.mark.skipif(not AXE.exists(), reason="no axe-core: install npm, then run `make unit`"),
]


@pytest.fixture(scope="module")
def tab(browser):
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        color_scheme="light",
        reduced_motion="reduce",  # colours change at once
        offline=True,
    )
    context.set_default_timeout(120_000)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("page", pages())
def test_nothing_serious(tab, page):
    tab.goto((BUILT / f"{page}.html").as_uri(), wait_until="load")
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    tab.evaluate(AXE.read_text("utf-8"))
    found = serious(tab, {})
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
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
