"""What pictures add to texts, on photographs of groceries and of fashion. Chapter 15.

    python benchmarks/measure_multimodal.py --once
    python benchmarks/measure_multimodal.py --seeds 1 2 3 4 5
    python benchmarks/measure_multimodal.py --merge

needs ECOMKD_REAL_DATA, the extra `multimodal`, and some 25 minutes of one core for the vectors of
all pictures, which are kept, then about ten minutes a seed. `--once` measures what no seed changes.
Products of fashion are split by a hash of their titles, so that no title is on both sides; a seed
draws weights, the order of training, the labelled products, the groups of classes and the missing
pictures. All settings are chosen on validation products, row by row.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import PCA

import shared
from ecomkd import bench, features, metrics, report, runtime
from ecomkd.artifacts import file_digest, stage
from ecomkd.config import Profile
from ecomkd.models import checkpoint
from ecomkd.multimodal import align, modes, pictures

FILES = {
    "grocery": ("grocery/images112.parquet", "image"),
    "iconic": ("grocery/classes_text_iconic.parquet", "iconic_image"),
    "clothing": ("clothing_small/images128.parquet", "image"),
    "fashion": ("fashion_small/sample.parquet", "image"),
}
LEAST = {"type": 40, "colour": 100}
"""A class of fashion with fewer products is left out."""
LABELLED = 500
PAIRS = (50, 200, 1000, 5000)
MISSING = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
PHOTOGRAPHS = (1, 2, 4, 8)
RESAMPLES = 2_000
PANNED = 400
"""Photographs over which a window is moved, as if a camera panned."""
EDGES = (64, 112, 160, 224)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
REDUCED = 128
"""Numbers that are left of the network's 1,280, by principal components."""
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)
TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2)
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
"""Of a second score beside a first one of weight 1."""
NEVER = -1e6
"""The score of a product with itself, which is not to be found."""
WAYS = ("ridge", "contrastive")
CATALOGUES = (1_000, 10_000, 100_000)
FOUND_PAIRS = (("text", "picture"), ("both", "text"), ("both", "picture"), ("picture", "network"))
KNOWN_PAIRS = (
    ("both", "text"),
    ("both", "picture"),
    ("both, early", "text"),
    ("both, late", "text"),
    ("both, gated", "both, early"),
    ("both, gated", "both, early, pictures hidden in training"),
    ("both, late", "both, early"),
    ("both, early, network not reduced", "both, early"),
    ("both, early, network not reduced", "text"),
    ("network", "colour counts"),
    ("picture", "network"),
    ("text", "words of the title"),
)
DISTILLED_PAIRS = tuple(
    (f"{mode}: {row}", other)
    for mode in ("text", "picture")
    for row in ("distilled", "distilled from the other mode")
    for other in (
        f"{mode}: labels alone",
        f"{mode}: distilled, labelled products",
        f"{mode}: taught by itself",
        f"{mode}: teacher's classes",
        "teacher",
    )
)


# Vectors ------------------------------------------------------------------------------------------


