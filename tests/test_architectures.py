"""Encoders of three classes as teachers and students: BERT, MPNet, RoBERTa, each tiny and random.

MPNet and RoBERTa know no token types and count positions from behind the padding's id; MPNet's
layers share a table of relative positions, and its head, as RoBERTa's, has two steps.
"""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from torch import nn

from ecomkd import distill, export, features, models, packing
from ecomkd.relevance import adapt, stages
from ecomkd.score import Scorer

KINDS = ("bert", "mpnet", "roberta")
LENGTH = 32

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def teacher(kind):
    return tiny_models.encoder(kind).eval()


@pytest.fixture
def tokenizer(kind):
    return tiny_models.TOKENIZERS[kind]()


def batch(tokenizer, count: int = 6) -> dict:
    encoded = distill.encode(tiny_models.pairs(count), tokenizer, LENGTH)
    return distill.PairCollator(tokenizer)(list(encoded))


def run(model, inputs: dict):
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    return model(**inputs, output_hidden_states=True)


def layers_of(model):
    return model.get_submodule(models._layer_prefix(model).removesuffix("."))


def test_a_pair_is_cut_to_its_length_and_has_token_types_where_the_class_has(kind, tokenizer):
    inputs = batch(tokenizer)
    assert ("token_type_ids" in inputs) == (kind == "bert")
    assert inputs["input_ids"].shape[1] <= LENGTH
    assert (inputs["input_ids"] == tokenizer.pad_token_id).any()
    assert not (inputs["input_ids"] == tokenizer.unk_token_id).all(dim=1).any()
    cut = distill.encode(tiny_models.pairs(6), tokenizer, 10)
    assert max(cut["length"]) == 10


def test_a_student_computes_with_the_layers_that_it_was_given(teacher, tokenizer):
    inputs = batch(tokenizer)
    student = models.build_student(teacher, (0, 2)).eval()
    assert type(student) is type(teacher)
    place, _, name = models._layer_prefix(teacher).removesuffix(".").rpartition(".")
    chosen = nn.ModuleList([layers_of(teacher)[0], layers_of(teacher)[2]])
    setattr(teacher.get_submodule(place), name, chosen)
    wanted, found = run(teacher, inputs), run(student, inputs)
    assert torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.hidden_states[2], wanted.hidden_states[2])


def test_a_students_head_is_drawn_where_a_seed_is_given(teacher):
    student = models.build_student(teacher, (1,), seed=5)
    body = f"{teacher.base_model_prefix}."
    old, new = teacher.state_dict(), student.state_dict()
    kept = [key for key in new if key.startswith(body) and ".layer." not in key]
    drawn = [key for key in new if not key.startswith(body) and key.endswith("weight")]
    assert kept and all(torch.equal(old[key], new[key]) for key in kept)
    assert drawn and not any(torch.equal(old[key], new[key]) for key in drawn)


def test_frozen_layers_compute_what_they_did_whatever_is_trained(teacher, tokenizer):
    inputs = batch(tokenizer)
    models.freeze(teacher, 1)
    states = run(teacher, inputs).hidden_states
    assert [state.requires_grad for state in states] == [False, False, True, True]
    shared = tiny_models.encoder(teacher.config.model_type)
    models.freeze(shared, 0)
    fixed = {name for name, weight in shared.named_parameters() if not weight.requires_grad}
    assert fixed and all(".embeddings." in name for name in fixed)


def test_dropout_is_set_everywhere(teacher, tokenizer):
    inputs = batch(tokenizer)
    teacher.train()
    models.set_dropout(teacher, 0.0)
    assert torch.equal(run(teacher, inputs).logits, run(teacher, inputs).logits)
    models.set_dropout(teacher, 0.5)
    assert not torch.equal(run(teacher, inputs).logits, run(teacher, inputs).logits)


def test_a_narrow_student_reads_the_teachers_tokens(teacher, tokenizer):
    student = models.build_narrow_student(teacher, hidden=8, layers=2).eval()
    assert type(student) is type(teacher)
    assert run(student, batch(tokenizer)).hidden_states[-1].shape[-1] == 8
    words = student.get_input_embeddings().weight
    assert words.shape[0] == teacher.get_input_embeddings().weight.shape[0]
    assert torch.isfinite(run(student, batch(tokenizer)).logits).all()


