"""Why this product: reasons of a ranking model in words and in purchases, and tests of them.

`words` gives each word of a query and a product its share in a cross-encoder's score, `curves`
tests such shares and compares them, `purchases` does both for what a household has bought, and
`signals` for boosted trees. Names are loaded when they are first asked for. Chapter 17.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".words": (
            "attention gradient_input in_common integrated_gradients leave_one_out Pair read "
            "rollout scores shapley"
        ),
        ".curves": "SHARES area deletion insertion overlap rank_correlation steps_of",
        ".purchases": (
            "attention_to_purchases Counterfactual counterfactual Household sentence still_shown"
        ),
        ".signals": "coalitions tree_shap",
    },
)
