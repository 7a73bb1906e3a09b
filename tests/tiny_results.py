"""What `ecomkd run` finds for a seed, small enough to check by hand."""

import numpy as np

CHANCE = 0.5
NDCG = {
    "random": [0.5, 0.4],
    "BM25": [0.6, 0.6],
    "bi-encoder, untrained": [0.7, 0.6],
    "words at their best": [0.6, 0.65],
    "words and bi-encoder, added up": [0.65, 0.6],
    "boosted trees on words": [0.6, 0.7],
    "LambdaMART on words and bi-encoder": [0.7, 0.7],
    "teacher": [0.9, 0.9],
    "teacher, words and bi-encoder, added up": [0.9, 0.9],
    "student, labels only": [0.7, 0.8],
    "student, labels only, words and bi-encoder, added up": [0.7, 0.8],
    "student, KD on labels": [0.8, 0.8],
    "student, distilled": [0.88, 0.86],
    "student, distilled, words and bi-encoder, added up": [0.88, 0.86],
    "student, hard pseudo-labels": [0.8, 0.8],
    "student, distilled, int8": [0.872, 0.86],
}
# Labels of the four pairs: E, S in q1 and E, S in q2. Macro-F1 runs over two classes here.
LABELS = [0, 1, 0, 1]
PREDICTED = {name: [0, 1, 0, 1] for name in NDCG} | {
    "student, labels only": [0, 0, 0, 0],
    "student, hard pseudo-labels": [0, 1, 0, 0],
}


def result(
    seed=900, data="same", ndcg=(), predicted=(), kinds=("plain", "typo"), times=1, chance=CHANCE
) -> dict:
    """What `results_of` returns for two queries of two pairs; only what is read is filled in.

    With `times`, so many of each of the two queries.
    """
    systems = {}
    for name, values in (NDCG | dict(ndcg)).items():
        values = list(values) * times
        ids = [f"q{i + 1}" for i in range(len(values))]
        systems[name] = {
            "predicted": (PREDICTED | dict(predicted))[name] * times,
            "classification": {"accuracy": 0.25 * (seed - 899), "macro_f1": 0.5},
            "per_class": {"0": {}, "1": {}},
            "ranking": {
                "ndcg@10": float(np.mean(values)),
                "lift@10": float(np.mean(values)) - chance,
            },
            "per_query": {
                "query_id": ids,
                "ndcg@10": values,
                "random_ndcg@10": [chance] * len(values),
                "lift@10": [value - chance for value in values],
            },
        }
    return {
        "seed": seed,
        "data": data,
        "query_id": [f"q{i + 1}" for i in range(2 * times) for _ in range(2)],
        "label": LABELS * times,
        "kind": None if kinds is None else [kinds[0], kinds[0], kinds[1], kinds[1]] * times,
        "systems": systems,
    }


def without_ranking(predicted=(), times=1) -> dict:
    only = result(predicted=predicted, kinds=None, times=times)
    for entry in only["systems"].values():
        del entry["ranking"], entry["per_query"]
    return only
