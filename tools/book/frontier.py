"""The record `frontier` on a page: a picture, what each encoder reaches, and in which time."""

from __future__ import annotations

import io
from collections.abc import Callable

import readme_picture
from book.figures import inline, one_line
from book.goals import folded, span
from book.pages import apart, ranked, rates, table
from ecomkd.relevance.tables import TEACHER, UNTRAINED, UNTRAINED_SUM
from ecomkd.relevance.verdict import BEATS

NAMES = {
    "six layers": "6 layers of 384",
    "three layers": "3 layers of 384",
    "two layers": "2 layers of 384",
    "two layers of 128": "2 layers of 128",
    "static": "static: a table",
}
"""The students of the record, in words."""
FREE_OF_LABELS = ("untrained", "no label", "added up")
"""What the rows of systems that no label taught are known by."""

TEACHERS = {
    "base size, untrained": "as it came",
    "words + base size, untrained": "the free sum",
    "teacher": "fine-tuned",
    "words + teacher": "words and fine-tuned",
}
"""The teachers of the record `free_teacher`, in words."""

ALT = (
    "Quality of ranking against the time for one query, on a logarithmic axis: the teacher of base "
    "size, students of six, three and two layers, a narrow and a static one, each distilled and "
    "faster than the one before, and two of them trained on labels alone, lower; rings, hardly "
    "lower and further to the left, for what int8 makes of teacher and students; words and the sum "
    "that nobody trained as dashed lines"
)


def picture(name: str, size: tuple[float, float] = (6.2, 4.8)) -> str:
    """The picture as SVG in the page, in colours of the page's style sheet."""
    drawn = io.StringIO()
    figure = readme_picture.draw(size)
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    readme_picture.plt.close(figure)
    return one_line(inline(drawn.getvalue(), name, ALT))


def page_part(record: dict, sparse: dict) -> str:
    """What book/film_queries.md includes: the picture, and tables of time, quality and pairs.

    `sparse` is the record `sparse_student`, of the same test queries and of a teacher of its own.
    """
    data = record["data"]
    rows, clock = data["msrd"]["rows"], data["clock"]
    kept = {one["system"]: f"{100 * one['value']:.1f} %" for one in data["msrd"]["kept"]}

    def time(name: str) -> list[str]:
        if name not in clock:
            return ["", ""]
        fast = clock["teacher"]["p50_ms"] / clock[name]["p50_ms"]
        return [f"{clock[name]['p50_ms']:.2g} ms", f"{fast:,.1f}" if fast < 10 else f"{fast:,.0f}"]

    def quality(name: str) -> str:
        return ranked(rows[name])

    encoders = {"teacher": "teacher, 12 layers of 768", **NAMES}
    times = {
        words: [f"{clock[name]['bytes'] / 1e6:.0f} MB", *time(name), *time(f"{name}, int8")]
        for name, words in encoders.items()
    }
    reached = {
        "words at their best": ["", "", quality("words"), kept["words"], ""],
        "12 layers of 768, untrained": untrained_row("base size, untrained", quality, kept),
        "6 layers of 384, untrained": untrained_row("six layers, untrained", quality, kept),
        encoders["teacher"]: [
            quality("teacher"), "", quality("words + teacher"), "", kept["teacher, int8"],
        ],
    }  # fmt: skip
    for name, words in NAMES.items():
        reached[words] = [quality(f"{name}, labels"), quality(name), quality(f"words + {name}")]
        reached[words] += [kept[name], kept.get(f"{name}, int8", "")]
    others = sparse["data"]["msrd"]["rows"]
    reached["sparse: an index of pieces"] = [
        "", ranked(others["sparse student"]), ranked(others["words + sparse student"]), "", "",
    ]  # fmt: skip
    counts = sorted({int(n.split()[-2]) for n in rows if n.endswith(" pairs") and "+" not in n})
    curve = {
        f"{count:,}": [quality(f"{name}, {count} pairs") for name in ("three layers", "static")]
        for count in counts
    }
    both = [NAMES["three layers"], NAMES["static"]]
    tables = (
        table("encoder", ["size", "a query", "times as fast", "int8", "times as fast"], times),
        table("nDCG@10", ["no teacher", "distilled", "with words", "kept", "int8 keeps"], reached),
        table("pairs without a label", both, curve),
    )
    figure = f'<figure class="frontier">{picture("compared")}</figure>'
    shown = f"```{{raw}} html\n{figure}\n```"
    alone = {f"{name}, labels": f"{words}, labels alone" for name, words in NAMES.items()}
    chosen = rates(data["choices"], encoders | alone)
    return "\n\n".join([shown, *tables, chosen, folded(record)]) + "\n"


