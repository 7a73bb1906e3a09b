"""Train what the book needs and takes too long to wait for, and pack it to be shipped.

`make models` calls it. Each artefact is made once: a run that was stopped goes on where it was.
What comes after an artefact starts from its packed form, as it does at a reader's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from book.common import OPENING

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "_build" / "models"
"""Where artefacts are made (`artifacts`) and packed (`packed`) before all of them are there."""
LIMIT_MB, FILE_MB = 60, 25
MEASURES = ("eval_quality", "eval_recall", "eval_ndcg@10")
SAMPLES, READ = 40, 30
"""Queries for which the page that searches shows the teacher's order; products read for each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="e.g. core search; all by default")
    parser.add_argument("--ship", action="store_true", help="put all that is packed into ecomkd/")
    arguments = parser.parse_args()
    if unknown := set(arguments.chapters) - set(CHAPTERS):
        sys.exit(f"Nothing is recorded for {', '.join(sorted(unknown))}: {', '.join(CHAPTERS)}.")
    if arguments.ship and arguments.chapters:
        parser.error("--ship replaces all that is recorded: leave the names of chapters out.")
    os.environ["ECOMKD_PROFILE"] = "book"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["ECOMKD_ARTIFACTS"] = str(PLACE / "artifacts")
    os.environ["ECOMKD_RECORDED"] = str(PLACE / "packed")
    (PLACE / "packed").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(unpacked(), ignore_errors=True)
    for name in arguments.chapters or CHAPTERS:
        for call, *stages in CHAPTERS[name]():
            record(call, stages)
    if arguments.ship:
        ship()


def record(call: Callable, stages: list[str]) -> None:
    """Call, pack the new artefacts of these stages, and call again to have them unpacked."""
    artifacts, packed = PLACE / "artifacts", PLACE / "packed"
    begin = time.monotonic()
    call()
    for stage in stages:
        for folder in sorted(artifacts.glob(f"{stage}-*")):
            if not (packed / folder.name).exists():
                size = pack(folder, packed / folder.name)
                seconds = time.monotonic() - begin
                print(f"{folder.name}: {size / 1e6:.2f} MB, {seconds:.0f} s", flush=True)
    call()


def unpacked() -> Path:
    """Where a packed artefact is unpacked once a call asks for it."""
    return PLACE / "artifacts" / "recorded"


def pack(folder: Path, packed: Path) -> int:
    from ecomkd import bench, packing, report
    from ecomkd.config import Profile

    working = packed.with_name(f".{packed.name}")
    shutil.rmtree(working, ignore_errors=True)
    made = {
        "command": "make models",
        "created": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seeds": [Profile.named("book").seed],
        "hardware": bench.hardware(),
        "versions": report.versions(),
        "quality": quality(folder),
    }
    size = packing.pack(folder, working, made, sources=("minilm",))
    working.rename(packed)
    return size


def quality(folder: Path) -> float | None:
    """The best look at the validation data, by the measure that chose the checkpoint.

    Where none of `MEASURES` was taken, a loss chose, and the lowest one is given.
    """
    from ecomkd.relevance.stages import training_log

    if not (folder / "training.json").exists():
        return None
    log = training_log(folder)
    measured = [name for name in MEASURES if name in log]
    if measured:
        return float(log[measured[0]].max())
    return float(log["eval_loss"].min()) if "eval_loss" in log else None


def ship() -> None:
    """Put what is packed in place of what the package has, but for what no call asked for.

    That is left from before a stage's recipe was raised.
    """
    shipped = ROOT / "ecomkd" / "recorded" / "models"
    folders = [PLACE / "packed" / name for name in {path.name for path in unpacked().glob("*/*")}]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    total, largest = sum(p.stat().st_size for p in files), max(p.stat().st_size for p in files)
    if total > LIMIT_MB * 1e6 or largest > FILE_MB * 1e6:
        sys.exit(f"{total / 1e6:.1f} MB, {largest / 1e6:.1f} in one file: too much to ship.")
    working = shipped.with_name(".models")
    shutil.rmtree(working, ignore_errors=True)
    for folder in folders:
        shutil.copytree(folder, working / folder.name)
    shutil.rmtree(shipped, ignore_errors=True)
    working.rename(shipped)
    print(f"{len(list(shipped.iterdir()))} artefacts, {total / 1e6:.1f} MB")


