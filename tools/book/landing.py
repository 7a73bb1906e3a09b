"""The first page of the book: landing.md, with what the chapters and the records say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from string import Template

import nbformat
import pandas as pd
import yaml

from book import frontier
from book.common import OPENING, ROOT
from book.figures import inline, one_line
from book.pages import duration, recorded_seconds, records
from ecomkd import metrics

Records = dict[str, dict]

FIGURES = {
    "01_concepts": "fig-01-gap",
    "02_teacher": "fig-teacher-kinds",
    "03_kd_loss": "fig-kd-temperature",
    "04_student": "fig-student-rows",
    "05_evaluation": "fig-05-confusion",
    "06_feature_extraction": "fig-06-map",
    "07_choosing_a_method": "fig-07-cost",
    "08_search": "fig-08-frontier",
    "09_serving": "fig-09-load",
    "10_recommendation": "fig-10-recall",
    "11_user_profiles": "fig-11-reliability",
    "12_descriptions": "fig-12-facts",
    "13_cross_platform": "fig-13-curve",
    "14_real_time": "fig-14-days",
    "15_multimodal": "fig-15-found",
    "16_privacy": "fig-16-leak",
    "17_explanations": "fig-17-deletion",
    "18_federated_adaptive": "fig-18-bytes",
    "19_growing": "fig-19-cells",
}
"""The figure of each chapter that stands on its card."""


# The one result of each chapter -----------------------------------------------------------------


def results(found: Records) -> dict[str, str]:
    """What each chapter found, in a sentence, with the numbers of the records.

    Exits where a record denies its sentence: then the sentence is to be written anew.
    """
    sentences = {}
    for name, say in _RESULTS.items():
        sentence, holds = say({key: record["data"] for key, record in found.items()})
        if not holds:
            raise SystemExit(f"The records deny what the first page says of {name}: {sentence}")
        sentences[name] = sentence
    return sentences


def _concepts(data: Records) -> tuple[str, bool]:
    rows = data["core_shop"]["rows"]
    chance, words = rows["teacher"]["random_ndcg@10"], rows["BM25"]["ndcg@10"]
    return (
        f"A random order does not score zero: its nDCG@10 is {chance:.3f}. Counting words gives "
        f"{words:.3f}.",
        0.5 < chance < words,
    )


def _teacher(data: Records) -> tuple[str, bool]:
    rows = data["pretraining"]["rows"]
    names = "pretrained, warmed up", "bi-encoder, untrained", "random weights"
    read, free, fresh = (rows[name]["lift@10 by kind"]["unseen_synonym"] for name in names)
    return (
        f"For words that no training query has, the fine-tuned network lifts nDCG@10 by "
        f"{read:.3f}, the pretrained encoder as it comes by {free:.3f}, and the same network, "
        f"taught the same labels from random numbers, by {_signed(fresh)}.",
        min(read, free) > 0.05 and abs(fresh) < 0.02,
    )


def _loss(data: Records) -> tuple[str, bool]:
    beside = _over_shops(data, "soft targets", "labels only")
    better = _over_shops(data, "soft targets, of it", "labels only", "freed_teacher")
    apart = _over_shops(data, "soft targets, of it", "soft targets", "freed_teacher")
    ahead = _over_shops(data, "teacher, no weight frozen", "teacher", "freed_teacher")
    return (
        f"On the same labelled pairs of {len(beside['by_seed'])} shops, a teacher's opinion beside "
        f"the label adds {beside['mean']:.3f} nDCG@10 to a student; that of a better teacher adds "
        f"{better['mean']:.3f}, told neither from nothing nor from the first.",
        min(beside["low"], ahead["low"]) > 0
        and all(one["low"] < 0 < one["high"] for one in (better, apart)),
    )


def _student(data: Records) -> tuple[str, bool]:
    more = "soft targets, more pairs"
    added = _over_shops(data, more, "labels only")
    free = _over_shops(data, more, "words and bi-encoder, added up")
    return (
        f"Each with settings chosen for it, a distilled student is {added['mean']:.3f} nDCG@10 "
        f"above one on labels alone, and {free['mean']:.3f}, in the mean, above words and encoder "
        "that nobody trained.",
        added["low"] > 0 and min(free["by_seed"]) > 0,
    )


def _over_shops(data: Records, system: str, against: str, record: str = "labels_only") -> dict:
    """The difference of two systems in nDCG@10: its interval over shops, and that of each."""
    return next(
        one["seeds"] | {"by_seed": one["by_seed"]}
        for one in data[record]["differences"]
        if (one["system"], one["against"]) == (system, against)
    )


def _evaluation(data: Records) -> tuple[str, bool]:
    speed = {name: row["p50_ms"] for name, row in data["core_shop"]["speed"].items()}
    whole = speed["teacher, PyTorch fp32"] / speed["student, ONNX int8"]
    alike = speed["teacher, ONNX int8"] / speed["student, ONNX int8"]
    return (
        f"The student served is {whole:.0f} times as fast as its teacher in PyTorch; in int8, "
        f"distillation makes it {alike:.1f} times as fast.",
        1 < alike < whole,
    )


def _features(data: Records) -> tuple[str, bool]:
    frozen, tuned = (_method(data, name, 50) for name in ("frozen", "full"))
    free = _method(data, "cosine", 0)
    return (
        f"With 50 labels, a linear model on frozen vectors lifts nDCG@10 by {frozen:.3f}, "
        f"fine-tuning by {_signed(tuned)}; the encoder's own cosine, which needs no label, by "
        f"{free:.3f}.",
        free > frozen > 0.05 > tuned,
    )


def _methods(data: Records) -> tuple[str, bool]:
    runs = pd.DataFrame(data["methods"]["entries"])
    runs = runs.pivot(index="seed", columns=["labels", "method"], values="lift@10")
    cosine = runs[0, "cosine"]
    *fewer, most = sorted(set(runs.columns.get_level_values("labels")) - {0})
    leads = {n: runs[n].sub(cosine, axis=0) for n in (*fewer, most)}
    return (
        f"In {len(cosine)} shops, up to {fewer[-1]:,} labels, each of {leads[most].shape[1]} "
        "methods orders worse, by its recipe there, than the encoder's own cosine, a lift of "
        f"{cosine.mean():.3f}; with {most:,}, none is shown to order better.",
        all((leads[n] < 0).all(axis=None) for n in fewer)
        and (metrics.simultaneous_intervals(leads[most])["low"] <= 0).all(),
    )


def _search(data: Records) -> tuple[str, bool]:
    rows = data["search_shop"]["rows"]
    quick, slow = rows["BM25 + static student"], rows["BM25 + bi-encoder, teacher reads 100"]
    return (
        f"Words and a table of vectors answer in {quick['p50_ms']:.1f} ms with an nDCG@10 of "
        f"{quick['ndcg@10']:.3f}; a search read by the teacher takes {slow['p50_ms']:,.0f} ms for "
        f"{slow['ndcg@10']:.3f}.",
        quick["p50_ms"] < slow["p50_ms"] / 100 and quick["ndcg@10"] > 0.95 * slow["ndcg@10"],
    )


def _serving(data: Records) -> tuple[str, bool]:
    record = data["serving_load"]
    bend = next(row for row in record["levels"] if row["clients"] == record["bend"])
    end = max(record["levels"], key=lambda row: row["clients"])
    return (
        f"The service gives {bend['per_second']:.0f} answers a second to {bend['clients']} "
        f"clients and {end['per_second']:.0f} to {end['clients']}; what grows is the wait, for 95 "
        f"of 100 answers from at most {bend['p95_ms']:.0f} to at most {end['p95_ms']:,.0f} ms.",
        end["per_second"] > 0.8 * bend["per_second"] and end["p95_ms"] > 10 * bend["p95_ms"],
    )


def _recommendation(data: Records) -> tuple[str, bool]:
    rows = data["recommendation"]["journey"]["rows"]
    names = ("buy it again", "user-kNN", "student, distilled", "LambdaMART")
    habit, near, student, trees = (rows[name]["recall"] for name in names)
    return (
        f"Habit is most of it: buy it again has a recall@10 of {habit:.3f}, households alike bring "
        f"it to {near:.3f}. The distilled student has {student:.3f}, and trees, which need no "
        f"network, {trees:.3f}.",
        habit < near < min(student, trees) <= max(student, trees) < 1.1 * habit,
    )


def _profiles(data: Records) -> tuple[str, bool]:
    interest = data["cards"]["cards"]["held"]["interest"]
    return (
        f"Of the interests that profiles tell, {_percent(interest['value'])} still held half a "
        f"year later; by chance {_percent(interest['chance'])} would.",
        interest["low"] > interest["chance"],
    )


def _descriptions(data: Records) -> tuple[str, bool]:
    rows = data["writers"]["rows"]
    names = "prompted, 2 examples", "student, 1,000 texts of the teacher's, 500 steps", "teacher"
    prompted, student, teacher = (rows[name]["recall"]["value"] for name in names)
    right = [rows[name]["clean"]["value"] for name in names]
    return (
        f"As it comes, the model names {_percent(prompted)} of a product's facts, fine-tuned "
        f"{_percent(teacher)}, and a student with a third of its layers {_percent(student)}. Only "
        f"{_percent(right[2])} and {_percent(right[1])} of the texts of these two name every fact "
        "and claim nothing that the checker finds wrong.",
        prompted < student < teacher and right == sorted(right),
    )


def _platforms(data: Records) -> tuple[str, bool]:
    curve = data["cross_platform"]["recommendation"]["curve"]
    point = curve[3]
    kept, moved, alone, rule = (
        point["rows"][name]["value"] for name in ("zero-shot", "moved", "alone", "buy it again")
    )
    return (
        f"After {point['baskets']:,.0f} baskets of a gift shop, a network that learnt from "
        f"groceries and is left as it is has a recall@10 of {kept:.3f}; trained on them it has "
        f"{moved:.3f}. The rule buy it again has {rule:.3f}; left as it is, the "
        "network is not shown to beat it.",
        kept > rule > moved > alone
        and all(
            one["recall, minus"]["zero-shot − buy it again"]["low"] <= 0
            for one in data["cross_parts"]["points"]
        ),
    )


def _real_time(data: Records) -> tuple[str, bool]:
    head = data["real_time"]["heads"]["0"]
    wait = next(row for row in data["real_time"]["scale"] if row["times"] == 1)["answer p99_ms"]
    gain = head["minus"]["live − nightly"]
    return (
        f"Ten exact items in {wait:.1f} ms, 99 times of 100; being live and not nightly changes "
        f"recall@10 by {gain['difference']:.4f}, which cannot be told from nothing.",
        wait < 5 and gain["low"] <= 0 < gain["difference"],
    )


def _multimodal(data: Records) -> tuple[str, bool]:
    found = {
        (one["row"], one["on"]): one for one in data["multimodal"]["tasks"]["colour"]["comparisons"]
        if (one["row"], one["against"]) in (
            ("both", "text"), ("picture: distilled", "picture: labels alone")
        )
    }  # fmt: skip
    silent, taught = found["both", "not stated"], found["picture: distilled", "all"]
    return (
        f"Where a title is silent about the colour, a picture beside it adds "
        f"{100 * silent['difference']:.0f} points of accuracy; and titles that name it teach a "
        f"student of pictures {100 * taught['difference']:.0f}.",
        silent["low"] > 0 and taught["low"] > 0,
    )


def _privacy(data: Records) -> tuple[str, bool]:
    rows = data["privacy"]["attacks"]["rows"]
    names = "teacher", "teacher's shape, taught on the agreed", "student, taught on the agreed"
    teacher, wide, small = (rows[name]["auc"] for name in names)
    return (
        f"Whose purchases a teacher learnt from is told with an AUC of {teacher['value']:.2f}; a "
        f"student of its shape that never saw them still tells, with {wide['value']:.2f}, a small "
        f"one with {small['value']:.2f}.",
        teacher["low"] > wide["high"] > wide["low"] > 0.8 > 0.6 > small["high"],
    )


def _explanations(data: Records) -> tuple[str, bool]:
    found = data["explanations"]["baskets"]
    plausible = found["plausible"]["most similar text"]
    true = min(row["true"] for row in found["true"].values())
    return (
        "A shop says: because you bought the most similar item. Without that item, "
        f"{100 * plausible['still shown']['value']:.0f} of 100 would be shown all the same. A "
        "sentence that is checked first is true each time.",
        plausible["still shown"]["low"] > 0.5 and true == 1,
    )


def _federated(data: Records) -> tuple[str, bool]:
    found = {
        (one["row"], one["against"]): one for one in data["federated"]["silos"]["comparisons"]
        if (one["on"], one["measure"]) == ("smallest", "new_recall")
    }  # fmt: skip
    own, averaged = "local, own counts", "federated, own counts"
    sums, weights = found["local, sums", own], found[averaged, own]
    ahead, rule = found["local, sums", averaged], found["local, sums", "buy it again, sums"]
    return (
        f"To the smallest third of 98 stores, one secure sum of what sells is worth "
        f"{100 * sums['difference']:.1f} points of recall among what is new to a household, "
        f"averaged weights {100 * weights['difference']:.1f}; that the sum is ahead is not "
        "certain. A rule that trains nothing makes as much of the sum.",
        sums["low"] > 0
        and ahead["low"] <= 0 < ahead["difference"]
        and rule["low"] <= 0 <= rule["high"],
    )


def _growing(data: Records) -> tuple[str, bool]:
    largest = data["engine_scale"]["sizes"][-1]
    kept = {
        name.split(",")[0]: found["value"]
        for name, found in data["clicks"]["msrd"]["kept"].items()
        if name.endswith(", 100000")
    }
    naive, weighed = kept["clicks as they are"], kept["estimated propensities"]
    p95 = largest["words and vectors"]["p95_ms"]
    return (
        f"A million products are searched on one thread, 95 of 100 answers in {p95:.0f} ms. "
        f"Simulated clicks teach {_percent(weighed)} of what labels do, where each counts by how "
        f"often its rank is seen; as they are, {_percent(naive)}.",
        p95 < 50 and naive < 0.9 < weighed,
    )


def _rows(data: Records) -> list[dict]:
    return data["methods"]["summary"]


def _method(data: Records, name: str, labels: int) -> float:
    row = next(row for row in _rows(data) if (row["method"], row["labels"]) == (name, labels))
    return row["lift@10"]["mean"]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"


def _signed(value: float) -> str:
    """Three digits, with a true minus and no minus before zero."""
    return f"{value:.3f}".replace("-", "−").replace("−0.000", "0.000")


_RESULTS: dict[str, Callable[[Records], tuple[str, bool]]] = {
    "01_concepts": _concepts,
    "02_teacher": _teacher,
    "03_kd_loss": _loss,
    "04_student": _student,
    "05_evaluation": _evaluation,
    "06_feature_extraction": _features,
    "07_choosing_a_method": _methods,
    "08_search": _search,
    "09_serving": _serving,
    "10_recommendation": _recommendation,
    "11_user_profiles": _profiles,
    "12_descriptions": _descriptions,
    "13_cross_platform": _platforms,
    "14_real_time": _real_time,
    "15_multimodal": _multimodal,
    "16_privacy": _privacy,
    "17_explanations": _explanations,
    "18_federated_adaptive": _federated,
    "19_growing": _growing,
}


# Pictures ---------------------------------------------------------------------------------------


def thumbnail(notebook, wanted: str) -> str:
    """A chapter's figure as its card shows it, in colours of the page's style sheet.

    Of a tall figure, which has panels below each other, it is the upper part.
    """
    for cell in notebook.cells:
        shown = cell.metadata.get("mystnb", {})
        if shown.get("figure", {}).get("name") == wanted:
            for output in cell.outputs:
                if drawn := output.get("data", {}).get("image/svg+xml"):
                    svg = one_line(inline(drawn, f"card-{wanted}", shown["image"]["alt"]))
                    wide, high = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
                    part = '<svg preserveAspectRatio="xMidYMin slice"'
                    return svg.replace("<svg", part, 1) if high > wide else svg
    raise SystemExit(f"No chapter's output has the figure {wanted}, which is to stand on a card.")


# The page ---------------------------------------------------------------------------------------


def first_page(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """The first page, as Markdown."""
    recorded, seconds = records(), recorded_seconds()
    found = results(recorded)
    cards = {}
    for name, notebook in notebooks.items():
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        number = int(name[:2])
        time = f"runs in {duration(seconds[name])}" if name in seconds else "run time not measured"
        cards[name] = "\n".join(
            [
                f":::{{grid-item-card}} {number} · {title}",
                f":link: notebooks/{name}",
                ":link-type: doc",
                ":class-card: chapter",
                "",
                "```{raw} html",
                f'<div class="picture">{thumbnail(notebook, FIGURES[name])}</div>',
                "```",
                "",
                found[name],
                "",
                f'<span class="time">{time}</span>',
                ":::",
            ]
        )
    parts = []
    for caption, opener, names in parts_of_the_book():
        inner = "\n".join(cards[name] for name in names if name in cards)
        parts.append(
            f"### [{caption}](/{opener}.md)\n\n::::{{grid}} 1 2 2 3\n:gutter: 3\n\n{inner}\n::::"
        )
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    page = Template(Path(__file__).with_suffix(".md").read_text("utf-8"))
    return page.substitute(
        title=config["title"],
        typed=OPENING.typed,
        sold=OPENING.sold,
        frontier=frontier.picture("frontier"),
        fails=frontier.where_it_fails(recorded),
        chapters="\n\n".join(parts),
        count=len(notebooks),
    )


def parts_of_the_book() -> list[tuple[str, str, list[str]]]:
    """The parts that have chapters: caption, first page, and the names of the chapters."""
    found, caption, opener = [], "", ""
    for part in yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]:
        files = [entry["file"] for entry in part["chapters"]]
        names = [name.removeprefix("notebooks/") for name in files if name.startswith("notebooks/")]
        if names:
            found.append((caption, opener, names))
        else:
            caption, opener = part["caption"], files[0]
    return found
