"""How a recommender is trained, on weeks of the past, and distilled from another one.

Sizes: B users of a batch, P purchases, K candidates. Chapters 10, 13 and 14.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from ecomkd.extras import needed

with needed("ecomkd.recommend.training", "recommend"):
    import torch
    from torch import nn

from ecomkd import keys, losses, runtime, trainer
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.recommend.evaluation import evaluate
from ecomkd.recommend.networks import (
    BasketCollator,
    BasketTransformer,
    DecayedMeans,
    Items,
    Recommender,
    Shelf,
    at_rest,
    columns_of,
    load,
    moved,
    network,
)
from ecomkd.recommend.purchases import BUYERS, buyers_of, history, targets, users_before

FIRST = 84
"""The first day that a network learns to foresee: the days before it serve as history alone."""
GROUP = 128
"""How many users a batch has, all on one day."""
HYPERPARAMETERS: dict[type[Recommender], dict] = {
    BasketTransformer: {"passes": 1.0, "learning_rate": 2e-3},
    DecayedMeans: {"passes": 0.8, "learning_rate": 4e-3},
}
"""How each kind is trained, as chosen on the validation days of The Complete Journey."""


def occasions(baskets: Baskets, first: int, end: int, size: int, seed: int) -> Dataset:
    """Rows to learn from: a `day`, at most `size` `users` who buy before and after it, `labelled`.

    The days are a week apart, from `first` to `end` - HORIZON: nothing from `end` on is read.
    """
    own = dict(known_futures(baskets, first, end))
    return _in_groups(own, list(own.values()), size, seed, labelled=True)


def known_futures(baskets: Baskets, first: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
    """The days of `occasions`, the last one first, each with the users who buy before and after."""
    for day in range(end - HORIZON, first - 1, -7):
        yield day, np.intersect1d(users_before(baskets, day), list(targets(baskets, day)))


def unlabelled_occasions(baskets: Baskets, end: int, size: int, seed: int) -> Dataset:
    """Rows like those of `occasions`, for days so close to `end` that their future is not known.

    What is bought after them is not read: only a teacher can say what to learn from them.
    """
    days = range(end, end - HORIZON, -7)
    users = [users_before(baskets, day) for day in days]
    return _in_groups(days, users, size, seed, labelled=False)


def _with_a_purchase(rows: Dataset, baskets: Baskets, candidates: torch.Tensor) -> Dataset:
    """`rows` without those that are labelled and of which no user buys a candidate: in a small shop
    some buy rare items alone, which have no log-odds to learn."""
    bought = {day: targets(baskets, day) for day in set(rows["day"])}
    wanted = candidates.cpu().numpy()

    def learnable(day: int, users: list[int], labelled: bool) -> bool:
        return not labelled or any(np.isin(bought[day][user], wanted).any() for user in users)

    kept = map(learnable, rows["day"], rows["users"], rows["labelled"])
    return rows.select(np.flatnonzero(list(kept)))


def _in_groups(
    days: Iterable[int], users: list[np.ndarray], size: int, seed: int, labelled: bool
) -> Dataset:
    rng = np.random.default_rng(seed)
    rows = []
    for day, own in zip(days, users, strict=True):
        parts = np.split(rng.permutation(own), range(size, len(own), size))
        rows += [
            {"day": day, "users": part.tolist(), "labelled": labelled}
            for part in parts
            if len(part)
        ]
    return Dataset.from_list(rows)


def purchase_loss(logits: torch.Tensor, user: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each user with each candidate, bought or not, over the number of purchases.

    Args:
        logits: (B, I) log-odds.
        user, column: (P,) rows and columns of what is bought, each pair once.

    Raises ValueError when nothing is bought.
    """
    if not len(user):
        raise ValueError("No candidate is bought by any user: give users with a purchase.")
    return (nn.functional.softplus(logits).sum() - logits[user, column].sum()) / len(user)


def teacher_scores(
    rows: Dataset,
    model: Recommender,
    collator: BasketCollator,
    candidates: torch.Tensor,
    depth: int,
) -> Dataset:
    """The rows with the teacher's best `depth` candidates of each user, or all if there are fewer.

    Two columns are added: `teacher_columns` (B, depth), places among the `candidates` (K,), and
    `teacher_scores` (B, depth), their log-odds.
    """

    def best_of(row: dict) -> dict:
        with at_rest(model):
            scores = model(moved(collator([row]), model.items.device), candidates)
        top = scores.cpu().topk(min(depth, len(candidates)), dim=1)
        return {"teacher_columns": top.indices.tolist(), "teacher_scores": top.values.tolist()}

    return rows.map(best_of, desc="Teacher", load_from_cache_file=False, new_fingerprint="teacher")


