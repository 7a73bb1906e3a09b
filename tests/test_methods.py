"""Ways of transfer: adaptation without labels, low-rank adaptation, and what compares them."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback

import measure_methods as methods
from ecomkd import bench, metrics, models, report, trainer
from ecomkd.data import shop
from ecomkd.data.schema import TEXT
from ecomkd.relevance import adapt, judge, stages

PHRASES = (
    "red wool shoe strap steel tea",
    "blue tea pot lamp small desk",
    "green kids mug mat large",
)


@pytest.fixture(autouse=True, scope="module")
def no_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def profile(tmp_path):
    start = tiny_models.save(tiny_models.bert(layers=2, seed=1), tmp_path / "start")
    return tiny_models.profile(tmp_path / "artifacts", teacher=str(start), frozen_layers=None)


def catalogue(products: int = 60) -> Dataset:
    """Products whose hidden words follow from those that are left."""
    rows = {name: [""] * products for name in TEXT}
    rows["product_title"] = [PHRASES[index % len(PHRASES)] for index in range(products)]
    return Dataset.from_dict({"product_id": [f"p{i}" for i in range(products)], **rows})


class Kill(TrainerCallback):
    """Stands in for a kill: the run breaks off after some of its steps."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.fixture
def killed_once(monkeypatch):
    """The first run of a trainer breaks off at step 7; says after which step each one began."""
    begun = []
    to_end = trainer.run_to_end

    def run(training, folder):
        if not begun:
            training.add_callback(Kill())
        names = (path.name for path in (folder / "checkpoints").glob("checkpoint-*"))
        begun.append(max((int(name.removeprefix("checkpoint-")) for name in names), default=0))
        return to_end(training, folder)

    monkeypatch.setattr(trainer, "run_to_end", run)
    return begun


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Domain-adaptive pretraining ----------------------------------------------------------------------


def test_the_head_that_names_tokens_is_tied_to_the_table_of_words():
    model = adapt.build_masked("minilm", seed=3)
    table = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is table
    assert torch.equal(table, models.build_teacher("minilm", ["a"]).get_input_embeddings().weight)
    dense = "cls.predictions.transform.dense.weight"
    drawn = [adapt.build_masked("minilm", seed).state_dict()[dense] for seed in (3, 4)]
    assert torch.equal(model.state_dict()[dense], drawn[0])
    assert not torch.equal(*drawn)


def test_hidden_tokens_are_a_seventh_and_others_in_each_pass():
    tokenizer = tiny_models.tokenizer()
    texts = list(catalogue(200)["product_title"])
    rows = adapt._hidden_tokens(texts, tokenizer, 2, seed=0)
    labels = [np.array(row) for row in rows["labels"]]
    assert all((row != -100).any() for row in labels)
    assert not any((row[[0, -1]] != -100).any() for row in labels)  # [CLS] and [SEP]
    known = {tuple(ids) for ids in tokenizer(texts)["input_ids"]}
    for ids, row in zip(rows["input_ids"], labels, strict=True):  # shown tokens stay, labels mend
        assert tuple(np.where(row == -100, ids, row).tolist()) in known
    first, second = rows["input_ids"][:100], rows["input_ids"][-100:]
    assert first != second
    again = adapt._hidden_tokens(texts, tokenizer, 2, seed=0)
    assert rows["labels"][:] == again["labels"][:]
    # 15 % of 5 or 6 tokens; texts without one were left out.
    share = sum((row != -100).sum() for row in labels) / (2 * 200 * (17 / 3))
    assert 0.12 < share < 0.18


def test_adaptation_changes_the_encoder_and_names_hidden_words_better(profile):
    folder = adapt.domain_adapted(catalogue(), profile, passes=30, learning_rate=5e-3)
    losses = stages.training_log(folder)["eval_loss"].dropna().tolist()
    assert losses[-1] < losses[0]
    assert min(losses) < np.log(len(tiny_models.WORDS)) - 1  # far from guessing
    before, after = (
        models.build_teacher(name, ["a"]).base_model.state_dict()
        for name in (profile.teacher, str(folder))
    )
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("pooler")}.isdisjoint(moved)
    assert any("layer.0" in name for name in moved)


