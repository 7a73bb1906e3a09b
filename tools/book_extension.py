"""What the book needs from Sphinx beyond the published extensions.

The directive `mermaid` turns a diagram into SVG when the book is built: no browser, no script. The
page's own style sheet colours the SVG, so that it follows the light and the dark theme. The text
alternative is the diagram's `accDescr` line, which Jupyter reads too, or the option `:alt:`; a
diagram without one breaks the build.

Citations stand in round brackets, as in the notebooks.

The directive `trap` is a box for a mistake, its effect and its mend. A figure that a chapter has
drawn as SVG stands in the page itself, in the colours of the page's theme.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import mermaidx
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

from book.figures import inline


class Mermaid(SphinxDirective):
    has_content = True
    option_spec = {  # noqa: RUF012
        "alt": directives.unchanged_required,
        "caption": directives.unchanged_required,
        "name": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        source = "\n".join(self.content)
        described = re.search(r"^\s*accDescr:\s*(.+)$", source, flags=re.MULTILINE)
        alt = self.options.get("alt") or (described and described[1])
        if not alt:
            raise self.error("A diagram needs a text alternative: add a line `accDescr: ...`.")
        titled = re.search(r"^\s*accTitle:\s*(.+)$", source, flags=re.MULTILINE)
        caption = self.options.get("caption") or (titled and titled[1])
        try:
            picture = svg(source, alt, f"diagram-{self.env.new_serialno('mermaid')}")
        except RuntimeError as fault:
            raise self.error(f"Mermaid cannot draw this diagram: {fault}") from fault
        figure = nodes.figure("", nodes.raw("", picture, format="html"), classes=["mermaid"])
        self.set_source_info(figure)
        if caption:
            parsed, messages = self.state.inline_text(caption, self.lineno)
            figure += nodes.caption(caption, "", *parsed)
            figure += messages
        self.add_name(figure)
        return [figure]


def svg(source: str, alt: str, name: str) -> str:
    """The diagram as one SVG element without colours of its own; `name` makes its ids unique."""
    drawn = mermaidx.render(source).svg()
    drawn = re.sub(r"<style>.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<(title|desc)\b.*?</\1>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' (?:role|aria-\w+|data-points)="[^"]*"', "", drawn)
    drawn = drawn.replace("my-svg", name)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


class Trap(SphinxDirective):
    """A box for a mistake: `:::{trap} Its name`, then Markdown, then `:::`."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        box = nodes.admonition("", classes=["trap"])
        self.set_source_info(box)
        parsed, messages = self.state.inline_text(f"Trap: {self.arguments[0]}", self.lineno)
        box += [nodes.title(self.arguments[0], "", *parsed), *messages]
        self.state.nested_parse(self.content, self.content_offset, box)
        return [box]


class Figures(SphinxPostTransform):
    """Puts the SVG of a chapter's figure into the page, where its style sheet can colour it."""

    default_priority = 5  # after MyST-NB has chosen between the forms of an output
    formats = ("html",)

    def run(self, **kwargs) -> None:
        page = self.env.docname.replace("/", "-")
        images = [node for node in self.document.findall(nodes.image) if _is_drawn(node)]
        for place, image in enumerate(images):
            path = Path(self.env.srcdir) / image["uri"].lstrip("/")
            drawn = inline(path.read_text("utf-8"), f"{page}-{place}", image.get("alt", ""))
            image.replace_self(nodes.raw("", drawn, format="html"))


def _is_drawn(image: nodes.image) -> bool:
    return "jupyter_execute" in image["uri"] and image["uri"].endswith(".svg")


class Value(SphinxRole):
    """A number that a chapter measured: ``{value}`04_student::name` ``.

    The numbers of a chapter lie beside its source, in `04_student.json`.
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        chapter, _, name = self.text.partition("::")
        path = Path(self.env.srcdir) / "notebooks" / f"{chapter}.json"
        self.env.note_dependency(str(path))
        known = json.loads(path.read_text("utf-8"))
        if name not in known:
            message = f"The chapter {chapter} records no {name!r}."
            return [], [self.inliner.reporter.error(message, line=self.lineno)]
        # A number and its unit stay on one line.
        text = re.sub(r"^(\S+) (\S+)$", "\\1\u00a0\\2", known[name])
        return [nodes.inline(self.rawtext, text, classes=["value"])], []


def _round() -> BracketStyle:
    return BracketStyle(left="(", right=")", sep="; ")


@dataclass
class RoundReferenceStyle(AuthorYearReferenceStyle):
    """(Pan and Yang, 2010), and in a sentence Pan and Yang (2010)."""

    bracket_textual: BracketStyle = field(default_factory=_round)
    bracket_parenthetical: BracketStyle = field(default_factory=_round)


MENDED = (
    # Browsers refuse to preload fonts from `file://`; the style sheet loads them all the same.
    (re.compile(r'<link rel="preload" as="font"[^>]*>\s*'), ""),
    # A control is called what stands on it.
    (re.compile(r'(<summary[^>]*?) aria-label="[^"]*"'), r"\1"),
    (re.compile(r'(<button[^>]* search-button-field [^>]*?)\s+aria-label="[^"]*"'), r"\1"),
    # An empty head is no head: screen readers would announce it.
    (re.compile(r"<th\b([^>]*)>(\s*|\s*<p></p>\s*)</th>"), r"<td\1>\2</td>"),
    # The entries of a list are entries; the role that Sphinx gives them was given up.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
)
"""What the themes write into every page, and what stands there in its place."""


def mend_pages(app, exception) -> None:
    """Mend what keeps a page from being opened from a folder, or from being read aloud."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = mended = path.read_text("utf-8")
        for pattern, replacement in MENDED:
            mended = pattern.sub(replacement, mended)
        if mended != page:
            path.write_text(mended, "utf-8")


def setup(app) -> dict:
    style = "sphinxcontrib.bibtex.style.referencing"
    register_plugin(style, "author_year_round", RoundReferenceStyle)
    app.add_directive("mermaid", Mermaid)
    app.add_directive("trap", Trap)
    app.add_role("value", Value())
    app.add_post_transform(Figures)
    app.connect("build-finished", mend_pages)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True}
