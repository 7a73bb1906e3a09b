"""Product descriptions that a model writes, and a checker that holds them against the records.

`facts` checks and mends a text, `records` holds the products of a shop, `generation` loads,
trains and runs a GPT-type model, and `writers` makes the models of a shop. Names are loaded when
they are first asked for. Chapter 12.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".facts": "Check Fact Product Vocabulary",
        ".records": "shop_products shop_vocabulary",
        ".writers": (
            "base base_generator generate_descriptions INSTRUCTION prompted Scale SCALES shop "
            "shop_task student Task task teacher write"
        ),
        ".generation": "",
    },
)
