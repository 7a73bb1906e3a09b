"""Relevance of products for queries: teacher, students, baselines, verdict. Chapters 1 to 7.

All public names of the modules of this part can be had from here, as `relevance.teacher`; each
module is loaded when one of its names is first asked for. `relevance.run` and `relevance.verdict`
are the modules.
"""

from importlib import import_module

_NAMES = {
    "ecomkd.keys": "batches digests identity settings_of",
    "ecomkd.features": "bi_encoder_scores",
    "ecomkd.relevance.stages": (
        "ROWS WARM_UP_LEAST origin start student teacher teacher_pairs training_log warmed"
    ),
    "ecomkd.relevance.judge": "evaluate frame gains predict quality rankable softmax",
    "ecomkd.relevance.adapt": "build_masked domain_adapted low_rank take_encoder",
    "ecomkd.relevance.mining": "catalogue_queries catalogue_vectors mine mined with_unlabelled",
    "ecomkd.relevance.baselines": (
        "bm25_scores lexical_boosting random_scores scores_to_probabilities"
    ),
    "ecomkd.relevance.tables": (
        "DISTILLED STUDENTS SYSTEMS UNTRAINED by_kind f1_difference per_query table"
    ),
    "ecomkd.relevance.verdict": "LEAST_LIFT LEAST_QUERIES",
    "ecomkd.relevance.run": "Trained cautions one_seed results_of speed trained",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("adapt", "baselines", "judge", "mining", "run", "stages", "tables", "verdict")


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
