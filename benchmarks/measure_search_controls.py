"""What a first stage learns from, and what it is worth; and readers that are timed alike.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_search_controls.py --seeds 21
    ECOMKD_PRECISION=bf16 python benchmarks/measure_search_controls.py --seeds 22 23
    ECOMKD_PRECISION=bf16 python benchmarks/measure_search_controls.py --once
    ECOMKD_PRECISION=bf16 python benchmarks/measure_search_controls.py --merge

On the shops of `search_shop`, over whole catalogues. Bi-encoders that learn margins differ in what
they learn from, and take the same steps at the same rate. The one of contrast takes six passes over
rows of its own, at the better of two rates. Another by contrast has a first stage, in which it
takes two passes over the judged pairs and those that nobody judged, whose labels the teacher says,
and a second one of six passes over the judged pairs alone. Two others take as many steps in two
stages: labels alone, once more, and those beside labels that the encoder of judged labels gives to
the same pairs (by its cosines, with one threshold for all queries, so that each label has the share
that it has of judged pairs). In all of these the rate is the higher of the two, which validation
had taken for labels on every shop. A table that imitates takes eight passes, that of labels the
bi-encoders' steps at the best of three rates. The untrained encoder reads 256 tokens of a product,
trained ones the profile's. Sums of words and an encoder, trained or not, have the weight that
validation chooses, with the words as they come and mended. LambdaMART learns from the judged pairs,
by signals that need no label (words and the untrained cosine), and puts the first 20 or 100
products of the untrained sum with mended words into an order of its own, which takes the place of
the sum's, while what readers say is added to theirs. It never learns from the products that such a
search finds, so it may be worth more than it shows. Readers order the first twenty products of one
search, all in ONNX Runtime, on one thread and pair by pair. A run that is started again goes on
where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict

import margins
import shared
from ecomkd import (
    bench,
    export,
    features,
    keys,
    metrics,
    models,
    report,
    runtime,
    search,
    words,
)
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data import shop, sources, truth
from ecomkd.relevance import baselines, bi_encoders, judge, mining, stages
from ecomkd.relevance.lambdamart import lambdamart
from ecomkd.relevance.lexical import lexical_signals
from ecomkd.score import Scorer
from ecomkd.search import encoders

DEPTH, READ, TIMED, ROUNDS, CLOCKED = 100, 20, 40, 5, 21
"""CLOCKED is the shop of the times: TIMED times READ pairs, in ROUNDS of all readers in turn."""
UNTRAINED, LABELS = "bi-encoder, untrained", "bi-encoder, labels by margins"
MARGINS = "bi-encoder, the search by margins"
CONTRAST = "bi-encoder, labels by contrast"
DISTILLED = "bi-encoder, the teacher's labels and then labels, by contrast"
TOLD = "bi-encoder, the teacher's labels and labels at once, by contrast"
LONGER = "bi-encoder, labels by contrast, as many steps"
SELF = "bi-encoder, labels of its own and then labels, by contrast"
JUDGED = f"{MARGINS}, judged pairs alone"
CHOICES = f"{MARGINS}, with the teacher's first choices"
NO_TEACHER = f"{MARGINS}, without the teacher"
AT_RANDOM = f"{MARGINS}, random products for mined ones"
TABLE = "table, from the search by margins"
TABLE_BEFORE = f"{TABLE}, before it learns"
TABLE_LABELS = "table, labels by margins"
TABLE_UNTRAINED = "table, from the untrained bi-encoder"
TABLE_CONTRAST = "table, from labels by contrast"
TABLE_DISTILLED = "table, from contrast with the teacher's labels"
TABLE_SELF = "table, from contrast with labels of the encoder's own"
WORDS, MENDED = "BM25", "BM25, spelling mended"
FIRST, FIRST_MENDED = f"{WORDS} + {MARGINS}", f"{MENDED} + {MARGINS}"
FREE_SUM, FREE_MENDED = f"{WORDS} + {UNTRAINED}", f"{MENDED} + {UNTRAINED}"
CONTRAST_SUM = f"{WORDS} + {CONTRAST}"
DISTILLED_SUM, SELF_SUM = f"{WORDS} + {DISTILLED}", f"{WORDS} + {SELF}"
DISTILLED_QUICK, SELF_QUICK = f"{WORDS} + {TABLE_DISTILLED}", f"{WORDS} + {TABLE_SELF}"
TREES = {depth: f"{FREE_MENDED}, LambdaMART orders {depth}" for depth in (READ, DEPTH)}
READERS = ("teacher, fp32", "teacher, int8", "student, fp32", "student, int8")
CONTRAST_READ = f"{CONTRAST_SUM}, {READERS[3]}"
DISTILLED_READ = f"{DISTILLED_SUM}, {READERS[3]}"
SUMMED = (UNTRAINED, MARGINS, CONTRAST, DISTILLED, SELF, TABLE_DISTILLED, TABLE_SELF)
"""Encoders and tables that stand in a sum with words."""
PASSES = 2
"""Over the judged pairs and those that the teacher labels, before the judged ones alone."""
RATES = (1e-3, 3e-3, 1e-2)
"""Tried for the table of labels."""
COMPARED = {
    (MENDED, WORDS): "spelling that is mended",
    (UNTRAINED, MENDED): "the untrained bi-encoder, against words that are mended",
    (FREE_SUM, UNTRAINED): "words, added to the untrained bi-encoder",
    (FREE_MENDED, FREE_SUM): "spelling that is mended, in that sum",
    **{(name, FREE_MENDED): f"{depth} ordered by LambdaMART" for depth, name in TREES.items()},
    **{
        (FIRST_MENDED, name): f"the trained sum, against the untrained one, {depth} by LambdaMART"
        for depth, name in TREES.items()
    },
    (FIRST, FREE_SUM): "the search by margins, in the sum",
    (FIRST_MENDED, FREE_MENDED): "the same, with words that are mended",
    (MARGINS, LABELS): "all that distillation by margins brings",
    (CONTRAST, LABELS): "labels by contrast, against labels by margins",
    (JUDGED, LABELS): "the search's scores on judged pairs, in place of gains",
    (MARGINS, JUDGED): "then pairs that nobody judged",
    (MARGINS, CHOICES): "the teacher's chances in place of its first choices",
    (MARGINS, NO_TEACHER): "the teacher's part in the scores",
    (NO_TEACHER, LABELS): "words and first vectors alone, on more pairs",
    (MARGINS, AT_RANDOM): "mined products in place of random ones",
    (MARGINS, CONTRAST): "the search by margins, against labels by contrast",
    (CONTRAST_SUM, CONTRAST): "words, added to labels by contrast",
    (CONTRAST_SUM, FIRST): "labels by contrast in the place of the search by margins, with words",
    (
        CONTRAST,
        f"{FIRST}, {READERS[0]}",
    ): "labels by contrast alone, against the search with teacher",
    (CONTRAST_SUM, f"{FIRST}, {READERS[0]}"): "the same, with words",
    (DISTILLED, f"{FIRST}, {READERS[0]}"): "the teacher's labels by contrast, against that search",
    (CONTRAST_READ, CONTRAST_SUM): "twenty of these, read by the student",
    (DISTILLED, LONGER): "the teacher's labels before the judged ones, in as many steps",
    (LONGER, CONTRAST): "more steps by contrast",
    (DISTILLED, SELF): "the teacher's labels in place of the encoder's own",
    (SELF, LONGER): "the encoder's own labels, in as many steps",
    (DISTILLED, CONTRAST): "the teacher's labels, and more steps",
    (DISTILLED, TOLD): "the judged labels once more, by themselves",
    (TOLD, CONTRAST): "the teacher's labels beside the judged ones, and more steps",
    (DISTILLED, MARGINS): "the teacher's labels by contrast, against the search's margins",
    (DISTILLED_SUM, DISTILLED): "words, added to the encoder of the teacher's labels",
    (DISTILLED_SUM, CONTRAST_SUM): "the teacher's labels, with words",
    (DISTILLED_SUM, FREE_SUM): "all that training brings to the sum",
    (DISTILLED_READ, DISTILLED_SUM): "twenty of these, read by the student",
    (DISTILLED_READ, CONTRAST_READ): "the teacher's labels, with words and the student",
    (DISTILLED_SUM, SELF_SUM): "the same, with words",
    (TABLE_DISTILLED, TABLE_SELF): "the same, in the encoders that tables imitate",
    (DISTILLED_QUICK, SELF_QUICK): "the same, with words",
    (DISTILLED_QUICK, f"{FIRST}, {READERS[0]}"): "the table and words, against that search",
    (SELF_QUICK, f"{FIRST}, {READERS[0]}"): "the same, without any teacher",
    (TABLE_DISTILLED, TABLE_CONTRAST): "the teacher's labels, in the encoder that a table imitates",
    (TABLE_DISTILLED, TABLE_UNTRAINED): "all that training brings to the table",
    (TABLE_DISTILLED, DISTILLED): "a table of the teacher's labels, against the encoder",
    (TABLE_CONTRAST, TABLE): "labels by contrast to imitate, in place of the search by margins",
    (TABLE_CONTRAST, CONTRAST): "a table of labels by contrast, against it",
    (TABLE, MARGINS): "the table, against its teacher",
    (TABLE, TABLE_BEFORE): "what the table learns",
    (TABLE, TABLE_LABELS): "that table, against one of labels with another start and loss",
    (TABLE, TABLE_UNTRAINED): "a trained bi-encoder to imitate",
    (TABLE_UNTRAINED, UNTRAINED): "a table of the untrained bi-encoder, against it",
    **{(f"{FIRST}, {reader}", FIRST): f"twenty read by {reader}" for reader in READERS},
    (f"{FIRST}, {READERS[2]}", f"{FIRST}, {READERS[0]}"): "student against teacher, fp32",
    (f"{FIRST}, {READERS[3]}", f"{FIRST}, {READERS[1]}"): "student against teacher, int8",
}


class Taught:
    """What bi-encoders of a shop learn from: pairs, the teacher's answers, the search's scores."""

    def __init__(self, data: DatasetDict, catalogue: Dataset, profile: Profile, teacher: Path):
        self.data, self.catalogue, self.profile, self.teacher = data, catalogue, profile, teacher
        mined = search.hard_negatives(data, catalogue, profile)
        self.pairs = {name: data[name] for name in ("train", "unlabelled")} | {"mined": mined}
        self.gains = np.asarray(list(judge.gains(data["train"]).values()))
        self.first = margins.bi_encoder(data, catalogue, profile, teacher, searched=False)
        self.steps = margins.steps(data, profile)

    def at_random(self) -> Dataset:
        """As many products of the catalogue for each query as were mined for it, at random."""
        mined = self.pairs["mined"]
        rng = np.random.default_rng(self.profile.seed)
        rows = rng.integers(len(self.catalogue), size=(len(mined), 1))
        pairs = search.candidates(mined, self.catalogue, rows)
        return pairs.cast_column("label", mined.features["label"])

    def answers(self, pairs: Dataset) -> np.ndarray:
        """The teacher's probabilities (N, C)."""
        parts = DatasetDict(asked=pairs)
        told = stages.teacher_pairs(parts, self.profile, self.teacher, "asked")
        return judge.softmax(np.asarray(told["teacher_logits"]))

    def searched(
        self, parts: Sequence[Dataset], read: str = "chances"
    ) -> tuple[Dataset, np.ndarray]:
        """Pairs and their scores under the whole search. What the teacher `read` counts by its
        chances, or by its first `choice`, or, with `nothing`, not at all."""
        pairs = margins.joined(parts)
        chances = np.concatenate([self.answers(part) for part in parts])
        expected = {
            "chances": chances @ self.gains,
            "choice": self.gains[chances.argmax(axis=1)],
            "nothing": np.zeros(len(pairs)),
        }[read]
        scores = margins.by_search(
            pairs, expected, self.data["validation"], self.catalogue, self.profile,
            self.first, self.teacher,
        )  # fmt: skip
        return pairs, margins.SCALE * scores

    def bi_encoder(self, name: str, make: Callable[[], tuple[Dataset, np.ndarray]]) -> Path:
        """One that learns margins of these scores, as those of the search do."""

        def write(folder: Path) -> None:
            rows = margins.rows_of(*make(), self.profile.seed)
            model = bi_encoders._start(self.profile)
            held = self.data["validation"]
            margins.learn(
                model, rows, held, self.profile, folder, self.steps,
                self.profile.student_learning_rate,
            )  # fmt: skip

        return stage("search_control", self.parts(name), write, self.profile.artifacts)

    def table(self, begin: Path, rate: float | None) -> Path:
        """A table of a bi-encoder's tokens as it is or, at a rate, taught the margins of labels."""

        def write(folder: Path) -> None:
            teacher = bi_encoders.encoder(begin, self.profile)
            model = encoders._untaught(teacher, self.profile.seed)
            if rate is None:
                model.save_pretrained(str(folder), create_model_card=False)
                return
            pairs = self.data["train"]
            rows = margins.rows_of(pairs, self.gains[pairs["label"]], self.profile.seed)
            held = self.data["validation"]
            margins.learn(model, rows, held, self.profile, folder, self.steps, rate)

        parts = self.parts("table", keys.identity(begin), rate)
        return stage("search_control", parts, write, self.profile.artifacts)

    def contrasts(self) -> dict[str, Path]:
        """Encoders by contrast: one of the judged labels, and those that learn from these once
        more, after a first stage that has further labels beside them or has them alone."""
        train = self.data["train"]
        data, profile, rates = self.data, self.profile, bi_encoders.RATES[-1:]
        told = search.told(data, self.catalogue, profile, self.teacher)

        def batches(further: Dataset | None) -> int:
            rows = bi_encoders.contrastive_rows(bi_encoders.beside(train, further), profile.seed)
            return keys.batches(len(rows), profile)

        def learn(further: Dataset | None) -> tuple[Path, Path]:
            """After the first stage, and after both."""
            passes = PASSES * batches(told) / batches(further)
            start = bi_encoders.contrastive(data, profile, further, passes, rates)
            return start, bi_encoders.contrastive(data, profile, rates=rates, start=start)

        found = {CONTRAST: bi_encoders.contrastive(data, profile)}
        found[TOLD], found[DISTILLED] = learn(told)
        _, found[LONGER] = learn(None)
        _, found[SELF] = learn(self.labelled(found[CONTRAST], told))
        return found

    def labelled(self, first: Path, pairs: Dataset) -> Dataset:
        """Pairs with labels by the cosine of an encoder: as many of each as judged pairs have."""
        order = np.argsort(-bi_encoders.cosine_scores(first, pairs, self.profile), kind="stable")
        best_first = np.argsort(-self.gains, kind="stable")
        judged = np.asarray(self.data["train"]["label"])
        shares = np.array([(judged == label).mean() for label in best_first])
        ends = np.round(shares.cumsum() * len(pairs)).astype(int)
        found = np.empty(len(pairs), dtype=int)
        for label, own in zip(best_first, np.split(order, ends[:-1]), strict=True):
            found[own] = label
        pairs = pairs.remove_columns("label").add_column("label", found.tolist())
        return pairs.cast_column("label", self.data["train"].features["label"])

    def parts(self, name: str, *further: object) -> list:
        """What the key of a control is made of."""
        own = keys.settings_of(self.profile, "frozen_layers", "student_learning_rate")
        known = keys.identity(self.teacher), keys.identity(self.first)
        return [name, *known, keys.digests(*self.pairs.values()), self.steps, own, *further]


