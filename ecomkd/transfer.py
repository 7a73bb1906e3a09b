"""From one shop to another: what of a model moves, what that is worth, and whether it will harm.

Sizes: U users, I items, E the width of an encoder's vectors, W that of a recommender.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler, normalize

from ecomkd import distill, metrics, models, pipeline, recommend
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.data.schema import GAINS, GRADE_GAINS

RATES = (4e-3, 1e-3)
"""Learning rates that a recommender tries in a shop of which it may know little."""
STEPS = 100
"""Steps of a recommender at least, however few the baskets that it learns from."""
PARTS = ("text", "taste", "habits", "sales", "price")
"""The parts of a recommender that read what two shops have in common."""

_PREFIXES = {
    "text": ("read.0.", "offer.0.", "appeal."),
    "habits": ("scale.", "line.", "curve."),
    "sales": ("sales.",),
    "price": ("read.1.", "offer.1."),
}


# A shop of which few baskets are known ------------------------------------------------------------


def told_by(baskets: Baskets, users: np.ndarray) -> Baskets:
    """The shop as the baskets of these rows of users tell of it; all rows stay what they were."""
    return replace(baskets, events=baskets.events[baskets.events["user"].isin(users)])


def subsets(baskets: Baskets, shares: Sequence[float], end: int, seed: int) -> list[np.ndarray]:
    """For each share, rows of users who have bought before day `end`, drawn at random; each set
    holds the smaller ones."""
    known = np.unique(baskets.between(0, end)["user"])
    order = np.random.default_rng(seed).permutation(known)
    return [np.sort(order[: round(share * len(known))]) for share in shares]


def basket_count(baskets: Baskets, users: np.ndarray, end: int) -> int:
    """How many baskets these users have filled before day `end`."""
    return int(told_by(baskets, users).between(0, end)["basket"].nunique())


def items_of(
    baskets: Baskets, users: np.ndarray, vectors: np.ndarray, profile: Profile, width: int = 64
) -> recommend.Items:
    """The shop's items, all of them, of which sales, prices and buyers are known from the baskets
    of `users` alone. Without a user nothing but the texts is known."""
    if len(users):
        known = told_by(baskets, users)
        return recommend.Items(known, vectors, recommend.FIRST, width, profile)
    return _UnsoldItems(baskets, vectors, recommend.FIRST, width, profile)


class _UnsoldItems(recommend.Items):
    """Items of a shop that has told of no basket: their texts are all that is known of them."""

    def __init__(
        self, baskets: Baskets, vectors: np.ndarray, first: int, width: int, profile: Profile
    ):
        super().__init__(baskets, vectors, first, width, profile)
        self.key = [*self.key, "unsold"]
        self.baskets = replace(baskets, events=baskets.events[:0])
        nothing = tuple(torch.zeros_like(table) for table in self.on(0))
        self.on = lambda day: nothing


# What of a recommender moves ----------------------------------------------------------------------


def part_of(name: str) -> str:
    """Which of `PARTS` a tensor of a recommender belongs to."""
    return next((part for part, own in _PREFIXES.items() if name.startswith(own)), "taste")


def move(
    model: recommend.Recommender, source: dict[str, torch.Tensor], parts: Sequence[str] = PARTS
) -> pd.DataFrame:
    """Put the `parts` of another shop's recommender of the same kind into `model`.

    Who bought an item is told in numbers that mean other people in each shop, so that of the
    layers that read them the column of the price alone moves; the others begin at 0. Returns, for
    each tensor, its part, how many numbers it has, and how many of them were moved.

    Raises ValueError for an unknown part.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"Unknown part {min(unknown)!r}: choose from {', '.join(PARTS)}.")
    rows = []
    with torch.no_grad():
        for name, own in model.state_dict().items():
            part, moved = part_of(name), 0
            if part in parts and part == "price":
                own.zero_()
                own[:, -1], moved = source[name][:, -1], len(own)
            elif part in parts:
                own.copy_(source[name])
                moved = own.numel()
            rows.append((name, part, own.numel(), moved))
    return pd.DataFrame(rows, columns=["tensor", "part", "numbers", "moved"])


