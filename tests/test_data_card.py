"""The figures of the shop's data card belong to the generator as it is."""

from pathlib import Path

from ecomkd.data import shop

FIGURES = Path(__file__).resolve().parent.parent / "book" / "figures"


def test_figures_come_from_this_generator():
    drawn = (FIGURES / "shop_generator.txt").read_text("utf-8").strip()
    assert drawn == shop.generator_hash(), (
        "run `python tools/data_card.py` with ECOMKD_REAL_DATA set"
    )


def test_figures_say_what_they_show_and_take_the_colour_of_the_page():
    paths = sorted(FIGURES.glob("shop_*.html"))
    assert [path.stem for path in paths] == ["shop_gap", "shop_labels", "shop_lengths", "shop_tail"]
    for path in paths:
        text = path.read_text("utf-8")
        alt = text.split('aria-label="')[1].split('"')[0]
        assert len(alt) > 30
        assert "<figcaption>" in text and "var(--role-ink" in text
        assert "http" not in text.replace("http://www.w3.org/", "")
