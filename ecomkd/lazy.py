"""Names of a package that load their module when they are first asked for. All chapters.

So `from ecomkd import search` gives every name of the part at once, and a shop that serves loads
nothing of what trains.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable]:
    """`__getattr__` and `__dir__` of a package, as PEP 562 has them.

    Args:
        package: the package's `__name__`.
        homes: each module, and the names that are found in it, separated by spaces. A module that
            begins with a dot lies in the package. Modules in the package are names themselves.

    Raises ValueError for a name that is also a module in the package: Python binds the module to it
    as soon as that is loaded.
    """
    home = {name: module for module, listed in homes.items() for name in listed.split()}
    modules = {module.removeprefix(".") for module in homes if module.startswith(".")}
    if both := home.keys() & modules:
        raise ValueError(f"{package}: {min(both)!r} is a module and a name in one; rename one.")

    def __getattr__(name: str) -> Any:
        if name in home:
            return getattr(import_module(home[name], package), name)
        if name in modules:
            return import_module(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(home.keys() | modules)

    return __getattr__, __dir__