class RankingTrainer(trainer.MeasuredTrainer):
    """A Trainer of recommenders, with L = cross entropy of purchases + α · listwise KL.

    The divergence is that of `losses.listwise_kl`, over the teacher's best items for each user
    (ranking distillation, Tang & Wang 2018); with α = 0 no teacher is needed. Rows that are not
    labelled have the divergence alone. A share `hidden` of the candidates, drawn anew for each
    batch, is scored by text alone, so that the text learns to stand for an item that was never sold
    (DropoutNet, Volkovs et al. 2017). It is evaluated by recall@10 over all items from day `start`
    on.
    """

    def __init__(
        self,
        model: Recommender,
        *,
        collator: BasketCollator,
        candidates: torch.Tensor,
        start: int,
        alpha: float = 0.0,
        hidden: float = 0.1,
        **options,
    ):
        super().__init__(model, data_collator=collator, **options)
        self.collator, self.candidates, self.start = collator, candidates, start
        self.alpha, self.hidden = alpha, hidden
        self._column = columns_of(candidates, len(model.items.baskets.items))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        hidden = torch.rand(len(self.candidates), device=self.candidates.device) < self.hidden
        logits = model(inputs, self.candidates, hidden)
        loss = logits.new_zeros(())
        if inputs["labelled"]:
            column = self._column[inputs["bought"]]
            loss = purchase_loss(logits, inputs["buyer"][column >= 0], column[column >= 0])
        if self.alpha > 0:
            if "teacher_scores" not in inputs:
                raise ValueError("alpha > 0 needs the columns of recommend.teacher_scores.")
            wanted = inputs["teacher_scores"]
            own = logits.gather(1, inputs["teacher_columns"])
            everyone = torch.ones_like(wanted, dtype=torch.bool)
            soft = losses.listwise_kl(own, wanted, everyone)
            loss = loss + self.alpha * soft
        return (loss, {"logits": logits}) if return_outputs else loss

    def measure(self, dataset) -> dict[str, float]:
        """The recall over all items from day `start` on, read from baskets, not from `dataset`."""
        model = self.accelerator.unwrap_model(self.model)
        shelf = Shelf(model, self.collator, self.start)
        found = evaluate(network(shelf), model.items.baskets, self.start)
        return {name: found[name] for name in ("recall", "new_recall")}


def common_items(items: Items, day: int, least: int | None = None) -> torch.Tensor:
    """The rows, in order, of the items that `least` users or more have bought before `day`.

    By default `least` is `BUYERS`.
    """
    buyers, least = buyers_of(history(items.baskets, day)), BUYERS if least is None else least
    return torch.from_numpy(np.flatnonzero(buyers >= least)).to(items.device)


def fit(
    model: Recommender,
    rows: Dataset,
    candidates: torch.Tensor,
    start: int,
    profile: Profile,
    folder: Path,
    *,
    passes: float,
    learning_rate: float,
    least: int = 1,
    evaluations: int = 5,
    **distillation,
) -> list[dict]:
    """Train `model` on `rows` and save the best of it into `folder`, as `distill.fit` does.

    The best of `evaluations` looks is the one with the highest recall@10 from day `start` on; one
    look is the end of the training, whatever it shows. The training takes
    `least` steps or more, and is trained on the `candidates`; the other items are ranked all the
    same. All profiles compute in float32: half precision does not tell the log-odds of thousands of
    items apart.
    """
    rows = _with_a_purchase(rows, model.items.baskets, candidates)
    run = RankingTrainer(
        model,
        args=trainer.arguments(
            replace(profile, batch_size=1, precision="fp32"),
            folder,
            max(least, round(passes * len(rows))),
            learning_rate,
            evaluations,
            metric_for_best_model="recall",
        ),
        train_dataset=rows,
        eval_dataset=rows,  # the library asks for one; `measure` reads the baskets
        collator=BasketCollator(model.items.baskets),
        candidates=candidates,
        start=start,
        **distillation,
    )
    return trainer.run_to_end(run, folder)


def train(
    kind: type[Recommender],
    items: Items,
    start: int,
    profile: Profile,
    teacher: Path | None = None,
    *,
    alpha: float = 1.0,
    depth: int = 200,
    further: bool = True,
    buyers: int | None = None,
    **changes,
) -> Path:
    """The folder of a `BasketTransformer` or `DecayedMeans`, fitted to the days before `start`.

    With the folder of a `teacher`, a BasketTransformer of the same items, it is distilled from it:
    from the order of the teacher's `depth` best items, with the weight `alpha`, and if `further`,
    on the `unlabelled_occasions` too. It is trained on items that so many `buyers` have bought, by
    default `BUYERS`; the others are ranked all the same. `changes` replace settings of
    `HYPERPARAMETERS`. It is made once, then found among the artefacts.
    """
    settings = {**HYPERPARAMETERS[kind], **changes}
    buyers = BUYERS if buyers is None else buyers
    taught = teacher and [alpha, depth, further, keys.identity(teacher)]

    def make(folder: Path) -> None:
        rows = occasions(items.baskets, FIRST, start, GROUP, profile.seed)
        candidates = common_items(items, start, buyers)
        if teacher is not None:
            if further:
                more = unlabelled_occasions(items.baskets, start, GROUP, profile.seed)
                rows = concatenate_datasets([rows, more])
            model = load(teacher, BasketTransformer, items)
            rows = teacher_scores(rows, model, BasketCollator(items.baskets), candidates, depth)
        weight = 0.0 if teacher is None else alpha
        with runtime.seeded(profile.seed):
            fit(kind(items), rows, candidates, start, profile, folder, alpha=weight, **settings)

    parts = [
        kind.__name__,
        items.key,
        start,
        [settings, FIRST, GROUP, buyers],
        keys.settings_of(profile),
        taught,
    ]
    return stage("recommender", parts, make, profile.artifacts, recipe=1)
