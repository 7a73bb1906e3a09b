"""Profiles of people: what their purchases say of them, in sentences that lead back to these.

`habits` counts what people buy and holds it against what is usual, `cards` says it in sentences,
`households` guesses who lives there, and `shoppers` searches a simulated shop with a profile and
without. Names are loaded when they are first asked for. Chapter 11.
"""

from importlib import import_module

_HOMES = {
    **dict.fromkeys(
        (
            "CERTAIN", "LEAST", "PRIOR", "RECENT", "SENSITIVE", "against", "cluster",
            "group_counts", "lift", "names_of", "own_brands", "price_places", "repeats", "rhythm",
            "sensitive", "surprise", "trend", "without",
        ),
        "habits",
    ),
    **dict.fromkeys(("Cards", "Statement"), "cards"),
    **dict.fromkeys(
        (
            "calibration_error", "classifier", "contributions", "demographics", "held_out",
            "likely", "purchase_weights", "reliability", "shares_held_out", "user_vectors",
        ),
        "households",
    ),
    **dict.fromkeys(
        ("Searches", "draw", "match", "per_shopper", "personal", "searches", "tastes"), "shoppers"
    ),
}  # fmt: skip


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
