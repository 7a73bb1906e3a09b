"""From one shop to another: what of a model moves, what that is worth, and whether it will harm.

`baskets` moves recommenders, `relevance` moves models that score a query and a product, and
`forecast` foresees what a transfer gains or harms. Names are loaded when they are
first asked for. Chapter 13.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".baskets": "move part_of PARTS",
        ".relevance": (
            "few_queries fine_tune first_queries flip_head joint_student own_gains "
            "restyled scores teacher_odds terse"
        ),
        ".forecast": "distance foreseen reached",
    },
)
