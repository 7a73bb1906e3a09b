"""Profiles of people: what their purchases say of them, in sentences that lead back to these.

`goods` says what a till's goods are called, `habits` counts what people buy and holds it against
what is usual, `cards` says it in sentences, `households` guesses who lives there, and `shoppers`
searches a simulated shop with a profile and without. Names are loaded when they are first asked
for. Chapter 11.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".habits": (
            "against CERTAIN cluster group_counts LEAST lift names_of own_brands price_places "
            "PRIOR RECENT repeats rhythm SENSITIVE sensitive surprise trend without"
        ),
        ".goods": "called no_goods written_out",
        ".cards": "Cards Statement",
        ".households": (
            "calibration_error classifier contributions demographics held_out likely "
            "purchase_weights reliability shares_held_out thresholds user_vectors"
        ),
        ".shoppers": "draw match per_shopper personal Searches searches tastes",
    },
)
