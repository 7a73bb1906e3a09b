"""Recommendation: what a household will buy next, from its baskets so far. Chapters 10 and 14.

`purchases` counts what was bought, `evaluation` judges a ranking of all items, `rankers` need no
network, `networks` and `training` do; `live` keeps the student's state while the shop is open,
`journal` keeps it on disk, and `replay` asks it basket by basket. All names below are found here
too, and each loads its module when it is first asked for.
"""

from importlib import import_module

_NAMES = {
    "purchases": "BUYERS HABITS ONCE SCALES buyers_of first_sold history popularity targets texts"
    " users_before",
    "evaluation": "DEPTH Ranker Scorer best evaluate evaluate_cold in_parts",
    "rankers": "buy_again factors item_knn popular tie_break",
    "networks": "BasketCollator BasketTransformer DecayedMeans Items Recommender Shelf columns_of"
    " load network",
    "training": "FIRST GROUP HYPERPARAMETERS RankingTrainer common_items fit occasions"
    " purchase_loss teacher_scores train unlabelled_occasions",
    "live": "",
    "journal": "Durable",
    "replay": "Scheduled System prequential",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
_OLD = {"Reader": "BasketCollator", "RECIPES": "HYPERPARAMETERS"}  # for one version


def __getattr__(name: str):
    name = _OLD.get(name, name)
    if name in _NAMES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