def test_a_teacher_starts_from_the_adapted_encoder(profile):
    data = tiny_models.shop()
    still = replace(profile, teacher_learning_rate=0.0)
    adapted = adapt.domain_adapted(catalogue(), profile)
    plain, started = (
        stages.teacher(data, still),
        stages.teacher(data, still, checkpoint=adapted),
    )
    assert plain != started
    wanted = load_file(adapted / "model.safetensors")
    found = models.load(started).base_model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_killed_adaptation_goes_on_to_the_same_weights(profile, tmp_path, killed_once):
    with pytest.raises(KeyboardInterrupt):
        adapt.domain_adapted(catalogue(), profile)
    broken = adapt.domain_adapted(catalogue(), profile)
    assert killed_once == [0, 6]
    unbroken = adapt.domain_adapted(catalogue(), replace(profile, artifacts=tmp_path / "other"))
    assert broken.name == unbroken.name
    assert same(broken, unbroken)
    times = stages.training_log(broken)["seconds"]
    assert times.is_monotonic_increasing
    assert times.iloc[0] > 0


# Low-rank adaptation ------------------------------------------------------------------------------


def low_rank(rank: int = 4, seed: int = 0):
    pytest.importorskip("peft")
    return models.build_low_rank(tiny_models.bert(layers=2, seed=1), rank, seed)


def batch() -> dict:
    return {"input_ids": torch.arange(2, 18).reshape(2, 8)}


def step(model, rate: float = 0.1) -> None:
    free = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(free, rate)
    for _ in range(3):
        model(**batch(), labels=torch.tensor([0, 3])).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def test_a_fresh_correction_changes_no_answer():
    plain = tiny_models.bert(layers=2, seed=1).eval()
    with torch.no_grad():
        wanted, found = plain(**batch()).logits, low_rank().eval()(**batch()).logits
    assert torch.equal(wanted, found)


def test_only_the_correction_and_the_head_train():
    model = low_rank(rank=4)
    free = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    corrections = [name for name in free if "lora_" in name]
    assert len(corrections) == 2 * 2 * 4  # A and B, layers, projections
    assert sum(free[name].numel() for name in corrections) == 2 * 2 * 4 * 4 * 32
    rest = set(free) - set(corrections)
    assert {name.split(".")[-1] for name in rest} == {"weight", "bias"}
    assert sum(free[name].numel() for name in rest) == 4 * 33 + 32 * 33  # classifier, pooler


def test_training_leaves_the_base_weights_alone():
    model = low_rank()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model)
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or "modules_to_save" in name for name in moved)


def test_merging_changes_no_answer():
    model = low_rank()
    step(model)
    with torch.no_grad():
        before = model.eval()(**batch()).logits
        merged = model.merge_and_unload()
        after = merged.eval()(**batch()).logits
    assert type(merged) is type(tiny_models.bert())
    assert torch.allclose(before, after, atol=1e-5)
    untrained = tiny_models.bert(layers=2, seed=1).eval()(**batch()).logits
    assert not torch.allclose(before, untrained, atol=1e-2)


def test_a_low_rank_teacher_loads_like_any_and_keeps_its_adapter(profile, monkeypatch):
    pytest.importorskip("peft")
    looks = iter(range(100))  # the last checkpoint is the best
    monkeypatch.setattr(judge, "quality", lambda pairs, logits: {"quality": float(next(looks))})
    data = tiny_models.shop()
    folder = adapt.low_rank(data, profile, rank=4, learning_rate=0.05)
    model = models.load(folder, 4).state_dict()
    start = models.load(profile.teacher, 4).state_dict()
    moved = {name for name in model if not torch.equal(model[name], start[name])}
    assert {name for name in moved if "attention" not in name} <= {
        f"{part}.{kind}"
        for part in ("classifier", "bert.pooler.dense")
        for kind in ("weight", "bias")
    }
    assert any("attention" in name for name in moved)
    size = bench.model_size(folder / "adapter")
    assert size["parameters"] == 2 * 2 * 4 * 4 * 32 + 4 * 33 + 32 * 33
    assert stages.training_log(folder)["seconds"].max() > 0
    chances = judge.predict(folder, data["test"], profile)
    assert chances.shape == (12, 4)
    shallow = replace(profile, student_layers=(1,))
    student = stages.student(data, shallow, teacher_folder=folder)
    assert models.load(student, 4).config.num_hidden_layers == 1


