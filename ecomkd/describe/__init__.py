"""Product descriptions that a model writes, and a checker that holds them against the records.

`facts` checks and mends a text, `labels` holds sentences that were read by hand, `records` the
products of a shop, `generation` loads, trains and runs a GPT-type model, and `writers` makes the
models of a shop. Names are loaded when they are first asked for. Chapter 12.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".facts": "Check Fact Product Vocabulary",
        ".labels": "labelled LABELS",
        ".records": "shop_products shop_vocabulary",
        ".writers": (
            "adapter base_generator generate_descriptions INSTRUCTION PAGE prompted Scale SCALES "
            "shop_task student Task task teacher"
        ),
        ".generation": "",
    },
)
