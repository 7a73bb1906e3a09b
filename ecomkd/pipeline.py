"""The old name of `ecomkd.relevance.stages`, `.judge` and `.adapt`, and of `ecomkd.keys`."""

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
from ecomkd.relevance.stages import (  # noqa: F401
    ROWS,
    catalogue_vectors,
    mined,
    origin,
    start,
    student,
    teacher,
    teacher_pairs,
    training_log,
    warmed,
    with_unlabelled,
)
