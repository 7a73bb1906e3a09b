"""From one shop to another: what of a model moves, what that is worth, and whether it will harm.

`baskets` moves recommenders, `relevance` moves models that score a query and a product, and
`forecast` measures the worth of a transfer and foresees its harm. Names are loaded when they are
first asked for. Chapter 13.
"""

from importlib import import_module

_HOMES = {
    **dict.fromkeys(
        (
            "PARTS", "RATES", "STEPS", "items_of", "learn", "move", "part_of", "told_by",
            "untrained",
        ),
        "baskets",
    ),
    **dict.fromkeys(
        (
            "few_queries", "fine_tune", "first_queries", "flip_head", "joint_student",
            "own_gains", "restyled", "scores", "teacher_odds", "terse",
        ),
        "relevance",
    ),
    **dict.fromkeys(("distance", "foreseen", "reached", "worth"), "forecast"),
    **dict.fromkeys(("few", "joint", "tuned"), "relevance"),  # former names, which notebooks use
}  # fmt: skip


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
