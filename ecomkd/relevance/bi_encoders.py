"""Bi-encoders on judged pairs: how one is trained, and the one that a contrast of labels teaches.

Chapters 5 and 8.
"""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, concatenate_datasets

from ecomkd.extras import needed

with needed("ecomkd.relevance.bi_encoders", "run"):
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.evaluation import BaseEvaluator
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch import nn

from ecomkd import features, keys, metrics, models, runtime, trainer
from ecomkd.artifacts import stage, write_text
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import product_text
from ecomkd.relevance import judge

PRETRAINED = "minilm"
"""The sentence encoder that a bi-encoder starts from."""
RATES = (2e-5, 1e-4)
"""Learning rates that the contrastive bi-encoder tries."""
COLUMNS = ["query_id", "product_id", "query", *TEXT, "label"]
"""What is read of pairs with a label."""
_QUALITY = "ndcg@10"
_CHOICES = "choices.json"


def contrastive(
    data: DatasetDict,
    profile: Profile,
    told: Dataset | None = None,
    passes: float | None = None,
    rates: Sequence[float] | None = None,
    start: Path | None = None,
) -> Path:
    """The folder of a bi-encoder that was fine-tuned on labels, by contrast.

    Of a batch of queries each one's product is to be nearer to it than the products of all others
    (MultipleNegativesRankingLoss of sentence-transformers; Henderson et al. 2017); the rows are
    those that `contrastive_rows` makes of `data["train"]` and `told`, and no batch has a text
    twice. Embeddings and the lowest `profile.frozen_layers` layers stay. Each rate is tried for as
    many steps as the passes in full batches have, with `profile.teacher_epochs` looks at the
    validation pairs. (Where few queries have many rows, batches are smaller.) The look with the
    highest nDCG@10 is kept, and the pretrained encoder itself where none is better:
    `contrastive_choices` gives them all.

    A warning says where there is nothing to learn from, or nothing to choose by, and the encoder
    stays as it was.

    Args:
        told: further pairs, with columns as the training pairs have them, whose labels a model has
            given, such as `search.told`: they make rows as the judged ones do.
        passes: over all rows; `profile.teacher_epochs` by default.
        rates: the learning rates that are tried; RATES by default.
        start: the folder of an encoder to go on from, in the place of the pretrained one. It is not
            kept itself, even where validation likes it better, for its judges are few and it has
            yet to learn what `data` has to teach.
    """
    rates = RATES if rates is None else rates
    passes = float(profile.teacher_epochs if passes is None else passes)
    pairs = beside(data["train"], told)

    def make(folder: Path) -> None:
        rows = contrastive_rows(pairs, profile.seed)
        first = _start(profile, start)
        found = [{"learning_rate": 0.0, "epoch": 0.0, **Validation(data["validation"])(first)}]
        if _can_learn(rows, found[0][_QUALITY]):
            steps = round(passes * keys.batches(len(rows), profile))
            for number, rate in enumerate(rates):
                found += _looks(data, rows, profile, folder / f"rate-{number}", rate, steps, start)
        choices = found if start is None else found[1:] or found
        best = max(choices, key=lambda look: np.nan_to_num(look[_QUALITY]))  # the first of equals
        if best["learning_rate"]:
            chosen = folder / f"rate-{list(rates).index(best['learning_rate'])}"
            # A run that was killed after its last step may have left its checkpoints.
            unkept = shutil.ignore_patterns("checkpoints")
            shutil.copytree(chosen, folder, ignore=unkept, dirs_exist_ok=True)
        else:
            first.save_pretrained(str(folder), create_model_card=False)
        for number in range(len(rates)):
            shutil.rmtree(folder / f"rate-{number}", ignore_errors=True)
        write_text(folder / _CHOICES, json.dumps(found, indent=1))

    parts = [
        keys.known_as(PRETRAINED),
        keys.digests(data["train"], data["validation"]),
        keys.settings_of(profile, "frozen_layers", "teacher_epochs"),
        list(rates),
    ]
    if told is not None or passes != profile.teacher_epochs:
        parts += [passes, None if told is None else keys.digests(told)]
    if start is not None:
        parts.append(keys.identity(start))
    return stage("contrastive", parts, make, profile.artifacts, recipe=1)


def contrastive_choices(folder: Path) -> pd.DataFrame:
    """All looks of `contrastive` at validation: `learning_rate`, `epoch`, `ndcg@10`.

    The first one is that of the encoder that it started from, at rate 0. It could be kept only if
    that was the pretrained one.
    """
    return pd.DataFrame(json.loads((folder / _CHOICES).read_text(encoding="utf-8")))


def has_learnt(folder: Path) -> bool:
    """Whether a bi-encoder of `contrastive` is another than the one that it started from."""
    return (folder / "training.json").exists()


def beside(pairs: Dataset, told: Dataset | None) -> Dataset:
    """The pairs, and those that a model has labelled after them, where there are any."""
    if told is None:
        return pairs
    return concatenate_datasets([part.select_columns(COLUMNS) for part in (pairs, told)])


