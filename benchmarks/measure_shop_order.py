"""Is the simulated shop hard in the right way? The order test of its test queries.

    python benchmarks/measure_shop_order.py [--seeds 900 901] [--out FILE]

On the test queries, nDCG@10 must stand in the order random < BM25 < pretrained bi-encoder without
training < teacher, the teacher not above 0.97. Two guards keep the shop from being a grammar that
can simply be learnt: boosted trees on lexical features and a transformer of the teacher's shape
from random weights, trained on the same labels, must stay below the teacher by a third of its lift
over random on the queries whose words no training query has. The profile comes from ECOMKD_PROFILE.
"""

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

import shared
from ecomkd import bench, features, metrics, report
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.relevance import baselines, judge, stages

DEVELOPMENT = (900, 901)  # the generator was made with shops of seeds from 900 on alone
UNSEEN = "unseen_synonym"
CEILING = 0.97
# A model from random weights learns little at the teacher's pace: it gets a larger step and longer.
SCRATCH = {"teacher_learning_rate": 3e-4, "teacher_epochs": 10}


def measure(profile: Profile) -> dict[str, dict[str, float]]:
    """nDCG@10 of each system, over all test queries and over each kind: {system: {kind: score}}."""
    data, catalogue = sources.load("shop", profile), sources.catalogue("shop", profile)
    test, gains = data["test"], judge.gains(data["test"])
    rows = pd.DataFrame({"query_id": test["query_id"], "kind": test["query_kind"]})
    kinds = rows.drop_duplicates("query_id").set_index("query_id")["kind"]

    def by_kind(scores: np.ndarray, column: str = "ndcg@10") -> dict[str, float]:
        per_query = metrics.ranking(judge.frame(test, scores), gains)["per_query"][column]
        means = per_query.groupby(kinds.reindex(per_query.index)).mean()
        return {"all": per_query.mean(), **means}

    def expected(probabilities: np.ndarray) -> np.ndarray:
        return metrics.expected_gain(probabilities, gains)

    def tuned(settings: Profile, pretrained: bool) -> np.ndarray:
        folder = stages.teacher(data, settings, pretrained=pretrained)
        return expected(judge.predict(folder, test, settings))

    found = {"random": by_kind(np.zeros(len(test)), "random_ndcg@10")}
    for name, scores in (
        ("bm25", lambda: baselines.bm25_scores(test, catalogue)),
        ("bi-encoder", lambda: features.bi_encoder_scores(test, profile)),
        (
            "lexical",
            lambda: expected(
                baselines.lexical_boosting(data["train"], test, catalogue, profile.seed)
            ),
        ),
        ("teacher", lambda: tuned(profile, True)),
        ("scratch", lambda: tuned(replace(profile, **SCRATCH), False)),
    ):
        found[name] = by_kind(scores())
        print(profile.seed, name, json.dumps(_rounded(found[name])), flush=True)
    return found


def goals(seed: int, found: dict[str, dict[str, float]]) -> list[dict]:
    """What the design asks of one seed."""
    ranks = ("random", "bm25", "bi-encoder", "teacher")
    made = []
    for low, high in pairwise(ranks):
        gap = found[high]["all"] - found[low]["all"]
        made.append(shared.exact(f"seed {seed}: {high} over {low}", gap, "above 0", gap > 0))
    top = found["teacher"]["all"]
    made.append(shared.exact(f"seed {seed}: teacher", top, f"at most {CEILING}", top <= CEILING))
    lift = found["teacher"][UNSEEN] - found["random"][UNSEEN]
    for guard in ("lexical", "scratch"):
        share = (found["teacher"][UNSEEN] - found[guard][UNSEEN]) / lift
        name = f"seed {seed}: {guard} below the teacher on unseen words, as a share of its lift"
        made.append(shared.exact(name, share, "at least 1/3", share >= 1 / 3))
    return made


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {kind: round(float(score), 4) for kind, score in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=DEVELOPMENT)
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    options = parser.parse_args()
    scores, checked = {}, []
    for seed in options.seeds:
        found = measure(Profile.named(seed=seed))
        scores[str(seed)] = {name: _rounded(kinds) for name, kinds in found.items()}
        checked += goals(seed, found)
    print(json.dumps(checked, indent=1))
    if options.out:
        report.write_recorded(
            options.out,
            command="python benchmarks/measure_shop_order.py --seeds "
            + " ".join(map(str, options.seeds)),
            seeds=list(options.seeds),
            hardware=bench.hardware(),
            generator=shop.generator_hash(),
            data={"profile": Profile.named().name, "ndcg@10": scores},
            goals=checked,
        )


if __name__ == "__main__":
    main()