def teachers_part(record: dict) -> str:
    """What book/film_queries.md includes of the record `free_teacher`: what students have from each
    teacher, by themselves and added to words, and the differences that decide."""
    rows, students = record["data"]["rows"], ("three layers", "static")
    heads = [name + end for name in map(NAMES.get, students) for end in ("", ", with words")]
    shown = {"none: labels alone": [""]}
    shown["none: labels alone"] += _both(rows, students, "{}, labels")
    for name, words in TEACHERS.items():
        of = f"{{}}, taught by {name}"
        shown[words] = [ranked(rows[name]), *_both(rows, students, of)]
    told = {(one["system"], one["against"]): span(one) for one in record["data"]["comparisons"]}
    compared = {}
    for one, other in (
        ("teacher", "words + base size, untrained"),
        ("teacher", "base size, untrained"),
        ("words + teacher", "words + base size, untrained"),
        ("words + base size, untrained", "base size, untrained"),
    ):
        pairs = [
            (f"{before}{student}, taught by {one}", f"{before}{student}, taught by {other}")
            for student in students
            for before in ("", "words + ")
        ]
        compared[f"{TEACHERS[one]} − {TEACHERS[other]}"] = [told[pair] for pair in pairs]
    tables = (
        table("teacher, of base size", ["nDCG@10 of the teacher", *heads], shown),
        table("students of the first teacher − of the second", heads, compared),
    )
    return "\n\n".join([*tables, folded(record)]) + "\n"


def _both(rows: dict[str, dict], students: tuple[str, ...], of: str) -> list[str]:
    return [
        ranked(rows[before + of.format(student)])
        for student in students
        for before in ("", "words + ")
    ]


def untrained_row(name: str, quality: Callable[[str], str], kept: dict[str, str]) -> list[str]:
    return [quality(name), "", quality(f"words + {name}"), kept[name], ""]


def where_it_fails(found: dict[str, dict]) -> str:
    """Real products on which fine-tuning does not pay, in sentences for the first page.

    Exits where the records deny them.
    """
    lists, queries = found["core_esci_150"]["data"], found["untrained"]["data"]["esci_150"]
    others = found["whole_lists"]["data"]
    free, start = "bi-encoder, untrained", "the warm start, no label"
    told = {one["system"]: one for one in lists["comparisons"] if one["against"] == UNTRAINED[free]}
    (paid,) = (
        one
        for one in found["frontier"]["data"]["msrd"]["comparisons"]
        if (one["system"], one["against"]) == ("words + teacher", "words + base size, untrained")
    )
    teacher, chance = lists["rows"][TEACHER], lists["rows"][TEACHER]["random_ndcg@10"]
    labelled = sorted(set(queries["training_queries"]))
    text = (
        "It does not pay everywhere. On whole lists of Amazon's products, with the labels of "
        f"{' or '.join(map(str, labelled))} queries, the book's fine-tuned teacher has an nDCG@10 "
        f"of {teacher['ndcg@10']:.2f}, where a random order has {chance:.2f}, an encoder that "
        f"nobody trained {lists['rows'][free]['ndcg@10']:.2f}, and the teacher's own network, "
        "which had learnt without labels to copy that encoder, "
        f"{others['rows'][start]['ndcg@10']:.2f} before its first label. By the book's recipe, by "
        "eleven others and with a network of base size [nothing that was "
        "fine-tuned](#sec-esci-lists) is shown to beat the untrained encoder. On the films above "
        "it pays a little: added to words, the teacher, trained once, is "
        f"{paid['value']:.3f} [{paid['low']:.3f}, {paid['high']:.3f}] above the same sum without "
        "training."
    )
    beaten = any(one["word"] == BEATS for one in told.values()) or any(
        one["low"] > 0
        for one in others["comparisons"]
        if one["against"] in (free, start) and one["system"] != start
    )
    beaten |= any(
        one["low"] > 0
        for name in ("further_lists", "list_losses", "base_lists")
        for one in found[name]["data"]["comparisons"]
        if one["against"] == free
        and not any(free_of_labels in one["system"] for free_of_labels in FREE_OF_LABELS)
    )
    if beaten or told[TEACHER]["high"] >= 0 or paid["low"] <= 0:
        raise SystemExit(f"The records deny what the first page says: {text}")
    return f"{text}\n\n{labels_it_takes(found)}"