def contrastive_rows(pairs: Dataset, seed: int) -> Dataset:
    """Rows for a contrastive loss, one for each good pair: `query`, `product` and `rival`.

    The good pairs of a query are those of the label with the highest gain (E), or, where it has
    none, of the one below (S). The rival is drawn among the query's pairs of the two labels with
    the lowest gains (C and I), and where it has none, among the good products of other queries, as
    all others of its batch are. Of two classes the better one is good and the other a rival. A
    rival has another text than the product. Queries without a good pair are left out, and so are
    rows that no rival can be found for.
    """
    rng = np.random.default_rng(seed)
    place = np.argsort(np.argsort(list(judge.gains(pairs).values())))  # 0 is the least gain
    level = place[np.asarray(pairs["label"], dtype=int)]
    queries = pd.factorize(np.asarray(pairs["query_id"]))[0]
    best = pd.Series(level).groupby(queries).transform("max").to_numpy()
    few = len(place) // 2  # of two classes one is good and one bad
    good = np.flatnonzero((level == best) & (level >= len(place) - min(2, few)))
    bad = np.flatnonzero(level < min(2, few))
    judged = pd.Series(bad).groupby(queries[bad]).indices
    asked, texts = list(pairs["query"]), product_text(pairs[:])
    rows: dict[str, list[str]] = {"query": [], "product": [], "rival": []}
    for row in good:
        own = bad[judged[queries[row]]] if queries[row] in judged else bad[:0]
        start = int(rng.integers(len(good)))
        others = (one for one in _from(good, start) if queries[one] != queries[row])
        drawn = itertools.chain(rng.permutation(own), others)
        rival = next((one for one in drawn if texts[one] != texts[row]), None)
        if rival is not None:
            rows["query"].append(asked[row])
            rows["product"].append(texts[row])
            rows["rival"].append(texts[rival])
    return Dataset.from_dict(rows)


def _from(rows: np.ndarray, start: int) -> Iterator[int]:
    """All rows once, from the one at `start` on; few are asked for, so that none is copied."""
    return (rows[(start + step) % len(rows)] for step in range(len(rows)))


def _looks(
    data: DatasetDict,
    rows: Dataset,
    profile: Profile,
    folder: Path,
    rate: float,
    steps: int,
    start: Path | None,
) -> list[dict[str, float]]:
    """Train at one rate into `folder`, and say what validation found at each look."""
    log = folder / "training.json"
    if not log.exists():  # a run that was killed has kept the rates that it was through with
        model = _start(profile, start)
        fit(
            model,
            rows,
            data["validation"],
            profile,
            folder,
            steps,
            rate,
            MultipleNegativesRankingLoss(model),
            evaluations=max(1, profile.teacher_epochs),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
        )
    return [
        {"learning_rate": rate, "epoch": entry["epoch"], _QUALITY: entry[f"eval_{_QUALITY}"]}
        for entry in json.loads(log.read_text(encoding="utf-8"))
        if f"eval_{_QUALITY}" in entry
    ]


def _start(profile: Profile, folder: Path | None = None) -> SentenceTransformer:
    model = encoder(folder or models.checkpoint(PRETRAINED), profile)
    model.max_seq_length = profile.max_length
    models.freeze(model[0].auto_model, profile.frozen_layers)
    return model


def _can_learn(rows: Dataset, quality: float) -> bool:
    """Whether there are rows to learn from and an order to choose by; a warning says if not."""
    reason = None
    if not len(rows):
        reason = "No training query has a relevant product and another one beside it"
    elif np.isnan(quality):
        reason = "No validation query has a relevant product to choose by"
    if reason:
        warnings.warn(
            f"{reason}, so the contrastive bi-encoder stays as it was; judge some.",
            stacklevel=2,
        )
    return reason is None


def encoder(folder: Path | str, profile: Profile) -> SentenceTransformer:
    """A saved bi-encoder or static student, in eval mode; its vectors have length 1."""
    return SentenceTransformer(
        str(folder), device=str(runtime.device(profile)), local_files_only=True
    ).eval()


def cosine_scores(folder: Path, pairs: Dataset, profile: Profile) -> np.ndarray:
    """Cosine between query and product under a saved bi-encoder, (N,)."""
    return _cosines(encoder(folder, profile), pairs["query"], product_text(pairs[:]))


def _cosines(model: SentenceTransformer, queries: list[str], texts: list[str]) -> np.ndarray:
    return (features.encode(model, queries) * features.encode(model, texts)).sum(axis=1)


def fit(
    model: SentenceTransformer,
    rows: Dataset,
    validation: Dataset,
    profile: Profile,
    folder: Path,
    steps: int,
    learning_rate: float,
    loss: nn.Module,
    **further: Any,
) -> None:
    """Train on rows of texts and save into `folder` the look with the best nDCG@10 on validation.

    `further` goes to `trainer.arguments`, which looks five times unless it says otherwise.
    """
    fitting = _Trainer(
        model=model,
        args=trainer.arguments(
            profile,
            folder,
            steps,
            learning_rate,
            kind=SentenceTransformerTrainingArguments,
            metric_for_best_model=_QUALITY,
            **further,
        ),
        train_dataset=rows,
        evaluator=Validation(validation),
        loss=loss,
    )
    trainer.run_to_end(fitting, folder)


class Validation(BaseEvaluator):
    """nDCG@10 of the cosines on the validation pairs."""

    def __init__(self, pairs: Dataset):
        super().__init__()
        self.primary_metric = _QUALITY
        self.pairs = pairs
        self.texts = product_text(pairs[:])

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        scored = judge.frame(self.pairs, _cosines(model, self.pairs["query"], self.texts))
        return {_QUALITY: metrics.ranking(scored, judge.gains(self.pairs))[_QUALITY]}


class _Trainer(SentenceTransformerTrainer):
    def save_model(self, output_dir=None, _internal_call=False):
        if _internal_call:
            return super().save_model(output_dir, _internal_call=True)
        # Without the library's model card, which would ask a hub.
        self.model.save_pretrained(output_dir, create_model_card=False)