def folders(taught: Taught) -> dict[str, Path]:
    """All encoders of a shop, trained where they are not there yet."""
    data, catalogue, profile = taught.data, taught.catalogue, taught.profile
    train, unlabelled, mined = taught.pairs.values()
    whole = [train, unlabelled, mined]
    found = {UNTRAINED: Path(models.checkpoint("minilm")), LABELS: taught.first}
    found[MARGINS] = margins.bi_encoder(data, catalogue, profile, taught.teacher, searched=True)
    found |= taught.contrasts()
    found |= {
        JUDGED: taught.bi_encoder("judged", partial(taught.searched, [train])),
        CHOICES: taught.bi_encoder("choices", partial(taught.searched, whole, "choice")),
        NO_TEACHER: taught.bi_encoder("no teacher", partial(taught.searched, whole, "nothing")),
        AT_RANDOM: taught.bi_encoder(
            "random", lambda: taught.searched([train, unlabelled, taught.at_random()])
        ),
    }
    found[TABLE] = search.static_encoder(data, catalogue, profile, found[MARGINS])
    found[TABLE_UNTRAINED] = search.static_encoder(data, catalogue, profile, found[UNTRAINED])
    found[TABLE_CONTRAST] = search.static_encoder(data, catalogue, profile, found[CONTRAST])
    found[TABLE_DISTILLED] = search.static_encoder(data, catalogue, profile, found[DISTILLED])
    found[TABLE_SELF] = search.static_encoder(data, catalogue, profile, found[SELF])
    found[TABLE_BEFORE] = taught.table(found[MARGINS], None)
    by_rate = {rate: taught.table(found[LABELS], rate) for rate in RATES}
    held = data["validation"]
    found[TABLE_LABELS] = max(
        by_rate.values(),
        key=lambda folder: bi_encoders.Validation(held)(bi_encoders.encoder(folder, profile))[
            "ndcg@10"
        ],
    )
    return found