def learn(
    kind: type[recommend.Recommender],
    items: recommend.Items,
    start: int,
    profile: Profile,
    source: Path | None = None,
    parts: Sequence[str] = PARTS,
    rates: Sequence[float] = RATES,
) -> Path:
    """The folder of a recommender fitted to the baskets of `items_of` before day `start`.

    With the folder of a `source`, another shop's recommender of that kind, it begins with these
    `parts` of it. It is trained as `recommend.RECIPES` says, but on all items that were sold, for
    `STEPS` steps or more, and once with each of the learning `rates`. Kept is what has the highest
    recall@10 from day `start` on, what it began with included: few baskets can teach less than they
    spoil. Made once, then found among the artefacts. Trained in float32, as `recommend.train`.
    """
    profile = replace(profile, precision="fp32")
    passes = recommend.RECIPES[kind]["passes"]
    moved = source and [list(parts), pipeline.identity(source)]

    def make(folder: Path) -> None:
        known, reader = items.baskets, recommend.Reader(items.baskets)
        rows = recommend.occasions(known, recommend.FIRST, start, recommend.GROUP, profile.seed)
        if not len(rows):
            raise ValueError(
                f"There is no customer who bought before and after a day from {recommend.FIRST} "
                f"to {start - HORIZON}, so nothing can be learnt: add baskets, or use `untrained`."
            )
        sold = torch.from_numpy(np.unique(known.between(0, start)["item"])).to(items.device)
        best = untrained(kind, items, profile, source, parts)
        rank = recommend.network(recommend.Shelf(best, reader, start))
        highest = recommend.evaluate(rank, known, start)["recall"]
        for rate in rates:
            model = untrained(kind, items, profile, source, parts).train()
            trainer = recommend.RankingTrainer(
                model,
                args=distill.arguments(
                    replace(profile, batch_size=1),
                    folder / f"{rate}",
                    max(STEPS, round(passes * len(rows))),
                    rate,
                    metric_for_best_model="recall",
                ),
                train_dataset=rows,
                eval_dataset=rows,  # the library asks for one; `evaluate` reads the baskets
                reader=reader,
                candidates=sold,
                start=start,
            )
            log = distill.run_to_end(trainer, folder / f"{rate}")
            found = max(entry.get("eval_recall", 0.0) for entry in log)
            if found > highest:
                best, highest = model, found
        save_file(best.state_dict(), folder / "model.safetensors")

    key = [
        kind.__name__,
        items.key,
        start,
        [passes, list(rates), STEPS],
        pipeline.settings_of(profile),
        moved,
    ]
    return stage("moved_recommender", key, make, profile.artifacts, recipe=1)


def untrained(
    kind: type[recommend.Recommender],
    items: recommend.Items,
    profile: Profile,
    source: Path | None = None,
    parts: Sequence[str] = PARTS,
) -> recommend.Recommender:
    """A recommender that has learnt nothing in this shop: as it is drawn, or with the `parts` of
    another shop's."""
    with models.seeded(profile.seed):
        model = kind(items)
    if source is not None:
        move(model, load_file(source / "model.safetensors"), parts)
    return model.to(items.device).eval()


def ranker(model: recommend.Recommender, baskets: Baskets, day: int) -> recommend.Ranker:
    """The ranking of a recommender on a day: of whoever asks the own baskets are read, whether or
    not the shop has learnt from them."""
    shelf = recommend.Shelf(model, recommend.Reader(baskets), day)
    past = recommend.history(baskets, day)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        parts = np.split(users, range(128, len(users), 128))
        return np.concatenate(
            [recommend.best(shelf.scores(own), past[own] if new else None) for own in parts]
        )

    return rank


# What moving is worth, and whether it will harm ---------------------------------------------------


def reached(counts: Sequence[int], curve: Sequence[float], level: float) -> float:
    """At how many baskets a `curve` over `counts`, ascending, first reaches a level.

    Between two counts the curve is a straight line over log(1 + count), and it never falls: a shop
    may keep an older model. A level above the whole curve gives the last count: it takes all
    baskets that there are, or more.
    """
    best = np.maximum.accumulate(np.asarray(curve, float))
    if level <= best[0]:
        return float(counts[0])
    if level > best[-1]:
        return float(counts[-1])
    at = int(np.searchsorted(best, level))
    share = (level - best[at - 1]) / (best[at] - best[at - 1])
    low, high = np.log1p([counts[at - 1], counts[at]])
    return float(np.expm1(low + share * (high - low)))


def worth(counts: Sequence[int], alone: pd.DataFrame, moved: pd.DataFrame, at: int) -> dict:
    """How many further baskets the shop would need without transfer, to be where it is with it.

    Args:
        counts: numbers of baskets (n,), ascending.
        alone, moved: a measure of each user (rows) at each count (columns), without transfer and
            with it; the same users in both.
        at: which of the counts the shop has.

    Returns:
        `value` = the count at which `alone` reaches what `moved` has at counts[at], minus
        counts[at]; `low`, `high`, 95 % over users. What `alone` never reaches counts as the last
        count, so that values and ends are at most counts[-1] - counts[at].
    """
    columns = pd.concat([alone.set_axis(range(len(counts)), axis=1), moved.iloc[:, at]], axis=1)
    columns.columns = [*range(len(counts)), "level"]

    def further(means: pd.DataFrame) -> pd.Series:
        rows = means.to_numpy()
        return pd.Series([reached(counts, row[:-1], row[-1]) - counts[at] for row in rows])

    return metrics.bootstrap_of_means(columns, further, resamples=2_000)


