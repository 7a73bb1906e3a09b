"""The old name of `ecomkd.recommend.live`, `.journal` and `.replay`, kept for one version."""

from ecomkd.recommend.journal import Durable  # noqa: F401
from ecomkd.recommend.live import (  # noqa: F401
    PAIR,
    RARE,
    Live,
    aligned,
    highest,
    initial_state,
)
from ecomkd.recommend.replay import Scheduled, System, prequential  # noqa: F401

start = initial_state