def core() -> Iterator[tuple]:
    import ecomkd
    from ecomkd.relevance import stages

    profile = ecomkd.Profile.named(precision="fp32")
    data = ecomkd.load("shop", profile)
    yield lambda: stages.warmed(data, profile), "warmed"
    yield lambda: stages.teacher(data, profile), "teacher"
    teacher = stages.teacher(data, profile)
    live = profile.live_pairs
    yield lambda: stages.teacher_pairs(data, profile, teacher, "train"), "teacher_outputs"
    yield (
        lambda: stages.teacher_pairs(data, profile, teacher, "unlabelled", live),
        "teacher_outputs",
    )
    for row in ("kd_unlabelled", "none"):
        yield (
            lambda row=row: stages.student(
                data, profile, row, teacher_folder=teacher, unlabelled=live
            ),
            "student",
        )


def search() -> Iterator[tuple]:
    import ecomkd
    from ecomkd.data import sources
    from ecomkd.relevance import stages
    from ecomkd.search import encoders, unjudged

    profile = ecomkd.Profile.named(precision="fp32")
    data, live = ecomkd.load("shop", profile), profile.live_pairs
    catalogue = sources.catalogue("shop", profile)
    teacher = stages.teacher(data, profile)
    given = data, catalogue, profile
    yield (
        lambda: unjudged.told(*given, teacher, live),
        "hard_negatives",
        "teacher_outputs",
    )
    yield lambda: encoders.bi_encoder(*given, "told", teacher, live), "contrastive"
    yield lambda: encoders.bi_encoder(*given, "distilled", teacher, live), "contrastive"
    bi_encoder = encoders.bi_encoder(*given, "distilled", teacher, live)
    yield lambda: encoders.static_encoder(*given, bi_encoder), "static_encoder"


def recommend() -> Iterator[tuple]:
    import ecomkd
    from ecomkd import features
    from ecomkd import recommend as part
    from ecomkd.data import journey
    from ecomkd.data.baskets import sample

    profile = ecomkd.Profile.named(precision="fp32")
    shop = sample(journey.load(), profile.households, profile.seed)
    texts, _ = part.texts(shop)
    yield lambda: features.last_layer(texts, profile), "text_vectors"
    items = part.Items(shop, features.last_layer(texts, profile), part.FIRST, 64, profile)

    def train(kind, **options) -> Path:
        return part.train(kind, items, shop.validation_start, profile, **options)

    yield lambda: train(part.BasketTransformer), "recommender"
    teacher = train(part.BasketTransformer)
    yield lambda: train(part.DecayedMeans, teacher=teacher), "recommender"
    yield lambda: train(part.DecayedMeans), "recommender"


def search_page() -> Iterator[tuple]:
    """The data file of the page that searches, which every rendering of the book shows."""
    import numpy as np

    import ecomkd
    from ecomkd import keys
    from ecomkd.artifacts import data_digest, stage
    from ecomkd.data import sources
    from ecomkd.relevance import judge, stages
    from ecomkd.search import encoders

    profile = ecomkd.Profile.named(precision="fp32")
    data, live = ecomkd.load("shop", profile), profile.live_pairs
    catalogue = sources.catalogue("shop", profile)
    teacher = stages.teacher(data, profile)
    wide = encoders.bi_encoder(data, catalogue, profile, "distilled", teacher, live)
    static = encoders.static_encoder(data, catalogue, profile, wide)
    texts = [OPENING.typed, *dict.fromkeys(data["test"]["query"])]
    chosen = [0, *1 + np.random.default_rng(0).permutation(len(texts) - 1)[: SAMPLES - 1]]
    queries = [texts[number] for number in chosen]

    def make(folder: Path) -> None:
        from ecomkd import models
        from ecomkd.search import page

        best = teachers_order(queries, data, catalogue, profile, teacher, wide)
        table = encoders.encoder(static, profile)[0].embedding.weight.detach().numpy()
        page.write(
            folder / "search_data.js",
            models.load_tokenizer("minilm"),
            table,
            catalogue,
            dict(zip(queries, best[:, :10].tolist(), strict=True)),
            true_labels(queries, data["test"], catalogue, profile),
            list(judge.gains(data["test"]).values()),
        )

    parts = [
        queries,
        data_digest(catalogue, ("product_id", "product_title")),
        *(keys.identity(folder) for folder in (teacher, wide, static)),
    ]
    yield lambda: stage("search_page", parts, make, profile.artifacts, recipe=2), "search_page"


