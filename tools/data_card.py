"""Draw the figures and tables of the simulated shop's data card, beside real data.

    ECOMKD_REAL_DATA=FOLDER python tools/data_card.py

Writes book/figures/shop_*.html, one <figure> each, whose SVG takes its colour of text from
the page, and book/figures/shop_*.csv. FOLDER holds the real data as book/data_real.md makes them:
`esci_sample` and `icecat`.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from book.figures import inline
from ecomkd import plots
from ecomkd.artifacts import write_text
from ecomkd.data import shop
from ecomkd.data.schema import LABELS, SPLITS, read

FIGURES = Path(__file__).resolve().parent.parent / "book" / "figures"
SEED = 900
"""A shop that no reported result uses."""

COLOURS = {"shop (simulated)": "#0f8b8d", "ESCI sample": "#b87503", "Icecat": "#9b6fc4"}
SIZE = (5, 2.8)  # inches: narrow, so that the text stays legible on a phone
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 2}
WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def coverage(query: str, title: str) -> float:
    """Share of the query's words that stand in the title."""
    asked, there = words(query), set(words(title))
    return sum(word in there for word in asked) / len(asked) if asked else 0.0


def real(folder: Path) -> dict[str, pd.DataFrame]:
    with tempfile.TemporaryDirectory() as scratch:
        esci, icecat = (
            read(folder / name, scratch).judgments.to_pandas() for name in ("esci_sample", "icecat")
        )
    esci = esci[esci.product_locale == "us"].assign(
        esci_label=lambda frame: frame.label.map(dict(enumerate(LABELS)))
    )
    return {"ESCI sample": esci, "Icecat": icecat}


def figure(name: str, alt: str, caption: str) -> None:
    """Save the current figure as an HTML fragment."""
    buffer = io.StringIO()
    plt.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close()
    svg = inline(buffer.getvalue(), f"shop-{name}", alt)
    text = f'<figure class="align-default">\n{svg}<figcaption>{caption}</figcaption>\n</figure>\n'
    write_text(FIGURES / f"shop_{name}.html", text)


def label_shares(tables: dict[str, pd.DataFrame]) -> None:
    shares = pd.concat(
        frame.esci_label.value_counts(normalize=True).mul(100).rename("percent").reset_index()
        .assign(data=name)
        for name, frame in tables.items()
        if "esci_label" in frame
    )  # fmt: skip
    plt.figure(figsize=SIZE)
    axes = sns.barplot(
        shares,
        x="esci_label",
        y="percent",
        hue="data",
        order=LABELS,
        palette=COLOURS,
        saturation=1,
        linewidth=0,
    )
    axes.set(xlabel="label", ylabel="per cent of the judged pairs")
    axes.legend(title=None, **ABOVE)
    figure(
        "labels",
        "Bars of the shares of the labels E, S, C and I in the simulated shop and in the ESCI "
        "sample: in both most pairs are exact, then come substitutes, then irrelevant products, "
        "and complements are few.",
        "Shares of the four labels among the judged pairs.",
    )


def lengths(tables: dict[str, pd.DataFrame]) -> None:
    drawing, axes = plt.subplots(1, 2, figsize=SIZE, sharey=True)
    for name, frame in tables.items():
        queries = frame.drop_duplicates("query_id")["query"]
        for axis, texts in zip(axes, (queries, frame.product_title), strict=True):
            counts = texts.map(lambda text: len(words(text)))
            sns.ecdfplot(counts, ax=axis, color=COLOURS[name], label=name)
    axes[0].set(xlabel="words in a query", ylabel="share with at most so many", xlim=(0, 15))
    axes[1].set(xlabel="words in a title", xlim=(0, 45))
    drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure(
        "lengths",
        "Two cumulative curves for each of the simulated shop, the ESCI sample and Icecat: the "
        "number of words in a query and in a title.",
        "How long queries and titles are: the share that has at most so many words.",
    )


