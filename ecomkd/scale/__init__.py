"""Past one machine: what models say of any number of pairs and texts, and what that costs.

`scoring` is `ecomkd score`, `embedding` gives vectors, `engines` are the workers of both, and
`cost` the sums. Names are loaded when they are first asked for. Chapters 5 and 19.
"""

from ecomkd import lazy

_HOMES = {
    ".cost": "",
    ".embedding": "vectors",
    ".engines": "ENGINES LOCAL reach",
    ".scoring": "Scored score scored teacher_outputs",
}
__getattr__, __dir__ = lazy.names(__name__, _HOMES)