def test_a_student_learns_what_its_teacher_says_and_how_it_says_it(
    kind, teacher, tokenizer, tmp_path
):
    profile = tiny_models.profile(tmp_path)
    encoded = distill.encode(tiny_models.pairs(40, labelled=False), tokenizer, LENGTH)
    taught = distill.teacher_outputs(encoded, teacher, tokenizer, profile, (3,))
    assert np.allclose(
        taught["teacher_logits"], distill.predict(teacher, encoded, tokenizer, profile), atol=1e-6
    )
    wanted = np.asarray(taught["teacher_logits"])
    student = models.build_student(teacher, (0, 2), seed=1)

    def closeness(logits: np.ndarray) -> dict[str, float]:
        return {"quality": -float(np.abs(logits - wanted).mean())}

    before = closeness(distill.predict(student, encoded, tokenizer, profile))["quality"]
    distill.fit(
        student,
        taught,
        encoded,
        tokenizer,
        profile,
        tmp_path / "student",
        steps=30,
        learning_rate=3e-3,
        quality=closeness,
        evaluations=2,
        hidden_map={2: 3},
        teacher_width=teacher.config.hidden_size,
    )
    saved = models.load(tmp_path / "student", 4)
    kept = models.load_tokenizer(str(tmp_path / "student"))
    found = distill.predict(saved, encoded, kept, profile)
    assert closeness(found)["quality"] > 0.8 * before  # both below 0, the best at 0
    assert set(saved.state_dict()) == set(models.build_student(teacher, (0, 2)).state_dict())


def test_an_export_gives_the_same_at_other_lengths_and_without_the_library(
    teacher, tokenizer, tmp_path
):
    path = export.to_onnx(teacher, tokenizer, tmp_path / "model.onnx")
    inputs = batch(tokenizer)
    wanted = run(teacher, inputs).logits.detach().numpy()
    tokens = {name: value for name, value in inputs.items() if name != "labels"}
    assert np.allclose(export.OnnxClassifier(path)(**tokens), wanted, atol=1e-4)
    pairs = tiny_models.pairs(6)
    chances = torch.tensor(wanted).softmax(-1).numpy()
    for file, tolerance in ((path, 1e-4), (export.quantize(path), 0.1)):
        scorer = Scorer(file, LENGTH)
        texts = zip(pairs["query"], pairs["product_title"], strict=True)
        found = np.array([scorer.probabilities(query, text) for query, text in texts])
        assert np.abs(found - chances).max() < tolerance


def test_every_projection_of_attention_is_corrected(teacher, tokenizer):
    pytest.importorskip("peft")
    inputs = batch(tokenizer)
    wanted = run(teacher, inputs).logits
    model = models.build_low_rank(teacher, rank=4)
    assert torch.equal(run(model, inputs).logits, wanted)
    corrected = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(corrected) == 3 * 4  # query, key, value and what comes after, of three layers
    free = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("classifier" in name for name in free)
    assert type(model.merge_and_unload()).__name__.endswith("ForSequenceClassification")


def test_an_encoder_that_learnt_to_name_hidden_tokens_is_a_teachers(kind, teacher, tmp_path):
    folder = tiny_models.save(teacher, tmp_path / kind)
    masked = adapt.build_masked(str(folder))
    encoder = models.build_teacher(str(folder), ["a", "b"]).base_model
    lacking, unknown = encoder.load_state_dict(masked.base_model.state_dict(), strict=False)
    assert not unknown
    assert all("pooler" in name for name in lacking)


def test_a_packed_student_is_made_whole_again(kind, teacher, tmp_path, monkeypatch):
    source = tiny_models.save(teacher, tmp_path / "source")
    monkeypatch.setattr(models, "checkpoint", lambda name: str(source))
    monkeypatch.setattr(packing, "SMALL", 100)
    student = models.build_student(teacher, (0, 2))
    with torch.no_grad():
        layers_of(student)[1].output.dense.weight += 0.01
    folder = tiny_models.save(student, tmp_path / "student")
    packing.pack(folder, tmp_path / "packed", {}, (kind,))
    packing.unpack(tmp_path / "packed", tmp_path / "again")
    old, new = (models.load(place).state_dict() for place in (folder, tmp_path / "again"))
    assert all(torch.allclose(old[name], new[name], atol=1e-3) for name in old)
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(changed) <= 1


