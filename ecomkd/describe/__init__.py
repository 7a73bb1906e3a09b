"""Product descriptions that a model writes, and a checker that holds them against the records.

`facts` checks and mends a text, `records` holds the products of two shops, `generation` loads,
trains and runs a GPT-type model, and `writers` makes the models of a shop. Names are loaded when
they are first asked for. Chapter 12.
"""

from importlib import import_module

_HOMES = {
    **dict.fromkeys(("Check", "Fact", "Product", "Vocabulary"), "facts"),
    **dict.fromkeys(
        (
            "FURTHER", "read_store", "shop_products", "shop_vocabulary", "store_products",
            "store_vocabulary",
        ),
        "records",
    ),
    **dict.fromkeys(
        (
            "INSTRUCTION", "SCALES", "Scale", "Task", "base_generator", "generate_descriptions",
            "prompted", "shop_task", "store_task", "student", "task", "teacher",
        ),
        "writers",
    ),
    **dict.fromkeys(("base", "shop", "write"), "writers"),  # former names, which notebooks use
}  # fmt: skip


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
