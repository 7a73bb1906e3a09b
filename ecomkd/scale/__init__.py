"""Past one machine: what a model says of any number of pairs.

`scoring` is `ecomkd score`. Names are loaded when they are first asked for. Chapter 5.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(__name__, {".scoring": "ENGINES Scored score scored"})
