"""Products as pictures beside their texts: what a picture tells, and what both tell together.

`pictures` reads pictures and makes vectors of them, `drawn` draws a shop whose texts leave things
out, `modes` learns from one kind of vectors or from several, and `align` takes one kind to another.
Names are loaded when they are first asked for. Chapter 15.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".pictures": "colours encoder opened recorded square vectors",
        ".drawn": "draw products seen titles",
        ".modes": "Fusion fit late logits_of standard",
        ".align": "contrastive recall ridge unit",
    },
)