def test_a_killed_low_rank_run_goes_on_to_the_same_weights(profile, tmp_path, killed_once):
    pytest.importorskip("peft")
    data, longer = tiny_models.shop(), replace(profile, teacher_epochs=6)
    with pytest.raises(KeyboardInterrupt):
        adapt.low_rank(data, longer)
    broken = adapt.low_rank(data, longer)
    assert killed_once == [0, 4]
    unbroken = adapt.low_rank(data, replace(longer, artifacts=tmp_path / "other"))
    assert broken.name == unbroken.name
    assert same(broken, unbroken)


@pytest.mark.parametrize("rank", [0, 33])
def test_a_rank_that_no_matrix_has(rank):
    with pytest.raises(ValueError) as error:
        models.build_low_rank(tiny_models.bert(), rank)
    assert str(error.value) == (f"rank={rank}: take a whole number from 1 to the hidden size, 32.")


def test_peft_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError) as error:
        models.build_low_rank(tiny_models.bert())
    assert str(error.value) == (
        'peft is missing, which build_low_rank needs: pip install "ecomkd[lora]"'
    )


# Keys and bad input -------------------------------------------------------------------------------


def test_what_determines_a_run_is_in_its_key(profile, monkeypatch):
    for module in (stages, adapt):
        monkeypatch.setattr(module, "stage", lambda name, parts, *rest, **more: json.dumps(parts))
    data, products = tiny_models.shop(), catalogue()
    others = catalogue(61)
    runs = [
        adapt.domain_adapted(products, profile),
        adapt.domain_adapted(others, profile),
        adapt.domain_adapted(products, profile, passes=1),
        adapt.domain_adapted(products, profile, learning_rate=2e-4),
        adapt.domain_adapted(products, replace(profile, seed=5)),
        adapt.low_rank(data, profile),
        adapt.low_rank(data, profile, rank=4),
        adapt.low_rank(data, profile, learning_rate=1e-3),
        stages.teacher(data, profile),
        stages.teacher(data, profile, checkpoint="another"),
    ]
    assert len(set(runs)) == len(runs)
    assert stages.teacher(data, profile) == stages.teacher(data, profile, checkpoint=None)


def test_a_given_checkpoint_is_known_by_its_content(profile, tmp_path, monkeypatch):
    for module in (stages, adapt):
        monkeypatch.setattr(module, "stage", lambda name, parts, *rest, **more: json.dumps(parts))
    data = tiny_models.shop()
    folders = [
        tiny_models.save(tiny_models.bert(seed=seed), tmp_path / name / "model")
        for name, seed in (("one", 1), ("two", 2), ("three", 1))
    ]
    one, two, three = (stages.teacher(data, profile, checkpoint=path) for path in folders)
    assert one == three != two


def test_random_weights_and_a_checkpoint(profile):
    with pytest.raises(ValueError) as error:
        stages.teacher(tiny_models.shop(), profile, pretrained=False, checkpoint="minilm")
    assert str(error.value) == (
        "teacher: pretrained=False starts from random weights: leave the checkpoint out."
    )


def test_texts_too_short_to_hide_a_token_in(profile):
    short = {**catalogue(10).to_dict(), **dict.fromkeys(TEXT, [""] * 10)}
    with pytest.raises(ValueError, match=r"^domain_adapted: of 10 product texts no token was hid"):
        adapt.domain_adapted(Dataset.from_dict(short), profile)