def _by_pair(record: dict) -> dict[tuple[str, str], dict]:
    return {(one["system"], one["against"]): one for one in record["data"]["comparisons"]}


def labels_it_takes(found: dict[str, dict]) -> str:
    """At how many labels the sum with a teacher beats the sum that nobody trained, in sentences.

    Exits where the records deny them.
    """
    name = "spread, in the sum, {:.0f} labels"
    counts = found["new_head"]["data"]["labels"]
    free = {name.format(n): f"{UNTRAINED_SUM}, {n:.0f} labels" for n in counts}
    sums = {
        one["system"]: one
        for one in found["new_head"]["data"]["differences"]
        if one["against"] == free.get(one["system"])
    }
    *few, many = (sums[name.format(n)]["seeds"] for n in counts)
    curve = {
        int(one["system"].removeprefix("words + teacher of ")): one
        for one in found["query_side"]["data"]["msrd"]["comparisons"]
        if one["system"].startswith("words + teacher of ") and one["against"] == "words + untrained"
    }
    *fewer, most = sorted(curve)
    hidden = [n for n in fewer if curve[n]["low"] <= 0]
    gains = [curve[n]["value"] for n in fewer]
    last = curve[most]
    films = _by_pair(found["film_lists"])
    network = "each product by itself"
    short, alone = (films[f"{network}, {n} queries", "bi-encoder, untrained"] for n in (64, 256))
    like, added = (
        films[f"{network}, with words and bi-encoder, 256 queries", f"{free_sum}, 256 queries"]
        for free_sum in (UNTRAINED_SUM, f"{UNTRAINED_SUM}, weights from all labels")
    )
    weighed = _by_pair(found["sum_weights"])
    too_few, like_for_like, of_base = (
        weighed[tuple(f"words + {name}, weights from all labels, {case} queries"
                      for name in ("teacher", "untrained"))]
        for case in ("six layers, 100", "six layers, 400", "base size, 400")
    )  # fmt: skip
    text = (
        "How many labels does it take? In five simulated shops a network that reads query and "
        f"product together and was taught by {counts[0]} to {counts[-2]:,} judged pairs is not "
        "shown to add anything to the sum of words and encoder that nobody trained; taught by all "
        f"{counts[-1]:,} pairs it [adds](#teacher-labels) {many['mean']:.3f} "
        f"[{many['low']:.3f}, {many['high']:.3f}]. On the films, whose queries have up to 24 "
        f"judged pairs each, an encoder of queries that {min(fewer)} to {max(fewer):,} labelled "
        f"queries taught adds {min(gains):.3f} to {max(gains):.3f} to such a sum (with "
        f"{' and with '.join(map(str, hidden))} it is not told from nothing), and one that "
        f"{most:,} labelled queries taught adds {last['value']:.3f} [{last['low']:.3f}, "
        f"{last['high']:.3f}]. A network that reads both together and that 64 film queries taught, "
        f"each product by itself, stands {-short['difference']:.3f} "
        f"[{-short['high']:.3f}, {-short['low']:.3f}] "
        "[below](#sec-film-lists) the encoder that nobody trained; taught by 256, "
        f"{alone['difference']:.3f} [{alone['low']:.3f}, {alone['high']:.3f}] above it. Added "
        f"to such a sum it adds {like['difference']:.3f} [{like['low']:.3f}, {like['high']:.3f}]. "
        "But it is not shown to beat the sum without it once the labels that taught it choose that "
        "sum's weights too; fewer queries chose its own. Where all labels choose the weights on "
        "both sides, the encoder of queries "
        f"[still adds](#sec-sum-weights) {apart(like_for_like)} if 400 labelled queries taught "
        f"it ({apart(of_base)} if it has base size), and {apart(too_few)} if 100 did, which is not "
        "told from nothing."
    )
    nothing = all(one["low"] <= 0 for one in (*few, added, too_few)) and short["high"] < 0
    shown = (many, last, alone, like, like_for_like, of_base)
    if not (nothing and hidden) or any(one["low"] <= 0 for one in shown):
        raise SystemExit(f"The records deny what the first page says: {text}")
    return text
