"""The look of figures: colours for light and dark pages, names beside curves and points."""

import copy
import io
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from book.figures import inline
from ecomkd import plots
from ecomkd.relevance.tables import SYSTEMS

ROOT = Path(__file__).resolve().parent.parent
CSS = (ROOT / "book" / "_static" / "book.css").read_text("utf-8")
LIGHT_PAGE, DARK_PAGE = "#ffffff", "#121212"
LIGHT = {"ink": plots.INK, **plots.PALETTE}
DARK = dict(re.findall(r"^  --role-([\w-]+): (#\w{6});$", CSS, re.MULTILINE))
"""The colours of a dark page, in which the style sheet draws the figures."""


@pytest.fixture(autouse=True)
def looks():
    with plt.rc_context():
        plots.style()
        yield
        plt.close("all")


def test_contrast_is_that_of_wcag():
    assert plots.contrast("black", "white") == pytest.approx(21)
    assert plots.contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)


def test_every_colour_can_be_read_as_text_on_its_page():
    assert LIGHT.keys() == DARK.keys()
    assert set(SYSTEMS.values()) <= plots.PALETTE.keys()
    for role in LIGHT:
        assert plots.contrast(LIGHT[role], LIGHT_PAGE) >= 4.5, role
        assert plots.contrast(DARK[role], DARK_PAGE) >= 4.5, role


def test_roles_can_be_told_apart():
    """At least 0.1 apart in OKLab, where 0.02 can just be seen."""
    for colours in (LIGHT, DARK):
        for one, other in combinations(colours.values(), 2):
            assert np.linalg.norm(oklab(one) - oklab(other)) > 0.1, (one, other)


def oklab(colour: str) -> np.ndarray:
    """Björn Ottosson's OKLab of a colour."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]]
    mixed = [[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(mixed) @ np.cbrt(np.array(cones) @ linear)


def test_numbers_of_a_heat_map_can_be_read_on_their_cells():
    frame = pd.DataFrame(np.linspace(-1, 1, 12).reshape(3, 4))
    frame.iloc[0, 0] = np.nan
    axes = plots.heatmap(frame, fmt=".1f")
    cells = axes.collections[0].get_facecolor()[1:]
    numbers = axes.texts
    assert numbers[0].get_text() == "−0.8" and len(numbers) == 11
    for cell, number in zip(cells, numbers, strict=True):
        assert plots.contrast(cell[:3], number.get_color()) >= 4.5


def test_curves_are_named_at_their_ends_and_no_name_covers_another():
    axes = plt.figure().gca()
    for name, end in (("teacher", 1.0), ("student", 0.99), ("baseline", 0.98), ("random", 0.2)):
        axes.plot([0, 1, 2], [0, end, np.nan], label=name, color=plots.PALETTE[name])
    axes.axhline(0.5)
    axes.legend()
    plots.label_lines(axes)
    assert axes.get_legend() is None
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        name: plots.PALETTE[name] for name in ("teacher", "student", "baseline", "random")
    }
    assert all(text.xy[0] == 1 for text in axes.texts)
    assert not overlapping(axes)


def test_discs_of_a_frontier_are_named_apart():
    table = pd.DataFrame(
        {
            "p50_ms": [1.0, 1.1, 1.2, 70.0],
            "lift@10": [0.2, 0.2, 0.2, 0.25],
            "megabytes": [10, 10, 10, 90],
            "role": ["student", "trees", "baseline", "teacher"],
        },
        index=["student", "boosted trees", "labels only", "teacher"],
    )
    axes = plots.frontier(table)
    assert [text.get_text() for text in axes.texts] == list(table.index)
    assert not overlapping(axes)


def overlapping(axes) -> list[tuple[str, str]]:
    axes.figure.draw_without_rendering()
    return [
        (one.get_text(), other.get_text())
        for one, other in combinations(axes.texts, 2)
        if one.get_window_extent().overlaps(other.get_window_extent())
    ]


def drawn() -> str:
    figure, axes = plt.subplots()
    axes.plot([0, 1], label="student", color=plots.PALETTE["student"])
    axes.scatter([0.5], [0.5], color="black")
    axes.set_title("$T = 2$ & more")
    plots.label_lines(axes)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return written.getvalue()


def test_the_same_figure_is_the_same_bytes():
    assert drawn() == drawn()


def test_a_figure_in_a_page_has_the_colours_of_the_page():
    svg = inline(drawn(), "page-1", 'a "rising" line')
    assert svg.startswith('<svg role="img" aria-label="a &quot;rising&quot; line" class="plot"')
    assert f"stroke: var(--role-student, {plots.PALETTE['student']})" in svg
    assert f"fill: var(--role-ink, {plots.INK})" in svg
    assert not re.search(r"font-family|DejaVu|font:|#ffffff|#000000|<style|<metadata|xlink", svg)
    ids = re.findall(r' id="([^"]+)"', svg)
    targets = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
    assert ids and all(name.startswith("page-1-") for name in ids)
    assert {one or other for one, other in targets} == set(ids)
    # Colours without a variable would be the same on both pages.
    assert set(re.findall(r"[^,] (#[0-9a-f]{6})", svg)) == set()


def test_a_page_with_a_drawn_figure_and_a_trap(tmp_path):
    figure = nbformat.v4.new_code_cell(
        "draw()",
        outputs=[nbformat.v4.new_output("display_data", {"image/svg+xml": drawn()})],
        metadata={"mystnb": {"figure": {"caption": "A line."}, "image": {"alt": "a line"}}},
    )
    text = (
        "# Page\n\n:::{trap} The mean of *ratios*\n\nIts **effect**, $n = 1$.\n\n- its mend\n\n:::"
    )
    again = copy.deepcopy(figure)
    again["id"] = "again"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), figure, again])
    nbformat.write(notebook, tmp_path / "index.ipynb")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tools')!r})\n"
        "extensions = ['myst_nb', 'book_extension']\nnb_execution_mode = 'off'\n"
        "myst_enable_extensions = ['colon_fence', 'dollarmath']\n"
        "suppress_warnings = ['myst-nb.lexer']\n"
    )
    command = [sys.executable, "-m", "sphinx", "-W", "-q", ".", "html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "html" / "index.html").read_text("utf-8")
    assert html.count('<svg role="img" aria-label="a line" class="plot"') == 2
    assert len(re.findall(r"<figcaption>\s*<p><span class=\"caption-text\">A line\.", html)) == 2
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    box = html[html.index('<div class="trap admonition') :]
    assert '<p class="admonition-title">Trap: The mean of <em>ratios</em></p>' in box
    assert "<strong>effect</strong>" in box and "<li><p>its mend</p></li>" in box
