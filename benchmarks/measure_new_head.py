"""How a new head begins, and what few labels then do to the order, on the simulated shop.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_new_head.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_new_head.py --seeds 19 20 21 22
    ECOMKD_PRECISION=bf16 python benchmarks/measure_new_head.py --merge

Fine-tuning needs a head over the labels, above a network whose warm-up has taught it an order. The
book's teacher draws it at random, from the seed of which the warm-up drew its head of two classes:
so the best label begins with the numbers with which *apart* began (`drawn`). A head that is drawn
from another seed keeps the order or turns it round by luck; one is trained, and DRAWS are looked at
before any label. `spread` lays the rows between those of the warm-up's own head
(`models.build_teacher`), so that the order is there at the first step. The field's remedy is to fit
the head first, while all else stands still (Kumar et al. 2022). These two stand beside the others
where labels are few. All else is the same: the book's recipe, the same first training pairs, whole
queries, no more validation pairs than that, VALIDATION at most, and as many passes as MIN_STEPS
steps need.
Each seed is a shop of its own, with its own warm-up; that of seed 18 is the package's recorded one.
Beside the heads stand the warm start itself, the untrained bi-encoder, and sums with words and bi-
encoder, whose weights the same validation pairs choose. The effect was found on the shop of seed
18; the other shops confirm it. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

import measure_learning_curve
import measure_methods
import measure_whole_lists
import shared
from ecomkd import distill, features, load, metrics, models, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.relevance import judge, rivals, stages
from ecomkd.relevance.tables import TEACHER, TEACHER_SUM, UNTRAINED_SUM

LABELS = (50, 200, 1000, 4500)
MIN_STEPS = 150
FREE, START = "bi-encoder, untrained", "the warm start, no label"
DRAWN, SPREAD = "drawn", "spread"
FIRST, OTHER = "fitted first", "drawn from another seed"
FURTHER = 1_000
"""From a seed to that other one."""
DRAWS = 20
FEW = LABELS[:3]
HEADS = {DRAWN: False, SPREAD: True}
JUDGED = ("train", "validation", "test")
WANTED = ("spread against drawn", f"spread, against {FIRST}", f"spread, against {OTHER}")


def row(system: str, labels: int) -> str:
    """The name of a system that learnt, or chose its weights, with so many labels."""
    return f"{system}, {labels} labels" if labels else f"{system}, no label"


def in_sum(head: str) -> str:
    """The name of a teacher's sum with words and bi-encoder."""
    return f"{head}, in the sum"


@torch.inference_mode()
def pooled(network: PreTrainedModel, pairs: Dataset, profile: Profile) -> np.ndarray:
    """What a network's head reads of the pairs, (N, H)."""
    tokenizer = models.load_tokenizer(profile.teacher)
    collate = distill.PairCollator(tokenizer)
    rows = distill.encode(pairs, tokenizer, profile.max_length)
    found = []
    for batch in DataLoader(rows, 64, collate_fn=collate):
        batch.pop("labels")
        found.append(network.base_model(**batch).pooler_output)
    return torch.cat(found).numpy()


def saved(network: PreTrainedModel, profile: Profile, folder: Path) -> Path:
    """The folder, with a network in it from which a teacher can start."""
    network.save_pretrained(folder)
    models.load_tokenizer(profile.teacher).save_pretrained(folder)
    return folder


def head_first(data: DatasetDict, profile: Profile, folder: Path) -> Path:
    """Write the warm start under a head that was fitted to its pooled outputs (N, H): a logistic
    regression of the strength that validation takes.

    Raises ValueError where training shows fewer than three classes, of which a regression has one
    row and not one for each.
    """
    if len(set(data["train"]["label"])) < 3:
        raise ValueError(f"head_first: {len(data['train'])} pairs show too few classes; give more.")
    classes = data["train"].features["label"].names
    network = models.build_teacher(stages.origin(data, profile), classes, profile.seed).eval()
    states = {split: pooled(network, data[split], profile) for split in JUDGED[:2]}
    tried = []
    for strength in measure_methods.STRENGTHS:
        probe = LogisticRegression(C=strength, max_iter=5000)
        probe.fit(states["train"], data["train"]["label"])
        chances = np.zeros((len(data["validation"]), len(classes)))
        chances[:, probe.classes_] = probe.predict_proba(states["validation"])
        tried.append((measure_methods.quality(judge.evaluate(data["validation"], chances)), probe))
    _, best = max(tried, key=lambda one: one[0])
    # A class that training lacks begins with a probability of about e^-10.
    weight, bias = torch.zeros(network.classifier.weight.shape), torch.full((len(classes),), -10.0)
    weight[best.classes_] = torch.tensor(best.coef_, dtype=torch.float32)
    bias[best.classes_] = torch.tensor(best.intercept_, dtype=torch.float32)
    with torch.no_grad():
        network.classifier.weight.copy_(weight)
        network.classifier.bias.copy_(bias)
    return saved(network, profile, folder)


def another_seed(data: DatasetDict, profile: Profile, folder: Path) -> Path:
    """Write the warm start under a head that is drawn from a seed which nothing else had."""
    classes, seed = data["train"].features["label"].names, profile.seed + FURTHER
    network = models.build_teacher(stages.origin(data, profile), classes, seed)
    return saved(network, profile, folder)


BEGUN = {FIRST: head_first, OTHER: another_seed}


