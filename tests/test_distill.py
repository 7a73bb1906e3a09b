"""Distillation's promises, each as a closed form on a tiny random BERT."""

import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.trainer_utils import sort_checkpoints

from ecomkd import distill, features, losses, models
from ecomkd.relevance import judge, stages
from ecomkd.trainer import _drop_unfinished
from ecomkd.trainer import arguments as as_trained

TOKENIZER = tiny_models.tokenizer()
LENGTH = 32


@pytest.fixture(autouse=True, scope="module")
def no_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def profile(tmp_path):
    return tiny_models.profile(tmp_path)


def encoded(count: int = 16, **options) -> datasets.Dataset:
    return distill.encode(tiny_models.pairs(count, **options), TOKENIZER, LENGTH)


def mixed(count: int = 32) -> datasets.Dataset:
    """Encoded pairs of which about a third has no label, unevenly spread."""
    pairs = encoded(count)
    labels = [-100 if i % 3 == 0 or i < 8 else label for i, label in enumerate(pairs["labels"])]
    features = pairs.features.copy()
    return pairs.remove_columns("labels").add_column("labels", labels).cast(features)


def arguments(folder, **changes) -> TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 8,
        "remove_unused_columns": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 1,
        "max_grad_norm": 0.0,
    }
    return TrainingArguments(**{**settings, **changes})


def trainer(model, pairs, profile, folder, kind=distill.DistillationTrainer, **options):
    """A trainer as in `fit`, with the arguments above; `args` replaces some of them."""
    own = {} if kind is Trainer else {"profile": profile}
    return kind(
        model,
        args=arguments(folder, **options.pop("args", {})),
        train_dataset=pairs,
        processing_class=TOKENIZER,
        data_collator=distill.PairCollator(TOKENIZER),
        **own,
        **options,
    )


def trained(*arguments, **options):
    run = trainer(*arguments, **options)
    run.train()
    return run.model


def distance(one, other) -> float:
    a, b = one.state_dict(), other.state_dict()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def outputs(pairs, profile, teacher=None, hidden_states=()):
    teacher = teacher or tiny_models.bert(seed=7)
    return distill.teacher_outputs(pairs, teacher, TOKENIZER, profile, hidden_states)


# Encoding and padding ----------------------------------------------------------------------------


def test_a_pair_is_query_then_product():
    pairs = tiny_models.pairs(1).map(
        lambda row: {"query": "red shoe", "product_title": "red wool mug", "label": -1}
    )
    row = distill.encode(pairs, TOKENIZER, LENGTH)[0]
    text = TOKENIZER.decode(row["input_ids"])
    assert text == "[CLS] red shoe [SEP] red wool mug [SEP]"
    assert row["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (row["length"], row["labels"]) == (8, -100)


def test_the_product_is_cut_first():
    pairs = tiny_models.pairs(1).map(
        lambda row: {"query": "red shoe", "product_title": "blue " * 50}
    )
    row = distill.encode(pairs, TOKENIZER, 12)[0]
    assert row["length"] == 12
    assert TOKENIZER.decode(row["input_ids"]) == (
        "[CLS] red shoe [SEP] blue blue blue blue blue blue blue [SEP]"
    )


def test_the_prediction_of_a_pair_does_not_depend_on_its_batch(tmp_path):
    pairs, model = encoded(20), tiny_models.bert()
    assert len(set(pairs["length"])) > 5
    of = {
        size: distill.predict(
            model, pairs, TOKENIZER, tiny_models.profile(tmp_path, batch_size=size)
        )
        for size in (1, 7, 20)
    }
    np.testing.assert_allclose(of[1], of[7], rtol=0, atol=1e-5)
    np.testing.assert_allclose(of[1], of[20], rtol=0, atol=1e-5)


def test_padding_of_cached_hidden_states_follows_the_tokens(profile):
    pairs = outputs(encoded(6), profile, hidden_states=(2,))
    batch = distill.PairCollator(TOKENIZER)([pairs[i] for i in range(6)])
    assert batch["teacher_hidden_2"].shape == (*batch["input_ids"].shape, 32)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert (batch["teacher_hidden_2"][padding] == 0).all()


# Teacher outputs as columns -----------------------------------------------------------------------


def test_teacher_outputs_are_those_of_the_model_in_eval_mode(profile):
    teacher = tiny_models.bert(dropout=0.5, seed=7).train()
    before = models.weights_digest(teacher)
    pairs = outputs(encoded(6), profile, teacher, hidden_states=(0, 2))
    assert models.weights_digest(teacher) == before
    assert all(p.grad is None for p in teacher.parameters())
    teacher.eval()
    for row in pairs:
        ids = torch.tensor([row["input_ids"]])
        types = torch.tensor([row["token_type_ids"]])
        with torch.no_grad():
            out = teacher(input_ids=ids, token_type_ids=types, output_hidden_states=True)
        np.testing.assert_allclose(row["teacher_logits"], out.logits[0], rtol=0, atol=1e-5)
        for k in (0, 2):  # 0 is the embedding layer, 2 the last of two layers
            expected = out.hidden_states[k][0].half()
            np.testing.assert_allclose(row[f"teacher_hidden_{k}"], expected, rtol=0, atol=1e-2)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(14)))