def whitened(vectors: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The first principal components on the rows of `train`, each over its standard deviation."""
    return PCA(REDUCED, whiten=True, random_state=0).fit(vectors[train]).transform(vectors)


def table(name: str) -> pd.DataFrame:
    path, column = FILES[name]
    frame = pd.read_parquet(shared.real_folder(path))
    held = [one["bytes"] if isinstance(one, dict) else one for one in frame[column]]
    return frame.drop(columns=column).assign(picture=held)


def seen(name: str, profile: Profile, size: int = pictures.SIZE) -> dict[str, np.ndarray]:
    """Vectors of all pictures of a file: `network` (N, 1280) and `colours` (N, 24)."""
    source = shared.real_folder(FILES[name][0])

    def make(folder: Path) -> None:
        held = list(table(name)["picture"])
        np.save(folder / "network.npy", pictures.vectors(held, size=size))
        np.save(folder / "colours.npy", pictures.colours(held))

    folder = stage("measured_pictures", [file_digest(source), size], make, profile.artifacts)
    return {kind: np.load(folder / f"{kind}.npy") for kind in ("network", "colours")}


SPLITS = ("train", "validation", "test")
PICTURE = ("network", "colours")
BOTH = ("text", *PICTURE)
TASKS = {
    "type": ("type", "text"),
    "colour": ("colour", "text"),
    "colour, not in the title": ("colour", "plain text"),
}
"""What is guessed, and from which text beside the picture."""


# Fashion ------------------------------------------------------------------------------------------


def fashion(profile: Profile) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The products, and their vectors by mode: `text`, `network`, `colours`."""
    frame = table("fashion").drop(columns="picture")
    frame = frame.rename(
        columns={"productDisplayName": "title", "articleType": "type", "baseColour": "colour"}
    )
    vectors = {"text": features.last_layer(list(frame["title"]), profile)}
    frame["plain title"] = without_colours(frame)
    vectors["plain text"] = features.last_layer(list(frame["plain title"]), profile)
    vectors |= seen("fashion", profile)
    place = (
        frame["title"]
        .str.lower()
        .map(lambda title: int(hashlib.sha256(title.encode()).hexdigest()[:8], 16) % 10)
    )
    frame["split"] = np.select([place < 6, place == 6], ["train", "validation"], "test")
    said = [set(re.findall("[a-z]+", title.lower())) for title in frame["title"]]
    written = letters(frame["title"])
    for column in LEAST:
        words = [set(re.findall("[a-z]+", name.lower())) for name in frame[column]]
        # "T-shirts" is said where "tshirt" or "t-shirt" is: by letters, without a plural.
        short = letters(frame[column]).str.rstrip("s")
        own = [a in b for a, b in zip(short, written, strict=True)]
        frame[f"{column} stated"] = [
            whole or (column == "colour" and bool(word & title))
            for whole, word, title in zip(own, words, said, strict=True)
        ]
    return frame, vectors


def letters(texts: pd.Series) -> pd.Series:
    """Each text's letters alone, in lower case."""
    return texts.str.lower().str.replace(r"[^a-z]", "", regex=True)


def without_colours(frame: pd.DataFrame) -> list[str]:
    """The titles without each word that names a colour of the shop."""
    words = {
        word for name in frame["colour"].unique() for word in re.findall("[a-z]+", name.lower())
    }
    named = re.compile(rf"\b({'|'.join(sorted(words - {'off', 'steel', 'na'}))})\b", re.IGNORECASE)
    return [" ".join(named.sub(" ", title).split()) for title in frame["title"]]


class Task:
    """A property to guess: labels and vectors of each split, as tensors.

    The network's vectors are reduced to their first principal components on the training products;
    `whole network` holds all of them.
    """

    def __init__(
        self, vectors: Mapping[str, np.ndarray], classes: np.ndarray, rows: Mapping[str, np.ndarray]
    ) -> None:
        names, codes = np.unique(classes, return_inverse=True)
        self.classes = len(names)
        self.labels = {split: torch.from_numpy(codes[rows[split]]) for split in SPLITS}
        self.seen: dict[str, dict[str, torch.Tensor]] = {split: {} for split in SPLITS}
        self.zero: dict[str, torch.Tensor] = {}
        held = dict(vectors)
        first = PCA(REDUCED, random_state=0).fit(held["network"][rows["train"]])
        held["whole network"] = held["network"]
        held["network"] = first.transform(held["network"])
        for mode, one in held.items():
            parts = [one[rows[split]] for split in SPLITS]
            *parts, self.zero[mode] = modes.standard(*parts, np.zeros((1, one.shape[1])))
            for split, part in zip(SPLITS, parts, strict=True):
                self.seen[split][mode] = part

    def fitted(
        self,
        own: tuple[str, ...],
        labels: torch.Tensor,
        seed: int,
        teacher: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        gated: bool = False,
        missing: float = 0.0,
    ) -> tuple[modes.Fusion, dict]:
        """A classifier over these modes, with the settings that are best on validation.

        It learns from the training products, or from those of them that `rows` marks.
        """
        taught = torch.ones(len(labels), dtype=torch.bool) if rows is None else rows
        widths = {mode: self.seen["train"][mode].shape[1] for mode in own}
        best: tuple[float, modes.Fusion | None, dict] = (-1.0, None, {})
        for rate in RATES:
            with runtime.seeded(seed):
                model = modes.Fusion(widths, self.classes, gated=gated)
            right = modes.fit(
                model,
                {mode: self.seen["train"][mode][taught] for mode in own},
                labels[taught],
                (self.seen["validation"], self.labels["validation"]),
                teacher=None if teacher is None else teacher[taught],
                missing=missing,
                rate=rate,
                seed=seed,
            )
            if right > best[0]:
                best = (right, model, {"rate": rate})
        return best[1], best[2] | {"validation": best[0]}

    def right(self, model_logits: torch.Tensor, split: str = "test") -> float:
        return float((model_logits.argmax(1) == self.labels[split]).float().mean())


def of_fashion(
    frame: pd.DataFrame, vectors: Mapping[str, np.ndarray], column: str, text: str = "text"
) -> tuple[Task, pd.DataFrame]:
    """The task of a column of the frame, its rare classes left out, and its test products.

    `text` says which vectors stand for the text.
    """
    counts = frame[column].value_counts()
    kept = frame[column].isin(counts.index[counts >= LEAST[column]]).to_numpy()
    rows = {split: np.flatnonzero(kept & (frame["split"] == split)) for split in SPLITS}
    held = {"text": vectors[text], **{mode: vectors[mode] for mode in PICTURE}}
    classes = frame[column].where(kept, frame.loc[kept, column].iloc[0]).to_numpy()
    return Task(held, classes, rows), frame.iloc[rows["test"]]


def said(task: Task, titles: pd.Series, classes: pd.Series) -> np.ndarray:
    """The class that the words of a title name, the longest name first; else the commonest."""
    short = letters(pd.Series(sorted(classes.unique()))).str.rstrip("s").tolist()
    order = sorted(range(len(short)), key=lambda code: -len(short[code]))
    common = int(torch.mode(task.labels["train"]).values)
    return np.array(
        [next((c for c in order if short[c] in one), common) for one in letters(titles)]
    )


ROWS = {
    "text": ("text",),
    "colour counts": ("colours",),
    "network": ("network",),
    "picture": PICTURE,
    "both, early": BOTH,
    "both, early, network not reduced": ("text", "whole network", "colours"),
}
"""The modes of each row; "picture" is the network and the colour counts."""
TEACHERS = ("both, early", "both, gated", "both, late")
FUSIONS = (*TEACHERS, "both, early, pictures hidden in training")
"""What the row "both" is chosen from, by validation, seed by seed."""


def known(task: Task, seed: int) -> dict:
    """What each mode tells of a property, and what fusions make of both; then without pictures."""
    labels, test = task.labels["train"], task.seen["test"]
    chosen, logits, models = {}, {}, {}
    for row, own in ROWS.items():
        models[row], chosen[row] = task.fitted(own, labels, seed)
    for row, gated in (("both, gated", True), ("both, early, pictures hidden in training", False)):
        models[row], chosen[row] = task.fitted(BOTH, labels, seed, gated=gated, missing=0.5)
    logits = {row: modes.logits_of(model, test) for row, model in models.items()}
    weight, right = late_weight(task, models["text"], models["picture"])
    chosen["both, late"] = {"weight": weight, "validation": right}
    logits["both, late"] = modes.late([logits["text"], logits["picture"]], [weight, 1])
    guessed = {row: one.argmax(1).numpy() for row, one in logits.items()}
    guessed["commonest"] = np.full(len(task.labels["test"]), int(torch.mode(labels).values))
    return {
        "guessed": guessed,
        "chosen": chosen,
        "missing": without(task, models, weight, seed),
    }


def late_weight(task: Task, text: modes.Fusion, picture: modes.Fusion) -> tuple[float, float]:
    """The weight of the text beside the picture's 1, by validation, and the accuracy there."""
    held = [modes.logits_of(model, task.seen["validation"]) for model in (text, picture)]
    found = {w: task.right(modes.late(held, [w, 1]), "validation") for w in WEIGHTS}
    best = max(found, key=lambda one: found[one])
    return best, found[best]


def without(task: Task, models: dict, weight: float, seed: int) -> dict:
    """Accuracy where a share of the products has no picture, by what is done about it."""
    test, labels = task.seen["test"], task.labels["test"]
    alone = modes.logits_of(models["text"], test)
    drawn = np.random.default_rng(seed).random(len(labels))
    found = []
    for share in MISSING:
        gone = torch.from_numpy(drawn < share)
        there = torch.ones(len(labels), len(BOTH), dtype=torch.bool)
        there[gone, 1:] = False
        nought = {
            mode: torch.where(gone[:, None], task.zero[mode], test[mode]) if mode != "text"
            else test[mode]
            for mode in BOTH
        }  # fmt: skip
        whole = modes.logits_of(models["both, early"], test)
        two = modes.late([alone, modes.logits_of(models["picture"], test)], [weight, 1])
        rows = {
            "text alone": alone,
            "zeros for the picture": modes.logits_of(models["both, early"], nought),
            "mean picture": modes.logits_of(models["both, early"], test, there),
            "hidden in training": modes.logits_of(
                models["both, early, pictures hidden in training"], test, there
            ),
            "gated": modes.logits_of(models["both, gated"], test, there),
            "late": torch.where(gone[:, None], alone, two),
            "two models": torch.where(gone[:, None], alone, whole),
        }
        found += [{"row": row, "share": share, "accuracy": task.right(one)}
                  for row, one in rows.items()]  # fmt: skip
    return found


def distilled(task: Task, seed: int) -> dict:
    """Students that see one mode, of a teacher that sees both, from few labels."""
    every = task.labels["train"]
    few = torch.full_like(every, modes.UNLABELLED)
    drawn = np.random.default_rng(seed).permutation(len(every))[:LABELLED]
    few[drawn] = every[drawn]
    settings: dict[str, dict] = {}
    models: dict[str, modes.Fusion] = {}
    plain = {"text": ("text",), "picture": PICTURE, "both, early": BOTH}
    for row, own in plain.items():
        models[row], settings[row] = task.fitted(own, few, seed)
    models["both, gated"], settings["both, gated"] = task.fitted(
        BOTH, few, seed, gated=True, missing=0.5
    )
    weight, right = late_weight(task, models["text"], models["picture"])
    settings["both, late"] = {"weight": weight, "validation": right}

    def logits(row: str, split: str) -> torch.Tensor:
        if row != "both, late":
            return modes.logits_of(models[row], task.seen[split])
        return modes.late([logits("text", split), logits("picture", split)], [weight, 1])

    chosen = max(TEACHERS, key=lambda row: settings[row]["validation"])
    settings["teacher"] = {"row": chosen}
    told = logits(chosen, "train")
    classes = torch.where(few == modes.UNLABELLED, told.argmax(1), few)
    only = few != modes.UNLABELLED
    guessed = {"teacher": logits(chosen, "test")}
    for mode in ("text", "picture"):
        own = plain[mode]
        guessed[f"{mode}: labels alone"] = logits(mode, "test")
        by_itself = logits(mode, "train")
        other = logits({"text": "picture", "picture": "text"}[mode], "train")
        for row, labels, soft, rows in (
            ("distilled, labelled products", few, told, only),
            ("distilled", few, told, None),
            ("distilled from the other mode", few, other, None),
            ("taught by itself", few, by_itself, None),
            ("teacher's classes", classes, None, None),
            ("all labels", every, None, None),
        ):
            model, settings[f"{mode}: {row}"] = task.fitted(
                own, labels, seed, teacher=soft, rows=rows
            )
            guessed[f"{mode}: {row}"] = modes.logits_of(model, task.seen["test"])
    return {"guessed": {r: one.argmax(1).numpy() for r, one in guessed.items()}, "chosen": settings}


def hits(guessed: dict[str, np.ndarray], labels: torch.Tensor) -> dict[str, str]:
    """For each row a text of 0 and 1, a product a character: whether the class is right."""
    return {row: packed(guess == labels.numpy()) for row, guess in guessed.items()}


def packed(flags: np.ndarray) -> str:
    return "".join("01"[int(one)] for one in flags)


def macro(guess: np.ndarray, task: Task) -> float:
    sure = np.eye(task.classes)[guess]
    return metrics.classification(task.labels["test"].numpy(), sure)["macro_f1"]


# Finding products ---------------------------------------------------------------------------------


def similar(frame: pd.DataFrame, vectors: dict[str, np.ndarray]) -> dict:
    """Precision at 10 of "more like this": same type, colour and gender, by each mode."""
    per = {}
    train = np.flatnonzero(frame["split"] == "train")
    modes_ = {mode: vectors[mode] for mode in BOTH}
    modes_ |= {f"{mode}, whitened": whitened(vectors[mode], train) for mode in ("text", "network")}
    for split in ("validation", "test"):
        rows = np.flatnonzero(frame["split"] == split)
        held = frame.iloc[rows]
        same = (held["type"] + "|" + held["colour"] + "|" + held["gender"]).to_numpy()
        alike = same[:, None] == same[None, :]
        np.fill_diagonal(alike, False)
        asked = alike.sum(axis=1) >= 3
        close = {}
        for mode, own in modes_.items():
            score = _standing(_cosine(own[rows]))
            np.fill_diagonal(score, NEVER)
            close[mode] = score[asked]
        per[split] = (close, alike[asked])
    close, alike = per["validation"]
    kinds = better(close, alike)
    close = taken(close, kinds)
    colour = best_weight(close["network"], close["colours"], alike)
    words = best_weight(close["network"] + colour * close["colours"], close["text"], alike)
    close, alike = per["test"]
    close = taken(close, kinds)
    found = {row: ten(one, alike) for row, one in summed(close, colour, words).items()}
    return {
        "per_query": {row: one.round(3).tolist() for row, one in found.items()},
        "random": float(alike.mean()),
        "chosen": {"colours": colour, "text": words, **kinds},
        "catalogue": alike.shape[1],
    }


def better(close: Mapping[str, np.ndarray], alike: np.ndarray) -> dict[str, bool]:
    """Of text and network, whether whitened vectors find more."""
    return {
        f"{mode} whitened": bool(
            ten(close[f"{mode}, whitened"], alike).mean() > ten(close[mode], alike).mean()
        )
        for mode in ("text", "network")
    }


def taken(close: Mapping[str, np.ndarray], kinds: Mapping[str, bool]) -> dict[str, np.ndarray]:
    """The scores by mode, of whitened vectors where these were better."""
    own = {mode: f"{mode}, whitened" if kinds[f"{mode} whitened"] else mode
           for mode in ("text", "network")}  # fmt: skip
    return {"colours": close["colours"], **{mode: close[name] for mode, name in own.items()}}


def summed(close: Mapping[str, np.ndarray], colour: float, words: float) -> dict[str, np.ndarray]:
    """Scores by each mode, and their sums with these weights beside the network's 1."""
    picture = close["network"] + colour * close["colours"]
    return {
        "text": close["text"],
        "colour counts": close["colours"],
        "network": close["network"],
        "picture": picture,
        "both": picture + words * close["text"],
    }


def best_weight(first: np.ndarray, second: np.ndarray, alike: np.ndarray) -> float:
    """The weight of the second score beside the first at which their sum finds most."""
    return max(WEIGHTS, key=lambda weight: ten(first + weight * second, alike).mean())


def ten(scores: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Precision at 10 (Q,), or at as many as there are to find, from scores (Q, N)."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    hit = np.take_along_axis(alike, top, axis=1).sum(axis=1)
    return hit / np.minimum(alike.sum(axis=1), 10)


def _cosine(vectors: np.ndarray) -> np.ndarray:
    centred = align.unit(vectors) - align.unit(vectors).mean(axis=0)
    return align.unit(centred) @ align.unit(centred).T


def _standing(scores: np.ndarray) -> np.ndarray:
    """Scores in standard units."""
    return (scores - scores.mean()) / scores.std()


def by_text(frame: pd.DataFrame, vectors: dict[str, np.ndarray], seed: int) -> dict:
    """Whether a title finds its picture in the test catalogue, by how many pairs taught it."""
    rows = {split: np.flatnonzero(frame["split"] == split) for split in SPLITS}
    seen_ = np.hstack([align.unit(vectors["network"]), align.unit(vectors["colours"])])
    white = whitened(seen_, rows["train"])
    order = np.random.default_rng(seed).permutation(rows["train"])
    titles = frame["title"].str.lower().to_numpy()
    right = {}
    for split in ("validation", "test"):
        own = titles[rows[split]]
        right[split] = [np.flatnonzero(own == title) for title in own]

    def found(way: tuple[align.Scorer, np.ndarray], split: str, k: int = 10) -> np.ndarray:
        score, shown = way
        held = rows[split]
        return align.recall(score(vectors["text"][held], shown[held]), right[split], k)

    out = []
    for count in PAIRS:
        own = order[:count]
        texts = vectors["text"][own]
        ways = {
            "ridge": [
                ({"penalty": p, "whitened": kind}, (align.ridge(texts, shown[own], p), shown))
                for p in PENALTIES
                for kind, shown in ((False, seen_), (True, white))
            ],
            "contrastive": [
                (
                    {"temperature": t, "whitened": kind},
                    (align.contrastive(texts, shown[own], temperature=t, seed=seed), shown),
                )
                for t in TEMPERATURES
                for kind, shown in ((False, seen_), (True, white))
            ],
        }
        for way, tried in ways.items():
            chosen, score = max(tried, key=lambda one: found(one[1], "validation").mean())
            out.append(
                {
                    "way": way,
                    "pairs": len(own),
                    "recall@1": float(found(score, "test", 1).mean()),
                    "recall@10": float(found(score, "test").mean()),
                    "found": packed(found(score, "test")),
                    "chosen": chosen,
                }
            )
    chance = np.mean([1 - (1 - len(one) / len(rows["test"])) ** 10 for one in right["test"]])
    return {"rows": out, "chance@10": float(chance), "catalogue": len(rows["test"])}


# Grocery ------------------------------------------------------------------------------------------


def grocery(profile: Profile) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The photographs, and the classes with their texts."""
    classes = table("iconic")
    names = classes["class"].str.replace("-", " ")
    classes["text"] = names + ". " + classes["description"]
    return table("grocery"), classes


def unseen(photos: pd.DataFrame, classes: pd.DataFrame, profile: Profile, seed: int) -> dict:
    """Photographs of classes that no map has seen, found by text, by an iconic picture, by both.

    The classes fall into five groups. For each, maps learn from the training photographs of three
    others, weights and penalties come from a fourth, and the group's test photographs are ranked
    for each of its classes: precision at 10.
    """
    held, icons = seen("grocery", profile), seen("iconic", profile)
    texts = features.last_layer(list(classes["text"]), profile)
    order = classes["class_id"].to_numpy()
    label, split = photos["class_id"].to_numpy(), photos["split"].to_numpy()
    group = np.random.default_rng(seed).permutation(len(order)) % 5
    per: dict[str, dict[int, float]] = {}
    chosen = []

    together = np.vstack([held["network"], icons["network"]])
    counted, counted_icons = align.unit(held["colours"]), align.unit(icons["colours"])
    plain = align.unit(together)

    def scores(
        asked: np.ndarray, taught: np.ndarray, white: np.ndarray, penalty: float
    ) -> tuple[dict, np.ndarray]:
        """Scores (Q, N) of test photographs of the classes `asked`, and which are right."""
        rows = (split == "train") & np.isin(label, order[taught])
        shown = (split == "test") & np.isin(label, order[asked])
        networks = {
            kind: (one[: len(photos)], one[len(photos) :])
            for kind, one in (("", plain), (", whitened", white))
        }
        by = {}
        for kind, (seen_, icon) in networks.items():
            means = np.stack([seen_[rows & (label == one)].mean(axis=0) for one in order[taught]])
            by[f"text{kind}"] = align.ridge(texts[taught], means, penalty)(
                texts[asked], seen_[shown]
            )
            by[f"network{kind}"] = near(icon[asked], seen_[shown], seen_[rows].mean(axis=0))
        by["colours"] = near(counted_icons[asked], counted[shown], counted[rows].mean(axis=0))
        alike = order[asked][:, None] == label[shown][None, :]
        return {row: _standing(one) for row, one in by.items()}, alike

    for fold in range(5):
        other = (fold + 1) % 5
        test, tuned = (np.flatnonzero(group == one) for one in (fold, other))
        taught = np.flatnonzero(~np.isin(group, (fold, other)))
        # Photographs of the other classes do not even scale the vectors.
        rows = np.flatnonzero((split == "train") & np.isin(label, order[taught]))
        white = align.unit(whitened(together, rows))
        tried = {penalty: scores(tuned, taught, white, penalty) for penalty in PENALTIES}
        penalty = max(
            PENALTIES,
            key=lambda one, t=tried: max(
                ten(t[one][0][f"text{k}"], t[one][1]).mean() for k in ("", ", whitened")
            ),
        )
        by, alike = tried[penalty]
        kinds = better(by, alike)
        by = taken(by, kinds)
        colour = best_weight(by["network"], by["colours"], alike)
        words = best_weight(by["network"] + colour * by["colours"], by["text"], alike)
        chosen.append({"penalty": penalty, "colours": colour, "text": words, **kinds})
        by, alike = scores(test, taught, white, penalty)
        by = taken(by, kinds)
        for row, one in summed(by, colour, words).items():
            found_by = ten(one, alike).tolist()
            per.setdefault(row, {}).update(zip(order[test].tolist(), found_by, strict=True))
        chance = dict(zip(order[test].tolist(), alike.mean(axis=1).tolist(), strict=True))
        per.setdefault("random", {}).update(chance)
    return {"per_class": per, "chosen": chosen}


def near(icons: np.ndarray, shown: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Cosine between iconic pictures and photographs, less the mean of those known, (Q, N)."""
    return align.unit(icons - centre) @ align.unit(shown - centre).T


def photographs(photos: pd.DataFrame, profile: Profile, seed: int) -> dict:
    """Classes of photographs by mode; by how many are read; by the size that the network sees."""
    clothes = table("clothing")
    found: dict = {"right": {}, "sizes": {}}
    for kind, (name, frame, column) in {
        "grocery, 81 classes": ("grocery", photos, "class_id"),
        "grocery, 43 coarse classes": ("grocery", photos, "coarse_id"),
        "clothing, 10 kinds": ("clothing", clothes, "label"),
    }.items():
        rows = places(frame)
        task = Task(seen(name, profile), frame[column].to_numpy(), rows)
        guessed = {}
        for row in ("colour counts", "network", "picture"):
            model, _ = task.fitted(ROWS[row], task.labels["train"], seed)
            logits = modes.logits_of(model, task.seen["test"])
            guessed[row] = logits.argmax(1).numpy()
            if column == "class_id" and row == "network":
                found["photographs"] = several(logits, task.labels["test"], seed)
                found["panned"] = panned(model, task, photos, rows, profile)
        found["right"][kind] = hits(guessed, task.labels["test"])
    for size in EDGES:
        held = seen("grocery", profile, size)
        task = Task(held, photos["class_id"].to_numpy(), places(photos))
        model, _ = task.fitted(("network",), task.labels["train"], seed)
        found["sizes"][size] = task.right(modes.logits_of(model, task.seen["test"]))
    return found


def places(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The rows of each split, as the data have it."""
    split = frame["split"].replace("val", "validation").to_numpy()
    return {one: np.flatnonzero(split == one) for one in SPLITS}


def panned(
    model: modes.Fusion, task: Task, photos: pd.DataFrame, rows: Mapping, profile: Profile
) -> dict[int, float]:
    """Accuracy when the log-probabilities of k windows of one photograph are added up.

    A window has three quarters of the photograph's sides; a clip that pans shows such windows.
    """
    chosen = np.random.default_rng(0).permutation(rows["test"])[:PANNED]

    def make(folder: Path) -> None:
        generator = np.random.default_rng(0)
        held = []
        for row in chosen:
            image = pictures.opened(photos["picture"].iloc[row])
            wide, high = (round(0.75 * side) for side in image.size)
            for _ in range(max(PHOTOGRAPHS)):
                x = int(generator.integers(image.width - wide + 1))
                y = int(generator.integers(image.height - high + 1))
                held.append(image.crop((x, y, x + wide, y + high)))
        np.save(folder / "network.npy", pictures.vectors(held))

    source = file_digest(shared.real_folder(FILES["grocery"][0]))
    folder = stage("panned_pictures", [source, PANNED, PHOTOGRAPHS], make, profile.artifacts)
    whole = seen("grocery", profile)["network"][rows["train"]]
    first = PCA(REDUCED, random_state=0).fit(whole)
    windows = first.transform(np.load(folder / "network.npy"))
    _, shown = modes.standard(first.transform(whole), windows)
    sure = modes.logits_of(model, {"network": shown}).log_softmax(dim=1)
    sure = sure.reshape(PANNED, max(PHOTOGRAPHS), -1)
    where = {row: place for place, row in enumerate(rows["test"])}
    labels = task.labels["test"][[where[row] for row in chosen]]
    return {
        k: float((sure[:, :k].sum(dim=1).argmax(1) == labels).float().mean()) for k in PHOTOGRAPHS
    }


def several(logits: torch.Tensor, labels: torch.Tensor, seed: int) -> dict[int, float]:
    """Accuracy over classes when the log-probabilities of k photographs of a class are added up:
    what the frames of a clip would be worth, had each another view. Mean over 20 draws."""
    generator = np.random.default_rng(seed)
    sure = logits.log_softmax(dim=1).numpy()
    found: dict[int, list[float]] = {k: [] for k in PHOTOGRAPHS}
    for one in np.unique(labels):
        rows = np.flatnonzero(labels.numpy() == one)
        if len(rows) < max(PHOTOGRAPHS):
            continue
        for _ in range(20):
            order = generator.permutation(rows)
            for k in PHOTOGRAPHS:
                found[k].append(float(sure[order[:k]].sum(axis=0).argmax() == one))
    return {k: float(np.mean(one)) for k, one in found.items()}


# Measuring and merging ----------------------------------------------------------------------------


def measure(seed: int) -> dict:
    torch.set_num_threads(1)
    profile = Profile.named()
    frame, vectors = fashion(profile)
    photos, classes = grocery(profile)
    found: dict = {"tasks": {}}
    for name, (column, text) in TASKS.items():
        task, test = of_fashion(frame, vectors, column, text)
        guessed = {"known": known(task, seed), "distilled": distilled(task, seed)}
        titles = test["title" if text == "text" else "plain title"]
        guessed["known"]["guessed"]["words of the title"] = said(task, titles, test[column])
        for part in guessed.values():
            rows = part.pop("guessed")
            part["right"] = hits(rows, task.labels["test"])
            part["macro_f1"] = {row: macro(one, task) for row, one in rows.items()}
        found["tasks"][name] = guessed | {
            "stated": packed(test[f"{column} stated"].to_numpy()),
            "classes": task.classes,
            "products": {split: len(one) for split, one in task.labels.items()},
        }
    return found | {
        "by_text": by_text(frame, vectors, seed),
        "unseen": unseen(photos, classes, profile, seed),
        "grocery": photographs(photos, profile, seed),
    }


def once() -> dict:
    """What no seed changes: products that are alike, and what vectors cost on one thread."""
    torch.set_num_threads(1)
    profile = Profile.named()
    frame, vectors = fashion(profile)
    model, encoder = pictures.encoder(), SentenceTransformer(checkpoint("minilm"))
    shown, said_ = list(table("grocery")["picture"][:64]), list(frame["title"][:64])
    calls: dict[str, Callable[[], object]] = {
        "colour counts": lambda: pictures.colours(shown),
        "MiniLM, a title": lambda: features.encode(encoder, said_),
    }
    for size in EDGES:
        calls[f"network, {size} pixels"] = functools.partial(
            pictures.vectors, shown, model=model, size=size
        )
    clocks = {row: _milliseconds(call) / len(shown) for row, call in calls.items()}
    return {
        "similar": similar(frame, vectors),
        "ms": clocks,
        "weights_mb": {
            "network": sum(one.numel() * 4 for one in model.parameters()) / 1e6,
            "MiniLM": sum(one.numel() * 4 for one in encoder.parameters()) / 1e6,
        },
        "search": [cost(count) for count in CATALOGUES],
        "hardware": bench.hardware(),
    }


def cost(count: int) -> dict:
    """Bytes of the vectors of so many products, and the wait for the ten nearest, exactly."""
    random = np.random.default_rng(0)
    found: dict = {"products": count}
    for width in (pictures.WIDTH, REDUCED):
        held = random.standard_normal((count, width), dtype=np.float32)
        query = held[0]
        wait = _milliseconds(functools.partial(nearest, held, query))
        found |= {f"mb, {width}": held.nbytes / 1e6, f"ms, {width}": wait}
    return found


def nearest(held: np.ndarray, query: np.ndarray) -> np.ndarray:
    return np.argpartition(-(held @ query), 10)[:10]


def _milliseconds(call: Callable[[], object]) -> float:
    """The median of five calls, after one that is not counted."""
    call()
    return 1000 * float(np.median([shared.timed(call)[1] for _ in range(5)]))


# The record ---------------------------------------------------------------------------------------


def bits(texts: Sequence[str]) -> np.ndarray:
    """Texts of 0 and 1, one for each seed, as an array (seeds, products)."""
    return np.array([[float(one) for one in text] for text in texts])


def minus(values: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]]) -> list[dict]:
    """Differences of two rows, over seeds and products together, with their intervals."""
    return [
        {"row": a, "against": b, **differing(over_both(values[a] - values[b]))} for a, b in pairs
    ]


def over_both(values: np.ndarray) -> dict[str, float]:
    """A mean over seeds and products, with the interval of both."""
    return metrics.two_way_bootstrap(values, resamples=RESAMPLES)


def differing(span: dict) -> dict:
    return {"difference": span["value"], "low": span["low"], "high": span["high"]}


def of_task(seeds: Sequence[dict]) -> dict:
    """One task: rows with intervals, on all products and on those whose title does not tell."""
    first = seeds[0]
    silent = bits([first["stated"]])[0] == 0
    found: dict = {
        "classes": first["classes"],
        "products": first["products"],
        "not_stated": int(silent.sum()),
        "comparisons": [],
        "choices": [],
    }
    for one in seeds:
        known_, chosen = one["known"], one["known"]["chosen"]
        best = max(FUSIONS, key=lambda row, own=chosen: own[row]["validation"])
        for part in ("right", "macro_f1"):
            known_[part]["both"] = known_[part][best]
        found["choices"].append(
            {"known": chosen | {"both": {"row": best}}, "distilled": one["distilled"]["chosen"]}
        )
    for part, pairs in (("known", KNOWN_PAIRS), ("distilled", DISTILLED_PAIRS)):
        rows = first[part]["right"]
        right = {row: bits([one[part]["right"][row] for one in seeds]) for row in rows}
        own = {row: one[:, silent] for row, one in right.items()}
        found[part] = {
            row: {
                "accuracy": over_both(right[row]),
                "not stated": over_both(own[row]),
                "macro_f1": float(np.mean([one[part]["macro_f1"][row] for one in seeds])),
            }
            for row in rows
        }
        for on, values in (("all", right), ("not stated", own)):
            found["comparisons"] += [{"on": on} | one for one in minus(values, pairs)]
    measured = pd.DataFrame([row for one in seeds for row in one["known"]["missing"]])
    found["missing"] = [
        {"row": row, "share": share, **shared.over_seeds(held)}
        for (row, share), held in measured.groupby(["row", "share"])["accuracy"]
    ]
    return found


def of_similar(measured: dict) -> dict:
    held = {row: np.array([one]) for row, one in measured["per_query"].items()}
    rows = {row: over_both(one) for row, one in held.items()}
    own = {name: measured[name] for name in ("random", "chosen", "catalogue")}
    return own | {"rows": rows, "comparisons": minus(held, FOUND_PAIRS)}


def of_pairs(seeds: Sequence[dict]) -> dict:
    """The learning curve of search by text: recall at 10, and the two ways against each other."""
    rows = []
    for count in {row["pairs"]: None for row in seeds[0]["rows"]}:
        found = {
            way: [r for one in seeds for r in one["rows"] if (r["pairs"], r["way"]) == (count, way)]
            for way in WAYS
        }
        held = {way: bits([r["found"] for r in own]) for way, own in found.items()}
        for way, own in found.items():
            span = over_both(held[way])
            rows.append(
                {
                    "way": way,
                    "pairs": count,
                    "recall@1": float(np.mean([r["recall@1"] for r in own])),
                    "recall@10": span,
                    "chosen": [r["chosen"] for r in own],
                }
            )
        rows[-1] |= {"minus": minus(held, [WAYS[::-1]])[0]}
    return {"rows": rows, **{name: seeds[0][name] for name in ("chance@10", "catalogue")}}


def of_unseen(seeds: Sequence[dict]) -> dict:
    classes = sorted(seeds[0]["per_class"]["both"], key=int)
    held = {
        row: np.array([[one["per_class"][row][c] for c in classes] for one in seeds])
        for row in seeds[0]["per_class"]
    }
    return {
        "rows": {row: over_both(one) for row, one in held.items()},
        "comparisons": minus(held, FOUND_PAIRS),
        "choices": [one["chosen"] for one in seeds],
    }


def of_photographs(seeds: Sequence[dict]) -> dict:
    found: dict = {"classes": {}}
    for kind, rows in seeds[0]["right"].items():
        held = {row: bits([one["right"][kind][row] for one in seeds]) for row in rows}
        found["classes"][kind] = {
            "rows": {row: over_both(one) for row, one in held.items()},
            "comparisons": minus(held, [("picture", "network"), ("network", "colour counts")]),
        }
    for name in ("photographs", "panned", "sizes"):
        found[name] = {
            key: shared.over_seeds([one[name][key] for one in seeds]) for key in seeds[0][name]
        }
    return found


def goals(data: dict) -> list[dict]:
    """What the chapter is asked to show, met or not."""

    def of(part: dict, row: str, against: str, on: str | None = None) -> dict:
        return next(
            one for one in part["comparisons"]
            if (one["row"], one["against"], one.get("on")) == (row, against, on)
        )  # fmt: skip

    found = []
    for name in TASKS:
        for mode in ("text", "picture"):
            title = f"Fashion, {name}: accuracy of both modes minus {mode} alone"
            found.append(shared.above(title, of(data["tasks"][name], "both", mode, "all")))
    for title, part in (
        ("Fashion, products alike: precision@10", data["similar"]),
        ("Grocery, photographs of unseen classes: precision@10", data["unseen"]),
    ):
        for mode in ("text", "picture"):
            name = f"{title}, both modes minus {mode} alone"
            found.append(shared.above(name, of(part, "both", mode)))
    for name, on, where in (
        ("colour", "not stated", "titles that do not tell it"),
        ("type", "not stated", "titles that do not tell it"),
        ("colour, not in the title", "all", "colour words taken out of all titles"),
    ):
        title = f"Fashion, {name.split(',')[0]}, {where}: distilled text student minus labels alone"
        own = of(data["tasks"][name], "text: distilled", "text: labels alone", on)
        found.append(shared.above(title, own))
    return found


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of all seeds."""
    seeds, common = shared.read(folder, ["profile"]), shared.sizes(folder, "once")
    data = {
        "tasks": {name: of_task([one["tasks"][name] for one in seeds]) for name in TASKS},
        "similar": of_similar(common["similar"]),
        "by_text": of_pairs([one["by_text"] for one in seeds]),
        "unseen": of_unseen([one["unseen"] for one in seeds]),
        "photographs": of_photographs([one["grocery"] for one in seeds]),
        **{name: common[name] for name in ("ms", "weights_mb", "search")},
    }
    numbers = [one["seed"] for one in seeds]
    report.write_recorded(
        out,
        command="python benchmarks/measure_multimodal.py --once, "
        f"--seeds {' '.join(map(str, numbers))}, --merge",
        seeds=numbers,
        hardware=common["hardware"],
        generator=None,
        data=data,
        goals=goals(data),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What pictures add to texts.")
    arguments = shared.arguments_of(parser, "multimodal", scaled=False, once=True)
    shared.run(arguments, measure, merge, once=once)


if __name__ == "__main__":
    main()