def by_luck(data: DatasetDict, profile: Profile) -> list[float]:
    """The lift of the warm start on the test pairs under heads of DRAWS other seeds, untaught.

    Shops with neighbouring seeds share all of these heads but one.
    """
    test, start = data["test"], stages.origin(data, profile)
    classes, gains = test.features["label"].names, judge.gains(test)
    states = torch.from_numpy(pooled(models.load(Path(start)), test, profile))
    found = []
    for seed in range(profile.seed + FURTHER, profile.seed + FURTHER + DRAWS):
        head = models.build_teacher(start, classes, seed).classifier
        with torch.inference_mode():
            chances = head(states).softmax(dim=1).numpy()
        ranking = metrics.ranking(judge.frame(test, metrics.expected_gain(chances, gains)), gains)
        found.append(ranking["lift@10"])
    return found


def measured(seed: int) -> dict:
    """All systems of a seed on its test queries: per query, and in classes."""
    profile = Profile.named(seed=seed)
    data, catalogue = load("shop", profile), sources.catalogue("shop", profile)
    test, systems = data["test"], {}

    def keep(name: str, ranking: dict, **further: object) -> None:
        systems[name] = shared.kept_by_query(ranking) | further
        print(f"seed {seed}, {name}: lift {ranking['lift@10']:.3f}", flush=True)

    def ordered(name: str, scores: np.ndarray, **further: object) -> None:
        keep(name, metrics.ranking(judge.frame(test, scores), judge.gains(test)), **further)

    def judged(name: str, answers: np.ndarray, **further: object) -> None:
        found = judge.evaluate(test, answers)
        f1 = found["classification"]["macro_f1"]
        keep(name, found["ranking"], macro_f1=f1, **further)

    ordered(FREE, features.bi_encoder_scores(test, profile))
    ordered(START, measure_whole_lists.warm_start(data, profile))
    for head, spread in HEADS.items():
        judged(row(head, 0), measure_whole_lists.untaught(data, profile, spread))
    for labels in LABELS:
        some = measure_methods.few(data, labels)
        seen = rivals.signals(some, catalogue, profile, {})
        ((_, _, scores, weights),) = rivals.sums(some, seen, [UNTRAINED_SUM])
        ordered(row(UNTRAINED_SUM, labels), scores, weights=weights)
        pairs = {split: len(some[split]) for split in JUDGED}
        own = measure_learning_curve.long_enough(profile, pairs["train"], MIN_STEPS)
        for head in (DRAWN, SPREAD, *(BEGUN if labels in FEW else ())):
            with TemporaryDirectory(prefix="ecomkd-") as place:
                start = BEGUN[head](some, own, Path(place)) if head in BEGUN else None
                settings = replace(own, spread_head=HEADS.get(head, False))
                folder = stages.teacher(some, settings, checkpoint=start)
            said = {split: judge.predict(folder, some[split], profile) for split in JUDGED[1:]}
            looks = measure_whole_lists.looks(folder)
            judged(row(head, labels), said["test"], pairs=pairs, looks=looks)
            read = {
                split: replace(seen[split], answers={TEACHER: of}) for split, of in said.items()
            }
            ((_, _, scores, weights),) = rivals.sums(some, read, [TEACHER_SUM])
            ordered(row(in_sum(head), labels), scores, weights=weights)
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "systems": systems,
        "by_luck": by_luck(data, profile),
    }


COMPARED = {
    (row(DRAWN, 0), START): "what the drawn head costs before any label",
    **{
        pair: what
        for labels in LABELS
        for pair, what in (
            ((row(SPREAD, labels), row(DRAWN, labels)), "spread against drawn"),
            ((row(DRAWN, labels), START), "drawn, against the warm start"),
            ((row(SPREAD, labels), START), "spread, against the warm start"),
            ((row(SPREAD, labels), FREE), "spread, against the untrained bi-encoder"),
            ((row(DRAWN, labels), FREE), "drawn, against the untrained bi-encoder"),
            (
                (row(in_sum(SPREAD), labels), row(in_sum(DRAWN), labels)),
                "spread against drawn, each in its sum",
            ),
            (
                (row(in_sum(SPREAD), labels), row(UNTRAINED_SUM, labels)),
                "spread in its sum, against the sum that nobody trained",
            ),
        )
    },
    **{
        (row(SPREAD, labels), row(head, labels)): f"spread, against {head}"
        for labels in FEW
        for head in (FIRST, OTHER)
    },
    **{(row(OTHER, labels), START): f"{OTHER}, against the warm start" for labels in FEW},
}


def summary(parts: Sequence[dict]) -> dict:
    """Rows and differences, as `shared.of_judged_shops` has them, the untaught heads, and what each
    run chose. Each interval is read by itself."""
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    kept = ("pairs", "looks", "weights")
    told = {
        part["seed"]: {
            name: {what: own[what] for what in kept if what in own}
            for name, own in part["systems"].items()
            if "looks" in own or "weights" in own
        }
        for part in parts
    }
    luck = {part["seed"]: part["by_luck"] for part in parts}
    return {
        "labels": LABELS,
        "min_steps": MIN_STEPS,
        "rows": rows,
        "differences": differences,
        "by_luck": luck,
        "runs": told,
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    found = summary(parts)
    goals = []
    for one in found["differences"]:
        if one["what"] in WANTED:
            name = f"nDCG@10: {one['system']}, minus {one['against']} (interval over seeds)"
            goals.append(shared.above_over_seeds(name, one))
    report.write_recorded(out, **shared.origin("new_head", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("new_head", "How the head of fine-tuning begins.", measured, merge)