def gap(tables: dict[str, pd.DataFrame]) -> None:
    rows = pd.concat(
        pd.DataFrame(
            {
                "label": frame.esci_label,
                "data": name,
                "coverage": [
                    100 * coverage(query, title)
                    for query, title in zip(frame["query"], frame.product_title, strict=True)
                ],
            }
        )
        for name, frame in tables.items()
        if "esci_label" in frame
    )
    plt.figure(figsize=SIZE)
    axes = sns.barplot(
        rows, x="label", y="coverage", hue="data", order=LABELS, palette=COLOURS, saturation=1,
        linewidth=0, errorbar=("ci", 95), seed=0, err_kws={"color": plots.INK, "linewidth": 1.2},
    )  # fmt: skip
    axes.set(xlabel="label", ylabel="per cent of a query's\nwords that the title has")
    axes.legend(title=None, **ABOVE)
    figure(
        "gap",
        "Bars of the share of a query's words that stand in the title, by label, in the simulated "
        "shop and in the ESCI sample.",
        "The gap in vocabulary: how many of a query's words the title has, on average, with a 95 % "
        "interval. Words are compared as they are, without stemming.",
    )


def tail(made: shop.Shop) -> None:
    plt.figure(figsize=SIZE)
    for frame, name, dashes in ((made.products, "products", "-"), (made.queries, "queries", "--")):
        counts = frame.product_type.value_counts().to_numpy()
        places = range(1, len(counts) + 1)
        plt.plot(places, counts, dashes, color=COLOURS["shop (simulated)"], label=name)
    plt.xscale("log")
    plt.yscale("log")
    plt.xlabel("rank of the product type, the most common first")
    plt.ylabel("number")
    plt.legend(**ABOVE)
    figure(
        "tail",
        "Two falling curves on logarithmic axes: the number of products and of queries of each "
        "product type, by rank. The curve of the queries falls more steeply.",
        "The long tail: products and queries of each type, both axes logarithmic.",
    )


def counts(made: shop.Shop) -> None:
    """Write the tables, and the generator that they and the figures come from."""
    pairs = pd.concat([made.judgments, made.unlabelled])
    table = pd.DataFrame(
        {
            "queries": pairs.groupby("split").query_id.nunique(),
            "pairs": pairs.groupby("split").size(),
            "exact, %": 100
            * made.judgments.esci_label.eq("E").groupby(made.judgments.split).mean(),
        }
    ).loc[list(SPLITS)]
    kinds = pairs.drop_duplicates("query_id").groupby(["split", "query_kind"]).size().unstack()
    unseen = kinds["unseen_synonym"].reindex(table.index).fillna(0)
    table["asked by an unseen synonym, %"] = 100 * unseen / table.queries
    text = table.copy()
    for name in table:
        form = "{:.1f}" if name.endswith("%") else "{:,}"
        text[name] = [form.format(value).replace("nan", "") for value in table[name]]
    write_text(FIGURES / "shop_counts.csv", text.to_csv())
    facts = {
        "products": len(made.products),
        "product types on sale": made.products.product_type.nunique(),
        "departments": made.products.department.nunique(),
        "brands": made.products.product_brand.nunique(),
        "shoppers": len(made.shoppers),
    }
    lines = ["what,number", *(f'"{name}","{number:,}"' for name, number in facts.items())]
    write_text(FIGURES / "shop_facts.csv", "\n".join(lines) + "\n")
    write_text(FIGURES / "shop_generator.txt", shop.generator_hash() + "\n")


def main() -> None:
    folder = os.environ.get("ECOMKD_REAL_DATA")
    if not folder:
        sys.exit("Set ECOMKD_REAL_DATA to the folder of real data; book/data_real.md makes it.")
    plots.style()
    made = shop.generate(SEED)
    tables = {"shop (simulated)": made.judgments, **real(Path(folder))}
    counts(made)
    label_shares(tables)
    lengths(tables)
    gap(tables)
    tail(made)


if __name__ == "__main__":
    main()