def test_layers_of_any_encoder_are_features(kind, teacher, tmp_path):
    folder = tiny_models.save(teacher, tmp_path / kind)
    profile = tiny_models.profile(tmp_path)
    texts = ["red shoe", "blue mug . large"]
    found = features.layers(texts, profile, str(folder))
    assert found.shape == (4, 2, 32)
    tokens = models.load_tokenizer(str(folder))(texts[:1], return_tensors="pt")
    states = run(teacher, dict(tokens)).hidden_states
    assert np.allclose(found[2, 0], states[2].detach().mean(dim=1)[0].numpy(), atol=1e-5)


# A student of another class than its teacher ------------------------------------------------------


def other(kind: str) -> str:
    return KINDS[(KINDS.index(kind) + 1) % 3]


@pytest.fixture
def apart(kind, tmp_path):
    """A profile whose students start from one class, and the folder of a teacher of another."""
    begin = tiny_models.save(tiny_models.encoder(other(kind), seed=1), tmp_path / "begin")
    folder = tiny_models.save(tiny_models.encoder(kind, seed=2), tmp_path / "teacher")
    profile = tiny_models.profile(
        tmp_path / "artifacts",
        teacher=str(begin),
        student_start="checkpoint",
        student_layers=(0, 2),
        frozen_layers=None,
        max_length=LENGTH,
    )
    return profile, folder


def test_a_student_reads_its_own_tokens_whatever_its_teacher_reads(kind, apart):
    profile, folder = apart
    made = stages.student(tiny_models.shop(), profile, teacher_folder=folder)
    model = models.load(made, 4)
    assert model.config.model_type == other(kind)
    assert model.config.num_hidden_layers == 2
    own = tiny_models.TOKENIZERS[other(kind)]()
    assert models.load_tokenizer(str(made)).get_vocab() == own.get_vocab()


@pytest.fixture
def fitted(monkeypatch) -> list[tuple]:
    """What would have been trained on, each time: the pairs, and the options."""
    calls = []

    def fit(model, pairs, *rest, **options):
        calls.append((pairs, options))

    monkeypatch.setattr(distill, "fit", fit)
    return calls


def test_a_student_of_another_class_learns_from_the_teachers_logits(apart, fitted):
    profile, folder = apart
    data = tiny_models.shop()
    for row in ("kd_unlabelled", "hard", "none"):
        stages.student(data, profile, row, teacher_folder=folder)
    taught = stages.teacher_pairs(data, profile, folder, "unlabelled")
    begin = models.load_tokenizer(profile.teacher)
    labelled, extra = (
        distill.encode(data[split], begin, LENGTH) for split in ("train", "unlabelled")
    )
    (soft, _), (hard, _), (none, options) = fitted
    assert soft["input_ids"][:] == labelled["input_ids"][:] + extra["input_ids"][:]
    assert soft["teacher_logits"][24:] == taught["teacher_logits"][:]
    assert hard["input_ids"][:] == soft["input_ids"][:]
    assert hard["labels"][24:] == np.argmax(taught["teacher_logits"], axis=1).tolist()
    assert none["input_ids"][:] == labelled["input_ids"][:]
    assert options["alpha"] == 0


def test_states_of_other_tokens_are_not_compared(apart):
    profile, folder = apart
    with pytest.raises(ValueError, match="reads the pairs in other tokens than its teacher"):
        stages.student(tiny_models.shop(), profile, "kd_hidden", teacher_folder=folder)