@pytest.mark.parametrize(("products", "passes"), [(9, 2), (60, 0)])
def test_nothing_to_adapt_to(profile, products, passes):
    with pytest.raises(ValueError) as error:
        adapt.domain_adapted(catalogue(products), profile, passes=passes)
    assert str(error.value) == (
        f"domain_adapted: {products} products and passes={passes}: give at least 10 products and "
        "1 pass."
    )


# The comparison -----------------------------------------------------------------------------------


def test_labels_come_as_whole_queries():
    pairs = tiny_models.pairs(24)  # four pairs a query
    assert len(methods.whole_queries(pairs, 10)) == 8
    assert len(methods.whole_queries(pairs, 12)) == 12
    assert len(methods.whole_queries(pairs, 99)) == 24
    with pytest.raises(SystemExit, match=r"--labels 3: the first query has more pairs"):
        methods.whole_queries(pairs, 3)
    data = tiny_models.shop(train=24)
    lesson = methods.few(data, 8)
    assert (len(lesson["train"]), len(lesson["validation"])) == (8, 8)
    assert len(lesson["test"]) == len(data["test"])


def test_small_training_sets_take_more_passes():
    profile = tiny_models.profile(Path("none"), batch_size=32, warm_up_pairs=64)
    rates = {"full": 1e-4, "LoRA": 1e-3, "scratch": 2e-4}
    epochs = [
        methods.fitted(profile, "full", pairs, 150, rates).teacher_epochs
        for pairs in (50, 200, 1000, 4500)
    ]
    assert epochs == [75, 22, 5, methods.EPOCHS]
    adapted = methods.fitted(profile, "adapted", 200, 150, rates)
    assert (adapted.teacher_learning_rate, adapted.warm_up_pairs) == (1e-4, 0)
    assert adapted.frozen_layers is None
    warmed = methods.fitted(profile, "warmed", 200, 150, rates)
    assert warmed == replace(profile, teacher_epochs=22)
    assert methods.fitted(profile, "contrast", 200, 150, {}) == warmed
    thin = methods.fitted(profile, "warmed LoRA", 200, 150, rates)
    assert thin == replace(warmed, teacher_learning_rate=1e-3)


@pytest.mark.parametrize("method", ["logistic", "boosted"])
def test_a_label_that_training_never_showed_has_probability(method):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5))
    y = np.where(x[:, 0] > 0, 1, 3)
    for call, cost in getattr(methods, method)(x, y, 4, seed=0):
        chances = call(x)
        assert chances.shape == (60, 4)
        assert np.allclose(chances.sum(axis=1), 1)
        assert chances[:, [0, 2]].max() < 0.01
        assert cost["kept_bytes"] > 0
    assert (chances.argmax(axis=1) == y).mean() > 0.9


def test_what_validation_chose_is_kept_and_whether_it_lies_on_an_edge():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3))
    y = np.where(x[:, 0] > 0, 1, 3)
    for method, grid in (("logistic", methods.STRENGTHS), ("boosted", methods.TREES)):
        costs = [cost for _, cost in getattr(methods, method)(x, y, 4, seed=0)]
        assert [cost["chosen"] for cost in costs] == list(grid)
        assert [cost["on_edge"] for cost in costs] == [True, *[False] * (len(grid) - 2), True]


def test_a_sum_does_not_forget_what_its_model_forgot():
    pairs = {
        name: own.add_column("query_kind", ["plain"] * len(own))
        for name, own in (
            ("validation", tiny_models.pairs(40)),
            ("test", tiny_models.pairs(80, prefix="t")),
        )
    }
    rng = np.random.default_rng(0)
    known = {
        split: np.column_stack([rng.random(len(own)), judge.worth(own)])
        for split, own in pairs.items()
    }
    noise = {"validation": rng.random(20), "test": rng.random(80)}
    chosen_on = pairs["validation"].select(range(20))  # the labels that there are
    found = methods.in_sum(chosen_on, pairs["test"], known, noise)
    order = metrics.ranking(judge.frame(pairs["test"], known["test"][:, 1]), judge.gains(chosen_on))
    assert found["lift@10 sum"] == pytest.approx(order["lift@10"])
    assert found["weights"] == [0.0, 1.0, 0.0]
    assert len(found["per_query sum"]) == len(set(pairs["test"]["query_id"]))


