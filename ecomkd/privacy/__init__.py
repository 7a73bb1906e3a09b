"""What a recommender gives away of the people it was learnt from, and what it costs to hide them.

`tastes` are small recommenders of types of products, `attack` asks whose purchases one was made
from, and `private` learns with a promise to each household. Names are loaded when they are first
asked for. Chapter 16.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".attack": "auc caught likelihood_ratio traces unicity",
        ".private": "fit_privately noise_for noisy_sum noisy_votes spent",
        ".tastes": "Records Student Teacher ease fit hits household_loss losses_of records "
        "scores_of table types_of",
    },
)
