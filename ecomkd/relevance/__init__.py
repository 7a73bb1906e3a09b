"""Relevance of products for queries: teacher, students, baselines, verdict. Chapters 1 to 7.

All public names of the modules of this part can be had from here, as `relevance.teacher`; each
module is loaded when one of its names is first asked for. `relevance.gate`, `relevance.lambdamart`,
`relevance.run` and `relevance.verdict` are the modules.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        "ecomkd.keys": "batches digests identity settings_of",
        "ecomkd.features": "bi_encoder_scores embed",
        "ecomkd.words": "bm25",
        ".stages": (
            "origin ROWS start student teacher teacher_pairs training_log warm_up "
            "WARM_UP_LEAST warmed"
        ),
        ".judge": "evaluate frame gains predict quality rankable softmax",
        ".adapt": "build_masked domain_adapted low_rank",
        ".mining": (
            "catalogue_pairs catalogue_queries catalogue_vectors mine mined_pairs with_unlabelled"
        ),
        ".baselines": (
            "bm25_scores boosted_trees lexical_boosting random_scores scores_to_probabilities "
            "word_features"
        ),
        ".lexical": "LEXICAL lexical_signals",
        ".fusion": "choose_fusion Fusion FUSIONS",
        ".lambdamart": "LambdaMart",
        ".bi_encoders": "contrastive contrastive_choices contrastive_rows cosine_scores",
        ".tables": "by_kind DISTILLED f1_difference STUDENTS SYSTEMS table UNTRAINED",
        ".verdict": "LEAST_LIFT LEAST_QUERIES",
        ".runtimes": "available BATCHES like_for_like Variant VARIANTS winner",
        ".run": "cautions results_of speed Trained trained",
    },
)
