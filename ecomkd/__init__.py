"""Transfer learning and knowledge distillation for e-commerce search and recommendation."""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["Profile", "load", "record", "record_all", "show"]

_HOMES = {
    "Profile": "ecomkd.config",
    "load": "ecomkd.data.sources",
    "record": "ecomkd.report",
    "record_all": "ecomkd.report",
    "show": "ecomkd.report",
}

_MOVED = {
    "baselines": "ecomkd.relevance",
    "mining": "ecomkd.relevance",
    "pipeline": "ecomkd.relevance",
}
"""Where modules are that chapters still import by a former name."""


def __getattr__(name: str):
    # Lazy, so that `import ecomkd` loads neither torch nor pandas.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MOVED:
        return import_module(_MOVED[name])
    raise AttributeError(f"module 'ecomkd' has no attribute {name!r}")