def foreseen(moved: pd.Series, without: pd.Series) -> dict:
    """What a handful of labels says of a transfer: the paired difference of a measure with what was
    moved and without it, `low` and `high`, and `says`: "helps" above 0, else "harms"; `sure` where
    the interval leaves 0 out."""
    found = metrics.paired_bootstrap(moved, without)
    says = "helps" if found["difference"] > 0 else "harms"
    return {**found, "says": says, "sure": bool(found["low"] > 0 or found["high"] < 0)}


def share_right(right: Sequence[bool]) -> dict:
    """The share of forecasts that came true, with an exact 95 % interval (Clopper & Pearson 1934);
    None, and 0 to 1, where there is no forecast."""
    from scipy.stats import binomtest

    n, k = len(right), int(np.sum(right))
    if n == 0:
        return {"cases": 0, "share": None, "low": 0.0, "high": 1.0}
    span = binomtest(k, n).proportion_ci()
    return {"cases": n, "share": k / n, "low": float(span.low), "high": float(span.high)}


def distance(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """How far apart two shops' texts lie, from 0, alike, to 2: the proxy A-distance 2 · (1 - 2ε).

    ε is the error, in five folds, of a logistic regression that tells by its vector (N, E) from
    which shop a text is; as many texts of each are taken as the smaller has, and at most 1,000
    (Ben-David et al. 2007, section 5).
    """
    rng, size = np.random.default_rng(seed), min(len(a), len(b), 1000)
    X = np.vstack([part[rng.permutation(len(part))[:size]] for part in (a, b)])
    X = StandardScaler().fit_transform(X)
    y = np.repeat([0, 1], size)
    error = 1 - cross_val_score(LogisticRegression(C=0.01, max_iter=500), X, y, cv=5).mean()
    return float(2 * (1 - 2 * min(error, 0.5)))


def likeness(source: np.ndarray, target: np.ndarray) -> float:
    """How near the target's texts, vectors (N, E), have one among the source's (M, E): the mean of
    each one's highest cosine."""
    a, b = normalize(source), normalize(target)
    parts = np.split(b, range(1000, len(b), 1000))  # a table of all cosines takes memory
    return float(np.concatenate([(part @ a.T).max(axis=1) for part in parts]).mean())


# Search -------------------------------------------------------------------------------------------


def terse(title: str) -> str:
    """A title in another shop's shorthand: its words in reverse order, those of five letters and
    more without the vowels inside."""
    return " ".join(
        word[0] + re.sub("[aeiou]", "", word[1:-1]) + word[-1] if len(word) > 4 else word
        for word in reversed(title.lower().split())
    )


def restyled(data: DatasetDict) -> DatasetDict:
    """Pairs of a simulated shop as another shop would show and rate them.

    Titles are `terse`, further texts are gone, and labels are grades: E is 3, S is 2, C is 1 and I
    is 0. Queries stay: people type the same words everywhere.
    """
    grades = ClassLabel(names=[str(grade) for grade in range(len(GAINS))])
    texts = ("product_description", "product_bullet_point", "product_brand", "product_color")

    def other(row: dict) -> dict:
        told = dict.fromkeys(texts, "") | {"product_title": terse(row["product_title"])}
        return told | {"label": row["label"] if row["label"] < 0 else len(GAINS) - 1 - row["label"]}

    return DatasetDict(
        {
            split: pairs.map(other, desc="Style").cast_column("label", grades)
            for split, pairs in data.items()
        }
    )


def first_queries(pairs: Dataset, queries: int) -> Dataset:
    """The pairs of the first so many queries that have a relevant product and another one."""
    gains = np.asarray(list(pipeline.gains(pairs).values()))[pairs["label"]]
    frame = pd.DataFrame({"query": pairs["query_id"], "gain": gains})
    spread = frame.groupby("query", sort=False)["gain"].agg(["max", "nunique"])
    kept = spread.index[(spread["max"] > 0) & (spread["nunique"] > 1)][:queries]
    return pairs.select(np.flatnonzero(frame["query"].isin(kept)))


def few(data: DatasetDict, queries: int) -> DatasetDict:
    """`data` with so many judged queries to learn from, and half as many, one at least, to choose a
    checkpoint by."""
    kept = {"train": queries, "validation": max(1, queries // 2)}
    return DatasetDict(
        {**data, **{split: first_queries(data[split], size) for split, size in kept.items()}}
    )


def scores(folder: Path, pairs: Dataset, profile: Profile) -> np.ndarray:
    """The expected gain of each pair, (N,), by the classes that the model itself has learnt,
    whatever those of the pairs are."""
    model = models.load(folder)
    tokenizer = models.load_tokenizer(str(folder))
    encoded = distill.encode(pairs, tokenizer, profile.max_length)
    found = pipeline.softmax(distill.predict(model, encoded, tokenizer, profile))
    return metrics.expected_gain(found, own_gains(model))


def own_gains(model: torch.nn.Module) -> list[float]:
    """The gain of each class of a cross-encoder: of ESCI's, of grades, or 0 and 1 of two."""
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if len(names) == 2:
        return [0.0, 1.0]
    return list((GAINS if names == list(GAINS) else GRADE_GAINS).values())


def turned(folder: Path, profile: Profile) -> Path:
    """The folder of a cross-encoder whose head names its classes in the opposite order.

    ESCI's begin with the best, grades with the worst. A head of four classes fits four others in
    shape, so that it loads without a word, and says the opposite.
    """

    def make(into: Path) -> None:
        model = models.load(folder)
        head = model.classifier
        with torch.no_grad():
            for weight in (head.weight, head.bias):
                weight.copy_(weight.flip(0))
        model.save_pretrained(into)
        models.load_tokenizer(str(folder)).save_pretrained(into)

    parts = [pipeline.identity(folder)]
    return stage("flipped_head", parts, make, profile.artifacts, recipe=1)


def tuned(data: DatasetDict, profile: Profile, begin: Path, steps: int, turn: bool = False) -> Path:
    """The folder of a teacher that begins as another one, `turned` if asked, and learns from
    `data`, in passes over its pairs that make `steps` steps or more."""
    begin = turned(begin, profile) if turn else begin
    passes = -(-steps // pipeline.batches(len(data["train"]), profile))
    settings = replace(profile, teacher_epochs=max(1, passes))
    return pipeline.teacher(data, settings, checkpoint=begin)


def lesson(pairs: Dataset, teacher: Path, profile: Profile) -> Dataset:
    """Encoded pairs with what a teacher says of them, on a scale that all teachers share.

    The log-odds of the expected gain, in standard deviations z from the mean of these pairs, become
    two classes with the odds e^(2z). How high and how far apart a shop's labels lie is gone; how
    its teacher orders products stays.
    """
    gain = scores(teacher, pairs, profile).clip(0.001, 0.999)
    odds = np.log(gain / (1 - gain))
    z = (odds - odds.mean()) / odds.std()
    encoded = distill.encode(pairs, models.load_tokenizer(str(teacher)), profile.max_length)
    unlabelled = encoded.remove_columns("labels").add_column("labels", [-100] * len(encoded))
    return unlabelled.add_column("teacher_logits", [[0.0, 2 * value] for value in z.tolist()])


def joint(
    taught: Sequence[tuple[Dataset, Path]], begin: Path, profile: Profile, steps: int
) -> Path:
    """The folder of a student of one or several teachers, each with pairs of its own shop.

    It begins with layers of `begin`, a model of two classes, and learns from the `lesson` of each
    teacher (several teachers, one student: You et al. 2017). One pair in ten of each is held out,
    to choose the checkpoint that agrees best with the teachers.
    """

    def make(folder: Path) -> None:
        parts = [lesson(pairs, teacher, profile) for pairs, teacher in taught]
        held, kept = [], []
        for part in parts:
            out = np.arange(len(part)) % 10 == 9
            held.append(part.select(np.flatnonzero(out)))
            kept.append(part.select(np.flatnonzero(~out)))
        wanted = [np.asarray(part["teacher_logits"])[:, 1] for part in held]
        ends = np.cumsum([len(part) for part in held])[:-1]

        def agreement(logits: np.ndarray) -> dict[str, float]:
            found = np.split(logits[:, 1] - logits[:, 0], ends)
            own = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, wanted, strict=True)]
            return {"quality": float(np.nan_to_num(np.mean(own)))}

        student = models.build_student(models.load(begin, 2), profile.student_layers)
        models.freeze(student, None if profile.frozen_layers is None else 0)
        models.set_dropout(student, profile.student_dropout)
        distill.fit(
            student,
            concatenate_datasets(kept),
            concatenate_datasets(held),
            models.load_tokenizer(str(begin)),
            profile,
            folder,
            steps=steps,
            learning_rate=profile.student_learning_rate,
            quality=agreement,
            temperature=profile.temperature,
        )

    parts = [
        [[pipeline.digests(pairs), pipeline.identity(teacher)] for pairs, teacher in taught],
        pipeline.identity(begin),
        steps,
        pipeline.settings_of(profile, "student_layers", "student_learning_rate", "frozen_layers"),
        [profile.student_dropout, profile.temperature],
    ]
    return stage("joint_student", parts, make, profile.artifacts, recipe=1)