def test_all_seeds_of_a_student_share_what_its_teacher_says(apart, fitted):
    profile, folder = apart
    reads = replace(profile, max_length=12, seed=0)
    names = set()
    for seed in (1, 2):
        own = replace(profile, seed=seed)
        made = stages.student(
            tiny_models.shop(), own, "kd", teacher_folder=folder, teacher_profile=reads
        )
        names.add(made.name)
        alone = stages.student(tiny_models.shop(), own, "kd", teacher_folder=folder)
        assert alone.name not in names
    assert len(names) == 2
    kept = list(profile.artifacts.glob("teacher_outputs-*"))
    assert len(kept) == 3  # one for both seeds, and each seed's where the profile is its own
    assert max(fitted[0][0]["length"]) > 12  # the student's own length


# Teacher's columns on other tokens ----------------------------------------------------------------


@pytest.fixture
def both(kind, teacher, tokenizer, tmp_path):
    pairs = tiny_models.pairs(12)
    profile = tiny_models.profile(tmp_path)
    taught = distill.teacher_outputs(
        distill.encode(pairs, tokenizer, LENGTH), teacher, tokenizer, profile
    )
    own = tiny_models.TOKENIZERS[other(kind)]()
    return distill.encode(pairs, own, LENGTH), taught


def test_logits_follow_their_pairs_in_any_order(both):
    encoded, taught = both
    joined = distill.with_teacher(encoded, taught)
    assert joined["input_ids"][:] == encoded["input_ids"][:]
    assert joined["teacher_logits"][:] == taught["teacher_logits"][:]
    turned = distill.with_teacher(encoded.select([7, 3, 3]), taught.select(range(11, -1, -1)))
    assert turned["teacher_logits"][:] == [taught["teacher_logits"][row] for row in (7, 3, 3)]
    assert turned["product_id"][:] == ["p7", "p3", "p3"]


def test_a_pair_that_the_teacher_has_not_seen(both):
    encoded, taught = both
    with pytest.raises(ValueError) as error:
        distill.with_teacher(encoded, taught.select([0, 1, 2]))
    assert str(error.value) == (
        "with_teacher: the teacher has not seen 9 of 12 pairs, such as query_id='q0', "
        "product_id='p3': run it on them."
    )


def test_a_pair_of_which_the_teacher_says_two_things(both):
    encoded, taught = both
    rows = taught.to_dict()
    rows["query_id"][1], rows["product_id"][1] = rows["query_id"][0], rows["product_id"][0]
    with pytest.raises(ValueError, match="says two things of query_id='q0', product_id='p0'"):
        distill.with_teacher(encoded.select([0]), type(taught).from_dict(rows))


def test_a_spread_head_keeps_the_order_of_the_warm_up(kind, tokenizer, tmp_path):
    two = tiny_models.encoder(kind, classes=2)
    two.config.id2label = dict(enumerate(models.WARMED))
    start = str(tiny_models.save(two, tmp_path / "warmed"))
    gains = torch.tensor((1.0, 0.1, 0.01, 0.0))
    spread = models.build_teacher(start, "ESCI", seed=1, gains=gains.tolist()).eval()
    drawn = models.build_teacher(start, "ESCI", seed=1).eval()
    inputs = batch(tokenizer, 12)
    apart, alike = run(two.eval(), inputs).logits.T
    logits, others = (run(model, inputs).logits for model in (spread, drawn))
    wanted = torch.outer(alike - apart, gains).softmax(dim=1)
    assert torch.allclose(logits.softmax(dim=1), wanted, atol=1e-5)
    order = (alike - apart).argsort()
    assert torch.equal((logits.softmax(dim=1) @ gains).argsort(), order)
    assert not torch.equal((others.softmax(dim=1) @ gains).argsort(), order)
    body = f"{two.base_model_prefix}."
    weights = spread.state_dict()
    same = [key for key, value in drawn.state_dict().items() if torch.equal(value, weights[key])]
    assert {key for key in weights if key.startswith(body)} <= set(same) < set(weights)


def test_a_head_of_other_classes_is_not_spread(kind, tmp_path):
    start = tiny_models.save(tiny_models.encoder(kind, classes=2), tmp_path / "other")
    with pytest.raises(models.ModelError) as error:
        models.build_teacher(str(start), "ESCI", gains=(1.0, 0.1, 0.01, 0.0))
    assert str(error.value) == (
        f"{start}: no head of the classes apart and alike can be spread: start from a warm-up, "
        "which needs 10 unlabelled pairs and warm_up_pairs above 0."
    )
