"""A small shop of drawn products, whose titles leave things out that its pictures show. Chapter 15.

Kind, colour and pattern are decided first; picture and title are two incomplete reports of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ecomkd.extras import needed

with needed("ecomkd.multimodal.drawn", "multimodal"):
    from PIL import Image, ImageDraw
    from safetensors.numpy import load_file, save_file

from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.multimodal import pictures

KINDS = ("mug", "lamp", "bag", "shirt", "cushion")
COLOURS = {
    "red": (196, 52, 48),
    "orange": (226, 132, 40),
    "yellow": (226, 198, 60),
    "green": (74, 148, 78),
    "blue": (52, 104, 188),
    "purple": (128, 76, 160),
}
PATTERNS = ("plain", "striped", "dotted")
SERIES = 40
"""Names that a maker gives to a line of products; most of a line has one colour."""
SIZE = 96
COUNT = 1_800
"""Products of the chapter; the vectors of their pictures are recorded."""
_LOYAL = 0.8
_COLOUR_SAID, _PATTERN_SAID = 0.5, 0.3
_BEGIN = ("Al", "Bo", "Ca", "De", "El", "Fi", "Go", "Hu")
_END = ("dora", "lin", "meya", "rik", "vanta")


def products(count: int, seed: int = 0) -> pd.DataFrame:
    """So many products: `kind`, `colour`, `pattern`, `series`, `title`, and what the title says.

    Four in five products of a series have its own colour, which no list says. A title names the
    colour of every second product (`colour_said`) and the pattern of three in ten. Raises
    ValueError for a count below 1.

    Example:
        >>> products(2, seed=1)["title"].tolist()
        ['Gorik bag', 'Elvanta lamp']
    """
    if count < 1:
        raise ValueError(f"products: {count} products cannot be drawn; ask for one at least.")
    random = np.random.default_rng([seed, 15])
    names = [begin + end for begin in _BEGIN for end in _END]
    own = random.integers(len(COLOURS), size=SERIES)
    series = random.integers(SERIES, size=count)
    other = random.integers(len(COLOURS), size=count)
    colour = np.where(random.random(count) < _LOYAL, own[series], other)
    frame = pd.DataFrame(
        {
            "kind": np.array(KINDS)[random.integers(len(KINDS), size=count)],
            "colour": np.array(list(COLOURS))[colour],
            "pattern": np.array(PATTERNS)[random.integers(len(PATTERNS), size=count)],
            "series": np.array(names)[series],
            "colour_said": random.random(count) < _COLOUR_SAID,
            "pattern_said": random.random(count) < _PATTERN_SAID,
        }
    )
    frame["title"] = titles(frame)
    return frame


def titles(frame: pd.DataFrame) -> list[str]:
    """The titles of products, each with what it says of colour and pattern, and no more."""
    return [
        " ".join(
            word
            for word, said in (
                (one.series, True),
                (one.colour, one.colour_said),
                (one.pattern, one.pattern_said),
                (one.kind, True),
            )
            if said
        )
        for one in frame.itertuples()
    ]


def draw(frame: pd.DataFrame, seed: int = 0, size: int = SIZE) -> list[Image.Image]:
    """A picture of each product, `size` pixels a side: place, size, light and ground vary."""
    random = np.random.default_rng([seed, 16])
    return [_one(one.kind, one.colour, one.pattern, random, size) for one in frame.itertuples()]


def _one(
    kind: str, colour: str, pattern: str, random: np.random.Generator, size: int
) -> Image.Image:
    light = random.uniform(0.7, 1.15)
    tint = tuple(int(min(255, part * light + random.normal(0, 10))) for part in COLOURS[colour])
    ground = tuple(int(part) for part in random.integers(190, 250, size=3))
    side = random.uniform(0.5, 0.8) * size
    x, y = random.uniform(0, size - side, size=2)

    def at(*points: float) -> list[float]:
        """Points in a square of side 1, on the picture."""
        return [(x, y)[index % 2] + point * side for index, point in enumerate(points)]

    mask = Image.new("L", (size, size), 0)
    shape = ImageDraw.Draw(mask)
    if kind == "mug":
        shape.ellipse(at(0.55, 0.3, 1, 0.75), outline=255, width=max(2, size // 16))
        shape.rectangle(at(0.1, 0.15, 0.75, 0.95), fill=255)
    elif kind == "lamp":
        shape.polygon(at(0.3, 0.05, 0.7, 0.05, 1, 0.5, 0, 0.5), fill=255)
        shape.rectangle(at(0.46, 0.5, 0.54, 0.95), fill=255)
        shape.rectangle(at(0.25, 0.9, 0.75, 1), fill=255)
    elif kind == "bag":
        shape.arc(at(0.25, 0, 0.75, 0.7), 180, 360, fill=255, width=max(2, size // 20))
        shape.polygon(at(0.1, 0.35, 0.9, 0.35, 1, 1, 0, 1), fill=255)
    elif kind == "shirt":
        shape.polygon(
            at(0.3, 0.05, 0.7, 0.05, 1, 0.3, 0.85, 0.5, 0.75, 0.4, 0.75, 1,
               0.25, 1, 0.25, 0.4, 0.15, 0.5, 0, 0.3),
            fill=255,
        )  # fmt: skip
    else:
        shape.rounded_rectangle(at(0, 0.1, 1, 0.95), radius=side / 5, fill=255)
    cloth = Image.new("RGB", (size, size), tint)
    pen = ImageDraw.Draw(cloth)
    step = side / 5
    pale = tuple(int(part + (255 - part) * 0.7) for part in tint)
    places = np.arange(0, size + step, step)
    if pattern == "striped":
        for place in places:
            pen.rectangle([0, place, size, place + step / 2], fill=pale)
    elif pattern == "dotted":
        for across in places:
            for down in places:
                pen.ellipse([across, down, across + step / 2, down + step / 2], fill=pale)
    picture = Image.new("RGB", (size, size), ground)
    picture.paste(cloth, mask=mask)
    noisy = np.asarray(picture, np.float32) + random.normal(0, 6, (size, size, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def seen(frame: pd.DataFrame, profile: Profile, seed: int = 0) -> dict[str, np.ndarray]:
    """Vectors of the drawn pictures: `network` (N, 1280), and `colours` (N, 24), which are counted.

    The network's are computed once, then read from the artefact folder; where they are recorded,
    they have eight bits each.
    """
    shown = draw(frame, seed)

    def make(folder: Path) -> None:
        save_file({"network": pictures.vectors(shown, size=SIZE)}, folder / "vectors.safetensors")

    parts = [frame[["kind", "colour", "pattern"]].to_numpy().tolist(), seed, SIZE]
    folder = stage("drawn_pictures", parts, make, profile.artifacts, recipe=1)
    network = load_file(folder / "vectors.safetensors")["network"]
    return {"network": network, "colours": pictures.colours(shown)}
