"""What leads a reader through the book: words explained where they stand, and the head of pages.

A link to a glossary term shows the definition when it is pointed at or has the focus. The
definitions of all terms stand in one script beside the pages, for a page from `file://` may not
read another page. Words in Chinese characters are marked as such, so that they get the right glyphs
and the right voice. Each page has a description, also for those who link to it.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

GLOSSARY = "book/glossary"
SCRIPT = "glossary-terms.js"
LONGEST = 160
"""Letters of a description, as much as search engines show."""
CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff](?:[^\x00-\x7f]*[\u3400-\u9fff\uf900-\ufaff])?")
VIEWPORT = re.compile(r'<meta [^>]*name="viewport"[^>]*>\s*')


class Chinese(SphinxPostTransform):
    """Marks words in Chinese characters with their language, in a book that has another."""

    default_priority = 400

    def run(self, **kwargs) -> None:
        if (self.config.language or "en").startswith("zh"):
            return
        for text in prose(self.document):
            if parts := marked(str(text)):
                text.parent.replace(text, parts)


class Percent(SphinxPostTransform):
    """Keeps a number and its % on one line."""

    default_priority = 399

    def run(self, **kwargs) -> None:
        for text in prose(self.document):
            held = re.sub(r"(?<=\d) %", "\u00a0%", text)
            if held != text:
                text.parent.replace(text, nodes.Text(held))


def prose(document: nodes.document) -> list[nodes.Text]:
    """The texts of a page that are neither code nor formula."""
    kept = (nodes.literal, nodes.literal_block, nodes.raw, nodes.math, nodes.math_block)
    found = []
    for text in document.findall(nodes.Text):
        node = text.parent
        while node is not None and not isinstance(node, kept):
            node = node.parent
        if node is None:
            found.append(text)
    return found


def marked(text: str) -> list[nodes.Node]:
    """The text as nodes, its Chinese in ones of that language; nothing where it has none."""
    found, begin = [], 0
    for match in CHINESE.finditer(text):
        if match.start() > begin:
            found.append(nodes.Text(text[begin : match.start()]))
        found.append(nodes.inline("", match[0], classes=["language-zh"]))
        begin = match.end()
    return [*found, nodes.Text(text[begin:])] if found and begin < len(text) else found


class Letters(SphinxPostTransform):
    """Puts links to the first term of each letter above the glossary."""

    default_priority = 401

    def run(self, **kwargs) -> None:
        if self.env.docname != GLOSSARY:
            return
        glossary = next(self.document.findall(addnodes.glossary))
        line, seen = nodes.paragraph(classes=["letters"]), set()
        for item in glossary.findall(nodes.definition_list_item):
            term = item.next_node(nodes.term)
            letter = term.astext()[0].upper()
            if letter.isalpha() and letter not in seen:
                seen.add(letter)
                line += nodes.reference("", letter, refid=term["ids"][0], internal=True)
                line += nodes.Text(" ")
        glossary.parent.insert(glossary.parent.index(glossary), line)


def definitions(env) -> dict[str, str]:
    """What the glossary says of each term, by the term's anchor."""
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        text = re.sub(r"\s+", " ", item.next_node(nodes.definition).astext()).strip()
        for term in item.findall(nodes.term):
            found |= dict.fromkeys(term["ids"], text)
    return found


def describe(app, pagename, templatename, context, doctree) -> str | None:
    """Give a page its description, and the definitions where it has a term."""
    if doctree is None:
        return
    if f"{Path(GLOSSARY).name}.html#term-" in context["body"]:
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_js_file("way.js", loading_method="defer")
    title = re.sub(r"<[^>]+>", "", context["title"])
    properties = {
        "og:type": "article",
        "og:site_name": app.config.html_title or app.config.project,
        "og:title": title,
        "og:description": description(doctree),
        "og:locale": app.config.language or "en",
    }
    if app.config.html_baseurl:
        properties["og:url"] = f"{app.config.html_baseurl.rstrip('/')}/{pagename}.html"
    lines = []
    if said := escape(properties["og:description"]):  # the bibliography has no sentence
        lines.append(f'<meta name="description" content="{said}" />')
    for name, value in properties.items():
        if value:
            lines.append(f'<meta property="{name}" content="{escape(value)}" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def description(doctree: nodes.document) -> str:
    """The first sentences of a page, as many as fit."""
    words: list[str] = []
    for paragraph in doctree.findall(nodes.paragraph):
        where = paragraph.parent
        if "letters" in paragraph["classes"]:
            continue
        if isinstance(where, nodes.section) or "lead" in where.get("classes", ()):
            words += paragraph.astext().split()
        if len(" ".join(words)) > LONGEST:
            break
    text = ""
    for number, word in enumerate(words):
        if len(text) + len(f" {word} …") > LONGEST:
            return f"{text} …"
        text += f" {word}" if number else word
    return text


def write_definitions(app) -> list:
    """Write the script before the pages are copied; Sphinx asks for pages of its own here."""
    text = json.dumps(definitions(app.env), ensure_ascii=False, separators=(",", ":"))
    folder = Path(app.outdir) / "_static"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCRIPT).write_text(f"window.ecomkdTerms = {text};\n", "utf-8")
    return []


def keep_one_viewport(app, exception) -> None:
    """Docutils, Sphinx and the theme each write the same line into the head of a page."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text("utf-8")
        if len(found := VIEWPORT.findall(page)) > 1:
            first, rest = page.split(found[0], 1)
            path.write_text(first + found[0] + VIEWPORT.sub("", rest), "utf-8")


def setup(app) -> dict:
    app.add_post_transform(Percent)
    app.add_post_transform(Chinese)
    app.add_post_transform(Letters)
    app.connect("html-collect-pages", write_definitions)
    app.connect("html-page-context", describe)
    app.connect("build-finished", keep_one_viewport)
    return {"version": "1", "parallel_read_safe": True}
