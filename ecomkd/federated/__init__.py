"""Shops that may not pool their data, and shops that change.

`silos` parts a chain into stores and cuts their year into moments, `stores` has the model and its
training, `averaging` learns from all stores without their baskets, `sharing` sends scores in place
of weights, `sums` adds up without reading the terms, and `adapt` moves a model into one store
without harm. Names are loaded when they are first asked for. Chapter 18.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".silos": "Moment Silo cut kinds pooled",
        ".stores": "StoreModel batches loss_of quality scores_of train",
        ".averaging": "clipped mean median rounds size_of trimmed",
        ".sharing": "ensemble learn message news received",
        ".sums": "decoded encoded masked",
        ".adapt": "Adapter PARTS alarms gate mixed move unfrozen",
    },
)