def test_before_any_label_words_and_cosine_are_added_in_standard_units(monkeypatch):
    test = tiny_models.pairs(8)
    monkeypatch.setattr(methods.models, "load_tokenizer", lambda folder: None)
    monkeypatch.setattr(methods.models, "load", lambda folder, classes: None)
    monkeypatch.setattr(methods.distill, "encode", lambda *given: None)
    monkeypatch.setattr(methods.distill, "predict", lambda *given: np.tile([1.0, 3.0], (8, 1)))

    class Vectors:
        profile = tiny_models.profile(Path("none"))

    rng = np.random.default_rng(0)
    known = {"validation": rng.normal([5, 0], [4, 0.1], (6, 2)), "test": rng.random((8, 2))}
    found = methods.without_labels({"test": test}, Path("none"), Vectors, known)
    assert list(found) == ["BM25", "cosine", "words + cosine", "warmed"]
    assert (found["warmed"] == 2).all()
    mean, deviation = known["validation"].mean(axis=0), known["validation"].std(axis=0)
    wanted = (found["BM25"] - mean[0]) / deviation[0] + (found["cosine"] - mean[1]) / deviation[1]
    assert np.allclose(found["words + cosine"], wanted)


def test_a_bi_encoder_that_labels_taught_has_scores_classes_and_a_cost(tmp_path):
    pytest.importorskip("sentence_transformers")
    lesson = {
        "train": tiny_models.pairs(16),
        "validation": tiny_models.pairs(8, prefix="v"),
        "test": tiny_models.pairs(8, prefix="t"),
    }
    profile = tiny_models.profile(tmp_path, teacher_epochs=1, frozen_layers=5)
    found = methods.by_contrast(lesson, profile)
    assert {split: own.shape for split, own in found["scores"].items()} == {
        "validation": (8,),
        "test": (8,),
    }
    assert list(found["chances"]) == ["validation", "test"]
    for chances in found["chances"].values():
        assert chances.shape == (8, 4)
        assert np.allclose(chances.sum(axis=1), 1)
    for pairs, split in ((lesson["validation"], "validation"), (lesson["test"], "test")):
        value = methods.quality(judge.evaluate(pairs, found["chances"][split]))
        assert 0 < value < 1
    cost = found["cost"]
    assert 0 < cost["trained_parameters"] < 4 * 22_713_216 <= cost["kept_bytes"]
    assert cost["chosen"] in (0.0, *methods.bi_encoders.RATES)


def entry(seed: int, method: str, wanted: int, lifts: list[float], **changes) -> dict:
    per_query = {f"S{seed}Q{i}": lift for i, lift in enumerate(lifts)}
    return {
        "seed": seed,
        "method": method,
        "wanted": wanted,
        "labels": wanted,
        "macro_f1": 0.4 if wanted else None,
        "ndcg@10": 0.8,
        "lift@10": float(np.mean(lifts)),
        "lift@10 unseen": 0.01 * seed,
        "lift@10 sum": 0.12 if wanted else None,
        "per_query": per_query,
        "per_query sum": dict.fromkeys(per_query, 0.12) if wanted else None,
        "seconds": 10.0 * seed if wanted else None,
        "shared_seconds": 1.0,
        "p50_ms": 2.0 if wanted else None,
        "trained_parameters": 7 if wanted else None,
        "kept_bytes": 28 if wanted else None,
        **changes,
    }


