"""Citations in a chapter: words and a link to the paper, which the book turns into its own.

In the notebook stands `([Hinton et al., 2015](https://...))`, or `[Hinton et al. (2015)](https://...)`
in a sentence, which Jupyter, Colab and GitHub show as it is. The link says which entry of the
bibliography is meant, and the words have to be those of that entry. On the way into Sphinx it
becomes `{cite:p}` or `{cite:t}`. Who writes a chapter types the role; `make cells` puts the words
in its place.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from pybtex.database import parse_file
from pybtex.richtext import Text

from book.common import ROOT

BIBLIOGRAPHY = ROOT / "book" / "references.bib"
ROLE = re.compile(r"\{cite(:[pt])?\}`([^`]+)`")
_LINK = r"\[[^\[\]]+\]\(https?://[^()\s]+\)"
_LINKS = re.compile(r"\[([^\[\]]+)\]\((https?://[^()\s]+)\)")
_GROUP = re.compile(rf"\({_LINK}(?:; {_LINK})*\)")
_YEAR = re.compile(r"(?:, |\()(?:19|20)\d\d\)?$")


class Entry(NamedTuple):
    """What a chapter shows of an entry of the bibliography."""

    key: str
    authors: str
    year: str
    url: str

    @property
    def parenthetical(self) -> str:
        return f"{self.authors}, {self.year}"

    @property
    def textual(self) -> str:
        return f"{self.authors} ({self.year})"


@cache
def entries() -> dict[str, Entry]:
    """The bibliography, by key. Exits where an entry has no address, or that of another one."""
    found, places = {}, {}
    for key, entry in parse_file(str(BIBLIOGRAPHY)).entries.items():
        names = [" ".join(_last(person)) for person in entry.persons["author"]]
        fields = entry.fields
        if "url" in fields:
            url = fields["url"]
        elif "doi" in fields:
            url = f"https://doi.org/{fields['doi']}"
        elif "eprint" in fields:
            url = f"https://arxiv.org/abs/{fields['eprint']}"
        else:
            raise SystemExit(f"book/references.bib: {key} has no url, doi or eprint.")
        url = url.replace("(", "%28").replace(")", "%29")
        if url in places:
            raise SystemExit(f"book/references.bib: {key} and {places[url]} have one address.")
        places[url] = key
        shown = names[0] if len(names) == 1 else f"{names[0]} et al."
        if len(names) == 2 and names[1] != "others":
            shown = " and ".join(names)
        found[key] = Entry(key, shown, fields["year"], url)
    return found


def _last(person) -> list[str]:
    """A last name as it is read, without the marks of LaTeX."""
    return [str(Text.from_latex(part)) for part in (*person.prelast_names, *person.last_names)]


def readable(text: str) -> str:
    """Markdown with words and links in place of roles. Exits where a key is unknown."""

    def words(found: re.Match) -> str:
        keys = [key.strip() for key in found[2].split(",")]
        if unknown := [key for key in keys if key not in entries()]:
            raise SystemExit(f"book/references.bib has no entry {', '.join(unknown)}.")
        cited = [entries()[key] for key in keys]
        if found[1] == ":t":
            return " and ".join(f"[{entry.textual}]({entry.url})" for entry in cited)
        return f"({'; '.join(f'[{entry.parenthetical}]({entry.url})' for entry in cited)})"

    return ROLE.sub(words, text)


def roles(text: str) -> str:
    """Markdown with roles in place of words and links: `readable`, undone."""
    parenthetical = {(entry.parenthetical, entry.url): key for key, entry in entries().items()}
    textual = {(entry.textual, entry.url): key for key, entry in entries().items()}

    def group(found: re.Match) -> str:
        keys = [parenthetical.get(link) for link in _LINKS.findall(found[0])]
        return f"{{cite:p}}`{','.join(keys)}`" if all(keys) else found[0]

    def alone(found: re.Match) -> str:
        key = textual.get(found.groups())
        return f"{{cite:t}}`{key}`" if key else found[0]

    return _LINKS.sub(alone, _GROUP.sub(group, text))


def faults(text: str) -> list[str]:
    """What looks like a citation and is none: wrong words for a link, or a wrong link for words."""
    addresses = {entry.url for entry in entries().values()}
    left = _LINKS.findall(roles(text))
    return [f"{words}: {url}" for words, url in left if url in addresses or _YEAR.search(words)]


def for_sphinx(notebook):
    """The notebook with roles in place of the words and links of its citations."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = roles(cell.source)
    return notebook