def trees(data: DatasetDict, catalogue: Dataset, profile: Profile) -> Callable:
    """LambdaMART of the judged pairs: a function from pairs to scores (N,)."""
    by_words, of_words = lexical_signals(catalogue), baselines.word_features(catalogue)

    def read(pairs: Dataset) -> np.ndarray:
        cosine = features.bi_encoder_scores(pairs, profile)
        return np.column_stack([of_words(pairs), by_words(pairs), cosine])

    shown, held = data["train"], data["validation"]
    chosen = lambdamart(read(shown), shown, read(held), held)
    return lambda pairs: chosen.scores(read(pairs))


def reader_of(name: str, teacher: Path, student: Path, profile: Profile, gains) -> Scorer:
    """One of READERS in ONNX Runtime, from the folders of its models."""
    model, precision = name.split(", ")
    file = "model.onnx" if precision == "fp32" else "model.int8.onnx"
    exported = export.exports(teacher if model == "teacher" else student, profile)
    return Scorer(exported / file, profile.max_length, gains)


def made(seed: int) -> tuple[Profile, Dataset, DatasetDict, Path, Path]:
    """Profile, catalogue, data, teacher and student of a shop."""
    profile = Profile.named(seed=seed)
    catalogue = sources.catalogue("shop", profile)
    data = mining.with_unlabelled(sources.load("shop", profile), catalogue, profile)
    teacher = stages.teacher(data, profile)
    live = profile.live_pairs
    student = stages.student(data, profile, teacher_folder=teacher, unlabelled=live)
    return profile, catalogue, data, teacher, student


