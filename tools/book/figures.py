"""Makes a figure that matplotlib has drawn as SVG a part of a page, in the page's own colours."""

from __future__ import annotations

import re
from html import escape

from ecomkd.plots import INK, PALETTE

VARIABLES = {
    INK: f"var(--role-ink, {INK})",
    "#000000": f"var(--role-ink, {INK})",
    **{colour: f"var(--role-{role}, {colour})" for role, colour in PALETTE.items()},
}
"""What stands on a page for a colour of a figure; book.css has the variables' dark values."""


def inline(drawn: str, name: str, alt: str) -> str:
    """The figure as one SVG element with a text alternative; `name` makes its ids unique."""
    svg = drawn[drawn.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)
    svg = _PAPER.sub("", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(?::\w+)?="[^"]*"| version="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font-family: ?[^;\"]*(; ?)?", "", _FONT.sub(_font, svg))
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: VARIABLES.get(found[0], found[0]), svg)
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    svg = re.sub(
        r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg
    )
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    # matplotlib writes no colour where it is black; lines have the ends that its style sheet said.
    look = f'class="plot" fill="{VARIABLES[INK]}" stroke-linejoin="round" stroke-linecap="butt"'
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}" {look}', 1)


_PAPER = re.compile(r'<g id="patch_1">\s*<path [^>]*fill: #ffffff[^>]*/>\s*</g>')
"""The white ground of a figure, which it has for Jupyter alone."""

_FONT = re.compile(r"font: ((?:[\w-]+ )*)([\d.]+)px [^;\"]*")


def _font(found: re.Match) -> str:
    """A font's size, weight and slant, without its family: that is the page's."""
    told = [f"font-size: {found[2]}px"]
    for word in found[1].split():
        slanted = word in ("italic", "oblique")
        told.append(f"font-style: {word}" if slanted else f"font-weight: {word}")
    return "; ".join(told)


def one_line(markup: str) -> str:
    """Markup as Markdown takes it in the middle of a list or a card."""
    return re.sub(r"\n\s*", " ", markup).strip()