def test_the_order_of_the_rows_changes_no_cached_output(profile, order):
    pairs = encoded(14)
    once = outputs(pairs, profile, hidden_states=(1,))
    shuffled = outputs(pairs.select(order), profile, hidden_states=(1,))
    assert shuffled["product_id"] == [pairs["product_id"][i] for i in order]
    for place, row in enumerate(order):
        assert shuffled[place]["teacher_logits"] == once[row]["teacher_logits"]
        assert np.array_equal(shuffled[place]["teacher_hidden_1"], once[row]["teacher_hidden_1"])


def test_nothing_is_left_beside_the_data(profile, tmp_path):
    tiny_models.pairs(12).save_to_disk(str(tmp_path / "data"))
    data = datasets.load_from_disk(str(tmp_path / "data"))
    before = sorted(path.name for path in (tmp_path / "data").iterdir())
    pairs = distill.encode(data, TOKENIZER, LENGTH)
    first = outputs(pairs, profile, hidden_states=(1,))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    teacher = tiny_models.bert(seed=7)
    again = distill.teacher_outputs(pairs, teacher, TOKENIZER, profile, (1,), scratch=scratch)
    assert first["teacher_logits"] == again["teacher_logits"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == before
    assert [path.name for path in scratch.iterdir()] == ["teacher.arrow"]
    assert datasets.is_caching_enabled()
    folder = tiny_models.save(teacher, tmp_path / "teacher")
    stages.teacher_pairs({"train": data}, profile, folder, "train")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == before
    (kept,) = profile.artifacts.glob("teacher_outputs-*")
    assert sorted(path.name for path in kept.iterdir()) == ["manifest.json", "pairs"]


def folders(profile, name: str) -> set[str]:
    return {path.name for path in profile.artifacts.glob(f"{name}-*")}


def test_cached_outputs_are_keyed_by_pairs_teacher_and_tokenizer(profile, tmp_path):
    data = tiny_models.shop()
    teacher = tiny_models.save(tiny_models.bert(seed=1), tmp_path / "one" / "teacher")

    def ask(data=data, teacher=teacher, **options):
        before = folders(profile, "teacher_outputs")
        pairs = stages.teacher_pairs(data, profile, teacher, "train", **options)
        return len(folders(profile, "teacher_outputs")) - len(before), pairs

    made, first = ask()
    assert made == 1
    assert first["product_id"] == data["train"]["product_id"]
    assert ask()[0] == 0
    changed = data.copy()
    changed["train"] = data["train"].map(
        lambda row, index: {"product_title": row["product_title"] + " red" * (index == 5)},
        with_indices=True,
    )
    assert ask(data=changed)[0] == 1
    assert ask(pairs=3)[0] == 1
    assert ask(hidden_states=(1,))[0] == 1

    # The name of the folder is no identity.
    other = tiny_models.save(tiny_models.bert(seed=2), tmp_path / "two" / "teacher")
    made, theirs = ask(teacher=other)
    assert made == 1
    assert theirs["teacher_logits"] != first["teacher_logits"]
    third = tiny_models.save(tiny_models.bert(seed=1), tmp_path / "three" / "teacher")
    assert ask(teacher=third)[0] == 0
    settings = json.loads((third / "tokenizer.json").read_text())
    settings["normalizer"]["lowercase"] = False
    (third / "tokenizer.json").write_text(json.dumps(settings))
    assert ask(teacher=third)[0] == 1


# The trainer --------------------------------------------------------------------------------------


def test_alpha_0_is_plain_fine_tuning_bit_for_bit(profile, tmp_path):
    pairs = encoded(40)
    options = {"args": {"optim": "adamw_torch", "max_steps": 7, "learning_rate": 1e-3}}
    plain = trained(tiny_models.bert(), pairs, profile, tmp_path, kind=Trainer, **options)
    options["args"] = dict(options["args"])
    ours = trained(tiny_models.bert(), pairs, profile, tmp_path, alpha=0.0, **options)
    assert distance(plain, tiny_models.bert()) > 1e-3
    assert models.weights_digest(plain) == models.weights_digest(ours)


def test_the_loss_of_a_step_is_the_books_formula(profile, tmp_path):
    pairs = outputs(mixed(16), profile)
    model = tiny_models.bert(dropout=0.0)
    run = trainer(model, pairs, profile, tmp_path, alpha=0.7, temperature=3.0)
    batch = distill.PairCollator(TOKENIZER)([pairs[i] for i in range(16)])
    logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
    expected = losses.distillation(
        logits, batch["teacher_logits"], batch["labels"], alpha=0.7, temperature=3.0
    )
    torch.testing.assert_close(run.compute_loss(model, batch), expected)


@pytest.mark.parametrize(("bf16", "attention"), [(True, "eager"), (False, "sdpa")])
def test_attention_is_unfused_in_bf16_on_a_processor(profile, tmp_path, bf16, attention):
    pairs = outputs(encoded(8), profile)
    run = trainer(tiny_models.bert(), pairs, profile, tmp_path, args={"bf16": bf16})
    assert run.model.config._attn_implementation == attention
    run.train()
    run.save_model(tmp_path / "saved")
    assert models.load(tmp_path / "saved").config._attn_implementation == "sdpa"


def test_cached_logits_take_the_same_step_as_an_online_teacher(profile, tmp_path):
    pairs, teacher = mixed(24), tiny_models.bert(seed=7)
    options = {"alpha": 2.0, "hidden_map": {1: 2}, "teacher_width": 32}
    options |= {"args": {"optim": "sgd", "max_steps": 3}}
    cached = outputs(pairs, profile, teacher, hidden_states=(2,))
    students = []
    for rows, online in ((cached, None), (pairs, teacher.train())):
        student = tiny_models.bert(layers=1)
        rest = {**options, "args": dict(options["args"]), "teacher": online}
        students.append(trained(student, rows, profile, tmp_path, **rest))
    assert distance(students[0], tiny_with_projection(students[0])) > 1e-2
    assert distance(*students) < 1e-4  # hidden states are kept in half precision


def tiny_with_projection(trained_model):
    fresh = tiny_models.bert(layers=1)
    fresh.hidden_projection = trained_model.hidden_projection
    return fresh


class Watch(TrainerCallback):
    """Notes, at each forward pass of the student, the modes of student and teacher."""

    def __init__(self, student, teacher):
        self.modes = []
        student.register_forward_hook(
            lambda *_: self.modes.append((student.training, teacher.training))
        )

    def on_step_end(self, args, state, control, model=None, **kwargs):
        control.should_evaluate = True


def test_modes_and_teacher_stay_as_they_should(profile, tmp_path):
    student, teacher = tiny_models.bert(), tiny_models.bert(seed=7).train()
    before = models.weights_digest(teacher)
    watch = Watch(student, teacher)
    run = trainer(
        student,
        mixed(24),
        profile,
        tmp_path,
        teacher=teacher,
        eval_dataset=encoded(6),
        quality=lambda logits: {"quality": float(logits.mean())},
        callbacks=[watch],
    )
    run.model.train()
    assert not teacher.training
    run.train()
    # Three batches train an epoch; after each of 4 steps one batch of 6 pairs is evaluated.
    assert watch.modes == [(True, False), (False, False)] * 4
    assert models.weights_digest(teacher) == before
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any("teacher" in name for name, _ in student.named_modules())


@pytest.mark.parametrize("hidden", [False, True])
def test_accumulating_4_times_8_equals_once_32(profile, tmp_path, hidden):
    pairs = outputs(mixed(64), profile, hidden_states=(2,) if hidden else ())
    options = {"hidden_map": {1: 2}, "teacher_width": 32} if hidden else {}
    students = []
    for size, steps in ((8, 4), (32, 1)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        student = tiny_models.bert(layers=1, dropout=0.0)
        args = {"optim": "sgd", "max_steps": 2, **sizes}
        students.append(trained(student, pairs, profile, tmp_path, alpha=1.5, args=args, **options))
    assert distance(students[0], tiny_with_projection(students[0]) if hidden
                    else tiny_models.bert(layers=1)) > 1e-2  # fmt: skip
    assert distance(*students) < 2e-6


def test_a_batch_without_a_label_learns_from_the_teacher_alone(profile, tmp_path):
    pairs = outputs(encoded(8, labelled=False), profile)
    model = tiny_models.bert(dropout=0.0)
    run = trainer(model, pairs, profile, tmp_path)
    batch = distill.PairCollator(TOKENIZER)([pairs[i] for i in range(8)])
    logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
    expected = losses.soft_kl(logits, batch["teacher_logits"])
    torch.testing.assert_close(run.compute_loss(model, batch), expected)


def test_the_projection_trains_and_is_not_saved(profile, tmp_path):
    pairs = outputs(mixed(24), profile, tiny_models.bert(hidden=16, seed=7), hidden_states=(2,))
    student = tiny_models.bert(layers=1)
    options = {"hidden_map": {1: 2}, "teacher_width": 16, "args": {"optim": "sgd"}}
    run = trainer(student, pairs, profile, tmp_path, **options)
    projection = student.hidden_projection["1"]
    assert tuple(projection.weight.shape) == (16, 32)
    before = projection.weight.detach().clone()
    run.train()
    assert not torch.equal(projection.weight, before)
    run.save_model(str(tmp_path / "student"))
    saved = load_file(tmp_path / "student" / "model.safetensors")
    assert set(saved) == set(tiny_models.bert(layers=1).state_dict())
    loaded = models.load(tmp_path / "student").state_dict()
    assert all(torch.equal(loaded[name], student.state_dict()[name]) for name in loaded)


def test_label_smoothing_together_with_a_teacher_warns(profile, tmp_path):
    smooth = {"args": {"label_smoothing_factor": 0.1}}
    with pytest.warns(UserWarning) as caught:
        trainer(tiny_models.bert(), encoded(8), profile, tmp_path, alpha=1.0, **smooth)
    message = "label_smoothing_factor and a teacher soften the labels twice: set one of them to 0."
    assert message in [str(warning.message) for warning in caught]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        smooth = {"args": {"label_smoothing_factor": 0.1}}
        trainer(tiny_models.bert(), encoded(8), profile, tmp_path, alpha=0.0, **smooth)


def test_columns_that_the_trainer_dropped_are_missed(profile, tmp_path):
    pairs = outputs(encoded(8), profile)
    run = trainer(
        tiny_models.bert(), pairs, profile, tmp_path, args={"remove_unused_columns": True}
    )
    with pytest.raises(ValueError) as error:
        run.train()
    assert str(error.value) == (
        "alpha > 0 and the batch has no teacher_logits: add them with teacher_outputs(), "
        "or pass teacher=."
    )


def test_hidden_states_that_nobody_cached_are_missed(profile, tmp_path):
    with pytest.raises(ValueError) as error:
        trainer(tiny_models.bert(), encoded(8), profile, tmp_path, hidden_map={1: 2})
    assert str(error.value) == "hidden_map needs teacher_width, the teacher's hidden size."
    pairs = outputs(encoded(8), profile)
    run = trainer(tiny_models.bert(), pairs, profile, tmp_path, hidden_map={1: 2}, teacher_width=32)
    with pytest.raises(ValueError) as error:
        run.train()
    assert str(error.value) == (
        "The batch has no teacher_hidden_2: name 2 in teacher_outputs(hidden_states=…)."
    )


# A whole run --------------------------------------------------------------------------------------


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Rising:
    """A quality that only rises, so that the last checkpoint is the best one."""

    def __init__(self, start: float = 0.0):
        self.value = start

    def __call__(self, logits):
        self.value += 1
        return {"quality": self.value}


def run_fit(pairs, profile, folder, rising=None, **options):
    distill.fit(
        tiny_models.bert(layers=1),
        pairs,
        encoded(6),
        TOKENIZER,
        profile,
        folder,
        steps=10,
        learning_rate=1e-3,
        quality=rising or Rising(),
        hidden_map={1: 2},
        teacher_width=32,
        **options,
    )
    return load_file(folder / "model.safetensors")


def test_every_epoch_has_its_own_order_whatever_was_drawn_before(profile, tmp_path):
    pairs, seen = encoded(40), {}
    for draws in (0, 5):
        torch.rand(draws)
        epochs = []

        class Orders(TrainerCallback):
            def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
                epochs.append(list(train_dataloader.batch_sampler.sampler))  # noqa: B023

        args = {"train_sampling_strategy": "group_by_length", "max_steps": 15}
        options = {"alpha": 0.0, "callbacks": [Orders()], "args": args}
        trained(tiny_models.bert(layers=1), pairs, profile, tmp_path, **options)
        seen[draws] = epochs
    assert seen[0] == seen[5]
    assert [sorted(order) for order in seen[0]] == [list(range(40))] * 3
    assert len({tuple(order) for order in seen[0]}) == 3


def test_the_projection_starts_alike_whatever_was_drawn_before(profile, tmp_path):
    starts = []
    for draws in (0, 5):
        torch.rand(draws)
        student = tiny_models.bert()
        trainer(student, encoded(8), profile, tmp_path, hidden_map={1: 2}, teacher_width=16)
        starts.append(student.hidden_projection["1"].weight)
    assert torch.equal(*starts)


def test_checkpoints_of_one_second_are_put_into_order_without_a_word(profile, tmp_path):
    run_fit(outputs(mixed(40), profile, hidden_states=(2,)), profile, tmp_path / "run")
    for step in (10, 9):
        (tmp_path / "kept" / f"checkpoint-{step}").mkdir(parents=True)
    said = []
    teller, logger = logging.Handler(), logging.getLogger("transformers.trainer_utils")
    teller.emit = said.append
    logger.warning_once.__func__.cache_clear()  # it tells each thing once a process
    logger.addHandler(teller)
    try:
        found = sort_checkpoints(str(tmp_path / "kept"), use_mtime=True)
        logger.warning("another thing")
    finally:
        logger.removeHandler(teller)
    assert [path[-3:] for path in found] == ["t-9", "-10"]
    assert [entry.getMessage() for entry in said] == ["another thing"]


def test_a_run_killed_while_it_cleans_up_leaves_nothing_to_resume_from(
    profile, tmp_path, monkeypatch
):
    """Half of a checkpoint would otherwise be taken for whole, and stop every later run."""
    pairs = outputs(mixed(40), profile, hidden_states=(2,))

    rmtree = distill.trainer.shutil.rmtree

    def killed(folder, **options):
        if Path(folder).name == "checkpoints":
            raise KeyboardInterrupt
        rmtree(folder, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distill.trainer.shutil, "rmtree", killed)
        run_fit(pairs, profile, tmp_path / "run")
    left = list((tmp_path / "run" / "checkpoints").iterdir())
    assert left
    for checkpoint in left:
        (checkpoint / "model.safetensors").unlink()
    again = run_fit(pairs, profile, tmp_path / "run")
    whole = run_fit(pairs, profile, tmp_path / "whole")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize("cut_short", [False, True])
def test_a_killed_run_resumes_to_the_same_weights(profile, tmp_path, cut_short):
    pairs = outputs(mixed(40), profile, hidden_states=(2,))
    unbroken = run_fit(pairs, profile, tmp_path / "unbroken")
    folder, rising = tmp_path / "broken", Rising()
    with pytest.raises(KeyboardInterrupt):
        run_fit(pairs, profile, folder, rising, callbacks=[Kill(7)])
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == ["checkpoint-4", "checkpoint-6"]
    if cut_short:  # killed while writing: the run goes back to the checkpoint before
        (folder / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()
    resumed = run_fit(pairs, profile, folder, rising)
    assert set(resumed) == set(unbroken)
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    assert not (folder / "checkpoints").exists()
    logs = [
        [(row["step"], row["loss"]) for row in json.loads(file.read_text()) if "loss" in row]
        for file in (tmp_path / "unbroken" / "training.json", folder / "training.json")
    ]
    assert logs[0] == logs[1]


def test_the_best_checkpoint_is_kept_not_the_last(profile, tmp_path):
    qualities = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    seen = []

    def quality(logits):
        seen.append(logits)
        return {"quality": next(qualities)}

    pairs = outputs(mixed(40), profile, hidden_states=(2,))
    run_fit(pairs, profile, tmp_path / "run", quality)
    saved = models.load(tmp_path / "run")
    now = distill.predict(saved, encoded(6), TOKENIZER, profile)
    assert np.array_equal(now, seen[1])
    assert not np.array_equal(now, seen[-1])


def test_every_row_starts_alike_and_takes_the_same_steps(profile, tmp_path, monkeypatch):
    teacher = tiny_models.save(tiny_models.bert(layers=3, seed=1), tmp_path / "teacher")
    profile = tiny_models.profile(tmp_path, student_layers=(0, 2), student_start="teacher")
    data, starts, steps = tiny_models.shop(), {}, {}
    fit = distill.fit

    def spy(model, pairs, *arguments, **options):
        starts[row] = models.weights_digest(model)
        steps[row] = (options["steps"], pairs)
        return fit(model, pairs, *arguments, **options)

    monkeypatch.setattr(distill, "fit", spy)
    for row in stages.ROWS:
        folder = stages.student(data, profile, row, teacher_folder=teacher)
        assert stages.training_log(folder)["step"].max() == 5  # 24 + 16 pairs, 8 a batch
        assert "hidden_projection" not in " ".join(load_file(folder / "model.safetensors"))
    assert len(set(starts.values())) == 1
    assert {count for count, _ in steps.values()} == {5}
    sizes = {row: len(pairs) for row, (_, pairs) in steps.items()}
    assert sizes == {"none": 24, "kd": 24, "kd_unlabelled": 40, "hard": 40, "kd_hidden": 40}
    for row, (_, pairs) in steps.items():
        assert ("teacher_logits" in pairs.column_names) == row.startswith("kd")
    hard, soft = steps["hard"][1], steps["kd_unlabelled"][1]
    assert hard["labels"][:24] == data["train"]["label"]
    assert hard["labels"][24:] == np.argmax(soft["teacher_logits"][24:], axis=1).tolist()
    assert soft["labels"][24:] == [-100] * 16
    row = "kd_unlabelled"
    longer = stages.student(data, profile, row, teacher_folder=teacher, unlabelled=8, steps=7)
    assert stages.training_log(longer)["step"].max() == 7
    assert len(steps[row][1]) == 32
    with pytest.raises(ValueError) as error:
        stages.student(data, profile, "kd_magic", teacher_folder=teacher)
    assert str(error.value) == (
        "Unknown row 'kd_magic': choose one of none, kd, kd_unlabelled, hard, kd_hidden."
    )


def test_a_student_starts_without_dropout(tmp_path):
    teacher = tiny_models.save(tiny_models.bert(layers=3), tmp_path / "teacher")
    profile = tiny_models.profile(tmp_path, student_layers=(0, 2), student_start="teacher")
    learner = stages.start(tiny_models.shop(), profile, teacher).train()
    ids = torch.arange(2, 8)[None]
    assert torch.equal(learner(input_ids=ids).logits, learner(input_ids=ids).logits)


def test_the_teacher_learns_with_dropout_and_is_saved_with_its_own(tmp_path):
    start = tiny_models.save(tiny_models.bert(layers=2, dropout=0.3), tmp_path / "start")
    plain = tiny_models.profile(tmp_path, teacher=str(start), teacher_dropout=0.0)
    data = tiny_models.shop()
    folders = [
        stages.teacher(data, replace(plain, **changes))
        for changes in ({}, {"student_dropout": 0.5}, {"teacher_dropout": 0.5})
    ]
    assert folders[0] == folders[1] != folders[2]
    digests = [models.weights_digest(models.load(folder)) for folder in folders]
    assert digests[0] != digests[2]
    assert models.load(folders[2]).config.hidden_dropout_prob == 0.3


def test_the_teachers_head_begins_as_the_profile_says(tmp_path, monkeypatch):
    start = tiny_models.save(tiny_models.bert(layers=2), tmp_path / "start")
    profile = tiny_models.profile(tmp_path, teacher=str(start), warm_up_pairs=12)
    data = tiny_models.shop()
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: np.arange(len(pairs)))
    begun, fit = [], stages.fine_tune

    def seen(model, *rest):
        begun.append(model.classifier.weight.detach().clone())
        fit(model, *rest)

    monkeypatch.setattr(stages, "fine_tune", seen)
    own = replace(profile, spread_head=True)
    folders = [stages.teacher(data, how) for how in (profile, own, own)]
    assert folders[0] != folders[1] == folders[2]
    drawn, spread = begun
    apart, alike = models.load(stages.warm_up(data, profile)).classifier.weight
    assert torch.equal(spread[3], apart) and torch.allclose(spread[0], alike)
    assert torch.allclose(spread[1], apart + 0.1 * (alike - apart))
    assert not torch.equal(drawn[3], apart)
    # From random weights there is nothing to keep.
    scratch = [stages.teacher(data, how, pretrained=False) for how in (profile, own)]
    assert scratch[0] == scratch[1]
    with pytest.raises(models.ModelError, match="no head of the classes apart and alike"):
        stages.teacher(data, replace(own, warm_up_pairs=0))


def test_the_warm_up_follows_the_bi_encoder_without_a_label(tmp_path, monkeypatch):
    start = tiny_models.save(tiny_models.bert(layers=2, seed=1), tmp_path / "start")
    changes = {"teacher": str(start), "warm_up_pairs": 800, "student_learning_rate": 3e-3}
    profile = tiny_models.profile(tmp_path, frozen_layers=0, **changes)
    data = tiny_models.shop(unlabelled=800)
    asked = pd.Series(data["unlabelled"]["product_title"]).str.contains("tea").to_numpy()
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, profile: asked * 1.0)
    folder = stages.warm_up(data, profile)
    pairs = distill.encode(data["unlabelled"], TOKENIZER, LENGTH)
    logits = distill.predict(models.load(folder, 2), pairs, TOKENIZER, profile)
    chances = judge.softmax(logits)[:, 1]
    assert chances[asked].mean() > chances[~asked].mean() + 0.1
    teacher = models.load(stages.teacher(data, profile), 4)
    kept = models.load(folder).bert.embeddings.word_embeddings.weight
    assert torch.equal(teacher.bert.embeddings.word_embeddings.weight, kept)
    names = [path.name.split("-")[0] for path in profile.artifacts.iterdir()]
    assert names.count("warmed") == 1
    data.pop("unlabelled")
    stages.teacher(data, profile)
    stages.teacher(data, replace(profile, warm_up_pairs=0))
    names = [path.name.split("-")[0] for path in profile.artifacts.iterdir()]
    assert (names.count("warmed"), names.count("teacher")) == (1, 2)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_too_few_pairs_for_a_warm_up(tmp_path, count):
    start = tiny_models.save(tiny_models.bert(layers=2, seed=1), tmp_path / "start")
    profile = tiny_models.profile(tmp_path / "artifacts", teacher=str(start), warm_up_pairs=64)
    data = tiny_models.shop()
    data["unlabelled"] = data["unlabelled"].select(range(count))
    said = (
        f"The warm-up is left out: it needs 10 unlabelled pairs, and {count} are there.",
        f"warm_up: {count} unlabelled pairs: give at least 10, or set warm_up_pairs=0.",
    )
    with pytest.warns(UserWarning) as caught:
        assert stages.origin(data, profile) == str(start)
    assert [str(warning.message) for warning in caught] == [said[0]]
    with pytest.raises(ValueError) as error:
        stages.warm_up(data, profile)
    assert str(error.value) == said[1]


@pytest.mark.filterwarnings("ignore:The warm-up is left out")
def test_a_student_of_one_unlabelled_pair(tmp_path):
    start = tiny_models.save(tiny_models.bert(layers=2, seed=1), tmp_path / "start")
    profile = tiny_models.profile(
        tmp_path / "artifacts", teacher=str(start), warm_up_pairs=64, student_layers=(1,)
    )
    data = tiny_models.shop(train=8)
    data["unlabelled"] = data["unlabelled"].select(range(1))
    student = stages.student(data, profile)
    assert models.load(student, 4).config.num_hidden_layers == 1
    assert [path.name.split("-")[0] for path in profile.artifacts.glob("w*")] == []


def test_a_warm_up_of_pairs_that_are_all_alike(tmp_path, monkeypatch):
    start = tiny_models.save(tiny_models.bert(layers=2, seed=1), tmp_path / "start")
    profile = tiny_models.profile(tmp_path / "artifacts", teacher=str(start), warm_up_pairs=16)
    monkeypatch.setattr(
        features, "bi_encoder_scores", lambda pairs, profile: np.full(len(pairs), 0.5)
    )
    with pytest.warns(UserWarning) as caught:
        folder = stages.warm_up(tiny_models.shop(), profile)
    assert str(caught[0].message) == (
        "All 16 pairs of the warm-up are equally alike, and it teaches nothing: give pairs of "
        "different texts, or set warm_up_pairs=0."
    )
    weights = models.load(folder, 2).state_dict().values()
    assert all(bool(weight.isfinite().all()) for weight in weights)


def test_unknown_start(profile, tmp_path):
    teacher = tiny_models.save(tiny_models.bert(), tmp_path / "teacher")
    with pytest.raises(ValueError) as error:
        profile = tiny_models.profile(tmp_path, student_start="zero")
        stages.start(tiny_models.shop(), profile, teacher)
    assert str(error.value) == ("student_start='zero': choose 'checkpoint', 'warmed' or 'teacher'.")


def test_a_student_starts_where_its_teacher_started(tmp_path, monkeypatch):
    start = tiny_models.save(tiny_models.bert(layers=3, seed=1), tmp_path / "start")
    changes = {"teacher": str(start), "warm_up_pairs": 16, "student_start": "warmed"}
    profile = tiny_models.profile(tmp_path, student_layers=(0, 2), **changes)
    data = tiny_models.shop()
    monkeypatch.setattr(
        features, "bi_encoder_scores", lambda pairs, profile: np.arange(len(pairs)) * 1.0
    )
    teacher = stages.teacher(data, profile)
    warmed = models.load(stages.warm_up(data, profile), 2).state_dict()
    learner = stages.start(data, profile, teacher).state_dict()
    query = "bert.encoder.layer.{}.attention.self.query.weight"
    assert torch.equal(learner[query.format(1)], warmed[query.format(2)])
    assert learner["classifier.weight"].shape == (4, 32)
    other = tiny_models.save(tiny_models.bert(layers=3, seed=2), tmp_path / "other")
    again = stages.start(data, profile, other).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in learner.items())
    plain = stages.start(data, replace(profile, warm_up_pairs=0), teacher).state_dict()
    assert torch.equal(plain[query.format(1)], models.load(start, 4).state_dict()[query.format(2)])
    others = data["unlabelled"].select(range(8))
    folders = {
        stages.student(data, profile, teacher_folder=teacher, unlabelled=pairs)
        for pairs in (8, others)
    }
    assert len(folders) == 1
    assert [path.name.split("-")[0] for path in profile.artifacts.iterdir()].count("warmed") == 1


def test_a_checkpoint_whose_state_was_cut_short_is_dropped(tmp_path):
    """A full disk may leave an empty file, or a part of one."""
    for number, state in ((2, '{"epoch": 1.0}'), (4, '{"epoch": 1.0, "glob'), (6, "")):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-8").mkdir()
    _drop_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_a_training_of_any_length_has_a_step_with_a_rate(tmp_path, steps):
    args = as_trained(tiny_models.profile(tmp_path), tmp_path, steps, 1e-3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    warm = args.get_warmup_steps(steps)
    plan = get_scheduler(args.lr_scheduler_type, optimizer, warm, num_training_steps=steps)
    rates = []
    for _ in range(steps):
        rates += plan.get_last_lr()
        optimizer.step()
        plan.step()
    assert max(rates) == pytest.approx(1e-3)