def part(seed: int, **changes) -> dict:
    entries = [
        entry(seed, "cosine", 0, [0.1, 0.1, 0.1]),
        entry(seed, "full", 50, [0.3, 0.2, 0.1]),
        entry(seed, "LoRA", 50, [0.2, 0.2, 0.05]),
    ]
    same_for_all = {
        "labels": [50],
        "pairs": 8,
        "min_steps": 150,
        "rates": {"full": 1e-4},
        "measures": list(methods.MEASURES),
    }
    return {
        "seed": seed,
        "profile": {"name": "smoke"},
        "generator": shop.generator_hash(),
        "hardware": {"cpu": "none"},
        "entries": entries,
        "adaptation": [{"seed": seed, "step": 1, "loss": 2.0}],
        "distance": [],
        **same_for_all,
        **changes,
    }


def written(folder: Path, *parts: dict) -> Path:
    for one in parts:
        (folder / f"seed{one['seed']}.json").write_text(json.dumps(one))
    return folder


def test_merging_gives_means_intervals_and_comparisons(tmp_path):
    folder = written(tmp_path, *(part(seed) for seed in (1, 2, 3)))
    methods.merge(folder, tmp_path / "out.json")
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["seeds"], record["goals"]) == ([1, 2, 3], [])
    assert record["command"].endswith("--pairs 8 --seeds 1 2 3 --merge")
    rows = {(row["method"], row["labels"]): row for row in record["data"]["summary"]}
    full = rows["full", 50]
    assert full["seconds"] == 20.0
    assert full["lift@10 unseen"]["mean"] == pytest.approx(0.02)
    assert full["lift@10 unseen"]["high"] == pytest.approx(0.02 + 4.3027 * 0.01 / 3**0.5, abs=1e-4)
    cosine = rows["cosine", 0]
    assert (cosine["macro_f1"]["mean"], cosine["seconds"], cosine["seeds"]) == (None, None, 3)
    found = {row["method"]: row for row in record["data"]["comparisons"]}
    assert {row["best"] for row in found.values()} == {"full"}
    assert {row["best_chosen_on"] for row in found.values()} == {"test"}
    assert found["LoRA"]["difference"] == pytest.approx(0.05)
    assert found["cosine"]["difference"] == pytest.approx(0.1)
    assert (found["cosine"]["method_labels"], found["LoRA"]["method_labels"]) == (0, 50)
    assert "per_query" not in record["data"]["entries"][0]
    assert full["lift@10 sum"]["mean"] == pytest.approx(0.12)
    kept = record["data"]["per_query"]
    assert [(one["seed"], one["queries"][0], len(one["queries"])) for one in kept] == [
        (seed, f"S{seed}Q0", 3) for seed in (1, 2, 3)
    ]
    runs = {(run["method"], run["wanted"]): run for run in kept[0]["runs"]}
    assert runs["full", 50]["lift@10"] == [0.3, 0.2, 0.1]
    assert runs["full", 50]["lift@10 sum"] == [0.12, 0.12, 0.12]
    assert "lift@10 sum" not in runs["cosine", 0]
    assert "NaN" not in (tmp_path / "out.json").read_text()


def test_merging_leaves_out_the_times_of_a_disturbed_seed(tmp_path):
    disturbed = part(1, hardware={"cpu": "another"})
    folder = written(tmp_path, disturbed, part(2), part(3))
    methods.merge(folder, tmp_path / "out.json", untimed=[1])
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["hardware"], record["data"]["timed_seeds"]) == ({"cpu": "none"}, [2, 3])
    assert record["command"].endswith("--seeds 1 2 3 --merge --untimed 1")
    full = next(row for row in record["data"]["summary"] if row["method"] == "full")
    assert (full["seconds"], full["seeds"]) == (25.0, 3)
    first = next(row for row in record["data"]["entries"] if row["method"] == "full")
    assert (first["seed"], first["seconds"], first["kept_bytes"]) == (1, None, 28)
    with pytest.raises(SystemExit, match="--untimed: names every seed"):
        methods.merge(folder, tmp_path / "out.json", untimed=[1, 2, 3])


