"""The old name of `stages`, `judge`, `mining` and `adapt` in `ecomkd.relevance`, and of `keys`."""

from ecomkd.keys import batches, digests, identity, settings_of  # noqa: F401
from ecomkd.relevance.adapt import domain_adapted, low_rank  # noqa: F401
from ecomkd.relevance.judge import (  # noqa: F401
    evaluate,
    frame,
    gains,
    predict,
    quality,
    rankable,
    softmax,
)
from ecomkd.relevance.mining import catalogue_vectors, mined, with_unlabelled  # noqa: F401
from ecomkd.relevance.stages import (  # noqa: F401
    ROWS,
    origin,
    start,
    student,
    teacher,
    teacher_pairs,
    training_log,
    warmed,
)
