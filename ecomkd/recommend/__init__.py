"""Recommendation: what a household will buy next, from its baskets so far. Chapters 10 and 14.

`purchases` counts what was bought, `evaluation` judges a ranking of all items, `rankers` need no
network, `tuning` chooses their settings, `networks` and `training` need one; `live` keeps the
student's state while the shop is open, `journal` keeps it on disk, and `replay` asks it basket by
basket; `sessions` simulates clicks. `run` does all of it for somebody's own purchases, and
`answers` serves from the folder that it leaves. All names below are found here too, and each loads
its module when it is first asked for.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".purchases": (
            "BUYERS buyers_of first_sold HABITS history ONCE popularity SCALES targets texts "
            "users_before"
        ),
        ".evaluation": "best DEPTH evaluate evaluate_cold rank_by Ranker Scorer",
        ".rankers": (
            "bpr buy_again ease factors item_knn neighbour_tables neighbours_share popular Scores "
            "share_of_near tie_break tifu_knn user_knn"
        ),
        ".tuning": "ASKED GOALS old_or_not PRIORS shown some_users tuned tuned_prior",
        ".networks": (
            "BasketCollator BasketTransformer columns_of DecayedMeans Items load network Reader "
            "Recommender Shelf"
        ),
        ".training": (
            "common_items FIRST fit GROUP HYPERPARAMETERS occasions purchase_loss RankingTrainer "
            "teacher_scores train unlabelled_occasions"
        ),
        ".live": "aligned highest initial_state Live PAIR PRIOR RARE",
        ".journal": "Durable",
        ".replay": "next_items prequential Scheduled System",
        ".sessions": "on_clicks simulate",
        ".answers": "Answers",
    },
)