def test_merging_refuses_files_of_different_settings(tmp_path):
    with pytest.raises(SystemExit, match="no file of a seed; run this script with --seeds first"):
        methods.merge(tmp_path, tmp_path / "out.json")
    written(tmp_path, part(1), part(2, min_steps=10, pairs=9))
    with pytest.raises(SystemExit, match="the files differ in pairs, min_steps; remove the old"):
        methods.merge(tmp_path, tmp_path / "out.json")
    half = part(2)
    half["entries"].pop()
    written(tmp_path, half)
    with pytest.raises(SystemExit, match=r"seed 2 lacks runs; start it again with --seeds"):
        methods.merge(tmp_path, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_run_goes_on_from_its_file_unless_the_settings_changed(tmp_path):
    file = written(tmp_path, part(1)) / "seed1.json"
    fresh = {**part(1), "entries": []}
    assert len(methods.begun(file, fresh)["entries"]) == 3
    assert methods.begun(tmp_path / "seed2.json", fresh) is fresh
    with pytest.raises(SystemExit, match="made with another rates; remove it or give another"):
        methods.begun(file, {**fresh, "rates": {"full": 1e-3}})
    older = {name: value for name, value in part(3).items() if name != "measures"}
    with pytest.raises(SystemExit, match="made with another measures; remove it or give another"):
        methods.begun(written(tmp_path, older) / "seed3.json", {**fresh, "seed": 3})


def test_rates_come_first_and_from_another_shop(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"no learning rates yet; run this script with --tune"):
        methods.chosen_rates(tmp_path / "methods_rates.json")
    monkeypatch.setattr(sys, "argv", ["measure_methods.py", "--seeds", "901"])
    with pytest.raises(SystemExit):
        methods.main()
    assert "shop 901 chose the learning rates; report another" in capsys.readouterr().err


def test_near_and_far_follow_the_rule(monkeypatch):
    """Three departments in a row: the middle one is near to both others."""
    names = ["left", "middle", "right"]
    at = {"left": [1.0, 0.0], "middle": [0.8, 0.6], "right": [0.0, 1.0]}
    products = Dataset.from_dict({"product_id": names, "department": names, "product_type": names})

    class Vectors:
        profile = tiny_models.profile(Path("none"))
        product = np.array([at[name] for name in names])

    counts = {"train": 24, "validation": 24, "test": 180}
    data = datasets.DatasetDict(
        {split: tiny_models.pairs(size, prefix=split) for split, size in counts.items()}
    )
    asked = {
        query: names[int(query.removeprefix(split)) % 3]
        for split in counts
        for query in data[split]["query_id"]
    }
    taught = []

    def teacher(lesson, profile):
        taught.append((len(lesson["train"]), {asked[key] for key in lesson["train"]["query_id"]}))
        return Path("none")

    monkeypatch.setattr(methods, "departments_of_queries", lambda profile, catalogue: asked)
    monkeypatch.setattr(stages, "teacher", teacher)
    uniform = np.full((180, 4), 0.25)
    monkeypatch.setattr(judge, "predict", lambda folder, pairs, profile: uniform)
    result = {"min_steps": 1, "rates": {}}
    rows = methods.departments(data, products, Vectors, np.zeros(180), result)
    assert taught == [(8, {name}) for name in names] + [(8, set(names[:2]))]
    kinds = {(row["source"], row["target"]): row["kind"] for row in rows}
    assert {kinds[name, name] for name in names} == {"own"}
    assert kinds["middle", "left"] == kinds["middle", "right"] == kinds["left", "middle"] == "near"
    assert kinds["right", "left"] == kinds["left", "right"] == kinds["right", "middle"] == "far"
    assert {kinds[methods.SPREAD, name] for name in names} == {"spread"}
    found = {(row["source"], row["target"]): row["distance"] for row in rows}
    assert found["left", "right"] == pytest.approx(1)
    assert found["middle", "left"] == pytest.approx(0.2)
    assert all(row["lift@10"] == pytest.approx(row["lift@10 before"]) for row in rows)


def test_tuning_records_the_best_rate_of_each_method(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "load", lambda source, profile: tiny_models.shop())
    monkeypatch.setattr(methods.sources, "catalogue", lambda source, profile: catalogue())
    seen = []

    def trained(method, data, settings, products):
        seen.append((method, settings.teacher_learning_rate, settings.seed))
        return Path("none")

    def log(folder):
        best = {"full": 1e-4, "LoRA": 4e-3, "scratch": 8e-4}
        method, rate, _ = seen[-1]
        return pd.DataFrame({"eval_quality": [None, 0.5 - abs(rate - best[method]), 0.1]})

    monkeypatch.setattr(methods, "trained", trained)
    monkeypatch.setattr(stages, "training_log", log)
    methods.tune(tmp_path / "methods_rates.json", min_steps=10)
    chosen = methods.chosen_rates(tmp_path / "methods_rates.json")
    assert chosen == {"full": 1e-4, "LoRA": 4e-3, "scratch": 8e-4}
    assert {seed for _, _, seed in seen} == {methods.TUNED_ON}
    tried = [(method, rate) for method, rates in methods.RATES.items() for rate in rates]
    assert [(method, rate) for method, rate, _ in seen] == tried


def test_the_recorded_rates_name_the_best_of_each_method():
    data = report.recorded("methods_rates")["data"]
    tried = pd.DataFrame(data["tried"])
    rates = tried.groupby("method")["rate"].agg(tuple).to_dict()
    assert rates == methods.RATES
    for method, own in tried.groupby("method"):
        assert data["chosen"][method] == own.loc[own["quality"].idxmax(), "rate"]


def test_what_chapter_7_says_in_words_is_in_the_record():
    data = report.recorded("methods")["data"]
    table = pd.json_normalize(data["summary"]).set_index(["method", "labels"])
    lift = table["lift@10.mean"]
    against = pd.DataFrame(data["comparisons"])
    trained = against[against["method_labels"] > 0]
    *fewer, most = sorted(trained["labels"].unique())
    # Up to the last number of labels no trained method orders as well as the cosine.
    part = trained[trained["labels"].isin(fewer)]
    assert set(part["best"]) == {"cosine"}
    assert (part["low"] > 0).all()
    # With all labels the warmed-up teacher is told from the others, LoRA the nearest of them.
    part = against[against["labels"] == most].set_index(["method", "method_labels"])
    assert set(part["best"]) == {"warmed"}
    assert (part["low"] > 0).all()
    assert part["low"].idxmin() == ("LoRA", most)
    assert (lift.xs(most, level="labels") > lift["cosine", 0]).sum() == 3
    told = table["macro_f1.mean"]
    best = {labels: told.xs(labels, level="labels").idxmax() for labels in (*fewer, most)}
    assert best == {50: "warmed", 200: "frozen", 1000: "frozen", 4500: "LoRA"}
    # Adaptation is nowhere told to be a gain over plain fine-tuning.
    entries = pd.DataFrame(data["entries"]).set_index(["method", "labels", "seed"]).sort_index()
    for column in ("lift@10", "lift@10 unseen"):
        for labels in (*fewer, most):
            gap = entries.loc[("adapted", labels), column] - entries.loc[("full", labels), column]
            assert metrics.seed_interval(gap)["low"] <= 0
    # Labels of a department cost on average, whichever it is, and near and far are not told apart.
    transfer = pd.DataFrame(data["distance"])
    transfer["gain"] = transfer["lift@10"] - transfer["lift@10 before"]
    mean = transfer.groupby("kind")["gain"].mean()
    assert (mean < 0).all()
    page = " ".join((Path(__file__).parents[1] / "book/faq.md").read_text("utf-8").split())
    own, near, far = (f"{-mean[kind]:.3f}" for kind in ("own", "near", "far"))
    assert f"by {own} in the mean. For each department tested, the nearest other of three" in page
    assert f"lowered it by {near} and the farthest by {far}; near and far cannot be" in page
    gain = transfer.pivot_table(index=["seed", "target"], columns="kind", values="gain")
    span = metrics.seed_interval((gain["near"] - gain["far"]).groupby("seed").mean())
    assert span["low"] < 0 < span["high"]
