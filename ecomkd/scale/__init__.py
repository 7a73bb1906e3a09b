"""Past one machine: what a model says of any number of pairs, and what that costs.

`scoring` is `ecomkd score`, `cost` the sums. Names are loaded when they are first asked for.
Chapters 5 and 19.
"""

from ecomkd import lazy

_HOMES = {".cost": "", ".scoring": "ENGINES Scored score scored"}
__getattr__, __dir__ = lazy.names(__name__, _HOMES)