def true_labels(queries, test, catalogue, profile) -> dict:
    """The class of each row of the catalogue (N,), for those of the queries that test ones ask.

    A query for which the shop has nothing exact is left out, as in `metrics.retrieval`.
    """
    import numpy as np

    from ecomkd.data import truth

    names = test.features["label"].names
    row_of = {product: row for row, product in enumerate(catalogue["product_id"])}
    asked = dict(zip(test["query"], test["query_id"], strict=True))
    known = truth.judgments(profile).groupby("query_id")
    found = {}
    for query in queries:
        if query in asked and asked[query] in known.groups:
            classes = np.full(len(row_of), names.index("I"))
            for pair in known.get_group(asked[query]).itertuples():
                if pair.product_id in row_of:
                    classes[row_of[pair.product_id]] = names.index(pair.esci_label)
            if (classes == names.index("E")).any():
                found[query] = classes
    return found


def teachers_order(queries, data, catalogue, profile, teacher: Path, wide: Path):
    """Rows (Q, READ) of the catalogue: what words and vectors find, as the teacher reads it.

    The weight of the words is the best one on validation queries, as in chapter 8.
    """
    from datasets import Dataset

    from ecomkd import words
    from ecomkd.data.sources import product_text
    from ecomkd.relevance import judge
    from ecomkd.search import encoders, retrieve, tune

    texts = product_text(catalogue[:])
    index, encoder = words.bm25(texts), encoders.encoder(wide, profile)
    vectors = encoder.encode(texts, show_progress_bar=False)

    def compared(asked):
        cosines = encoder.encode(asked, show_progress_bar=False) @ vectors.T
        return cosines, retrieve.word_scores(index, asked)

    validation, quality = tune.quality_on(data["validation"], catalogue["product_id"])
    scores = compared(validation)
    weight = max(tune.WORDS, key=lambda one: quality(retrieve.weighted(*scores, one, READ)[1]))
    sums, rows = retrieve.weighted(*compared(queries), weight, READ)
    numbered = Dataset.from_dict(
        {"query_id": list(map(str, range(len(queries)))), "query": queries}
    )
    pairs = tune.candidates(numbered, catalogue, rows)
    labels, gains = data["test"].features["label"], judge.gains(data["test"])
    read = tune.model_scores(teacher, pairs, labels, gains, profile)
    return retrieve.rerank(rows, (sums + 0.1 * read.reshape(rows.shape)).ravel())[1]


def describe() -> Iterator[tuple]:
    """What the teacher of chapter 12 learns, and what the generator writes before it learns."""
    import ecomkd
    from ecomkd.describe import writers

    task = writers.shop_task(ecomkd.Profile.named(precision="fp32"), **writers.PAGE)
    yield lambda: writers.adapter(task), "description_adapter"
    yield lambda: writers.prompted(task), "prompted_descriptions"


def multimodal() -> Iterator[tuple]:
    """The network's vectors of the drawn shop of chapter 15."""
    import ecomkd
    from ecomkd.multimodal import drawn

    shop, profile = drawn.products(drawn.COUNT), ecomkd.Profile.named()
    yield lambda: drawn.seen(shop, profile), "drawn_pictures"


CHAPTERS = {
    "core": core,
    "search": search,
    "search_page": search_page,
    "recommend": recommend,
    "describe": describe,
    "multimodal": multimodal,
}


if __name__ == "__main__":
    main()
