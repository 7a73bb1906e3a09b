"""The former name of `ecomkd.describe.facts`, which notebooks still use."""

from importlib import import_module


def __getattr__(name: str):
    return getattr(import_module("ecomkd.describe.facts"), name)