def clocked() -> dict:
    """Milliseconds in which a reader reads READ pairs, and how many times as long as the student
    its teacher takes, in fp32 and in int8; over ROUNDS of all readers in turn."""
    torch.set_num_threads(1)
    profile, _, data, teacher, student = made(CLOCKED)
    gains = np.asarray(list(judge.gains(data["test"]).values()))
    asked, texts = list(data["test"]["query"]), sources.product_text(data["test"][:])
    starts = range(0, READ * min(TIMED, len(asked) // READ), READ)
    each = [(asked[start : start + READ], texts[start : start + READ]) for start in starts]
    scorers = {name: reader_of(name, teacher, student, profile, gains) for name in READERS}
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        took = {
            name: bench.latency(lambda one, score=score: score(*one), each, 2, 1, 1)["p50_ms"]
            for name, score in scorers.items()
        }
        times = {
            f"teacher over student, {precision}": took[f"teacher, {precision}"]
            / took[f"student, {precision}"]
            for precision in ("fp32", "int8")
        }
        rounds.append(took | times)
    return {name: shared.over_rounds([one[name] for one in rounds]) for name in rounds[0]}


def measured(seed: int) -> dict:
    """All systems of one shop: nDCG@10 and recall@100 by query."""
    torch.set_num_threads(1)
    profile, catalogue, data, teacher, student = made(seed)
    taught = Taught(data, catalogue, profile, teacher)
    texts, labels = sources.product_text(catalogue[:]), truth.judgments(profile)
    shown = data["test"].to_pandas().drop_duplicates("query_id")
    names, queries = shown["query_id"].tolist(), shown["query"].tolist()
    held, quality = search.quality_on(data["validation"], catalogue["product_id"])
    gains = judge.gains(data["test"])
    ten = judge.frame(data["test"], np.zeros(len(data["test"]))).drop(columns="score")
    result: dict = {"systems": {}, "judged": {}, "words": {}}

    def keep(name: str, rows: np.ndarray) -> None:
        frame = search.ranked(names, catalogue["product_id"], rows)
        values = metrics.retrieval(frame, labels, gains)["per_query"]
        columns = {of: values[of].to_dict() for of in ("ndcg@10", "recall@100")}
        result["systems"][name] = columns
        # What a shop would measure that knows the label of ten products a query, and of no other.
        result["judged"][name] = metrics.retrieval(frame, ten, gains)["ndcg@10"]
        print(f"seed {seed}: {name}: {values['ndcg@10'].mean():.3f}", flush=True)

    index, lexicon = words.bm25(texts), words.spelling(texts)
    keep(WORDS, search.lexical(index, queries, DEPTH)[1])
    right = [words.mended(lexicon, query) for query in queries]
    keep(MENDED, search.lexical(index, right, DEPTH)[1])
    cosines = {}
    for name, folder in folders(taught).items():
        model = bi_encoders.encoder(folder, profile)
        vectors, asked = features.encode(model, texts), features.encode(model, queries)
        keep(name, search.exact(vectors).search(asked, DEPTH)[1])
        if name in SUMMED:
            cosines[name] = asked @ vectors.T, features.encode(model, held) @ vectors.T
    forms = {WORDS: (queries, held)}
    forms[MENDED] = right, [words.mended(lexicon, query) for query in held]
    scores = {name: [search.word_scores(index, asked) for asked in forms[name]] for name in forms}
    found: dict[str, np.ndarray] = {}
    for name, encoder, worded in (
        (FREE_SUM, UNTRAINED, WORDS),
        (FREE_MENDED, UNTRAINED, MENDED),
        (FIRST_MENDED, MARGINS, MENDED),
        (FIRST, MARGINS, WORDS),
        (CONTRAST_SUM, CONTRAST, WORDS),
        (DISTILLED_SUM, DISTILLED, WORDS),
        (SELF_SUM, SELF, WORDS),
        (DISTILLED_QUICK, TABLE_DISTILLED, WORDS),
        (SELF_QUICK, TABLE_SELF, WORDS),
    ):
        own, there = zip(cosines[encoder], scores[worded], strict=True)
        weights = search.choose_weights(*there, quality, np.zeros_like, READ)
        result["words"][name] = weights.words
        found[name] = search.weighted(*own, weights.words, DEPTH)[1]
        keep(name, found[name])
    score_pairs = trees(data, catalogue, profile)
    asked = Dataset.from_pandas(shown, preserve_index=False)
    for depth, name in TREES.items():
        first = found[FREE_MENDED][:, :depth]
        said = score_pairs(search.candidates(asked, catalogue, first))
        keep(name, np.hstack([search.rerank(first, said)[1], found[FREE_MENDED][:, depth:]]))
    for first, encoder, reader in (
        *((FIRST, MARGINS, reader) for reader in READERS),
        (CONTRAST_SUM, CONTRAST, READERS[3]),
        (DISTILLED_SUM, DISTILLED, READERS[3]),
    ):
        own, there = zip(cosines[encoder], scores[WORDS], strict=True)
        score = reader_of(reader, teacher, student, profile, taught.gains)

        def read(asked: list[str], rows: np.ndarray, score: Scorer = score) -> np.ndarray:
            repeated = [query for query, row in zip(asked, rows, strict=True) for _ in row]
            return score(repeated, [texts[row] for row in rows.ravel()])

        weights = search.choose_weights(*there, quality, partial(read, held), READ)
        sums, rows = search.weighted(*own, weights.words, DEPTH)
        said = weights.reranker * read(queries, rows[:, :READ]).reshape(-1, READ)
        best = search.rerank(rows[:, :READ], (sums[:, :READ] + said).ravel())[1]
        keep(f"{first}, {reader}", np.hstack([best, rows[:, READ:]]))
    kinds = dict(zip(names, shown["query_kind"], strict=True))
    result |= {"generator": shop.generator_hash(), "kinds": kinds}
    return result | {"precision": runtime.precision(profile)}


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    order = shared.by_query(parts, "ndcg@10")
    rows, differences = shared.of_shops(order, COMPARED)
    seen = order[shared.kinds_of(parts, order) != "unseen_synonym"]
    of_labels = {pair: COMPARED[pair] for pair in COMPARED if pair[0] in (DISTILLED, SELF)}
    shared.add_search_by_kind(rows, parts)
    ten = {name: np.mean([part["judged"][name] for part in parts]) for name in rows}
    apart = shared.by_pair(differences)
    origin = shared.origin("search_controls", parts)
    origin["command"] = origin["command"].replace("--seeds", "--once --seeds")
    report.write_recorded(
        out,
        **origin,
        data={
            "rows": {
                name: row | {"ndcg@10, ten judged": float(ten[name])} for name, row in rows.items()
            },
            "differences": differences,
            "without_unseen_synonyms": shared.of_shops(seen, of_labels)[1],
            "weights_of_words": {part["seed"]: part["words"] for part in parts},
            "ms_for_twenty": shared.sizes(folder, "once"),
        },
        goals=[
            shared.above_over_seeds(
                f"nDCG@10 over the catalogue: {MARGINS}, minus {what} (interval over seeds)",
                apart[MARGINS, other],
            )
            for other, what in ((LABELS, "labels by margins"), (CONTRAST, "labels by contrast"))
        ]
        + [
            shared.above_over_seeds(
                "nDCG@10 over the catalogue: bi-encoder by contrast, the teacher's labels of pairs "
                f"that nobody judged and then labels, minus {what} (interval over seeds)",
                apart[DISTILLED, other],
            )
            for other, what in (
                (LONGER, "labels alone in as many steps"),
                (SELF, "an encoder's own labels of these pairs and then labels"),
            )
        ],
    )
    print(f"Wrote {out}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a first stage learns from.")
    arguments = shared.arguments_of(parser, "search_controls", scaled=False, once=True)
    shared.run(shared.resumed(arguments), measured, merge, once=clocked)


if __name__ == "__main__":
    main()
