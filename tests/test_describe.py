"""Descriptions: what a checker sees, what the guard lets through, and how the models learn."""

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import processors

import demo_store
from ecomkd import artifacts, describe, models, runtime
from ecomkd.config import Profile
from ecomkd.data import shop as simulated
from ecomkd.describe import Fact, Product, Vocabulary, facts, generation, writers
from ecomkd.trainer import arguments

TEXTS = [
    "Product: desk lamp\nColour: Navy\nDescription: A navy desk lamp for late readers.",
    "Product: tea pot\nMaterial: Steel\nDescription: A steel tea pot. It holds one litre.",
    "Product: bath mat\nColour: Sand\nDescription: A soft mat of cotton, made for bathrooms.",
]
WORDS = Vocabulary(
    {
        ("colour", "blue"): ["Blue", "Navy", "Sky Blue"],
        ("colour", "red"): ["Red", "Scarlet"],
        ("material", "steel"): ["Stainless Steel", "steel"],
        ("capacity", "2 L"): ["2 L", "2 litre"],
        ("warmth", "soft"): ["soft"],
        ("promise", "guarantee"): ["guarantee"],
    }
)
POT = Product(
    "p1",
    "tea pot",
    (Fact("colour", "blue", "Navy"), Fact("capacity", "2 L", "2L")),
    ("Kind: red label",),
)


def profile(tmp_path, **changes) -> Profile:
    return Profile.named(
        "smoke", artifacts=tmp_path, device="cpu", precision="fp32", batch_size=4, **changes
    )


@pytest.fixture(scope="module")
def tiny():
    return generation.tiny(TEXTS * 3, tokens=400)


# What a text says ---------------------------------------------------------------------------------


def test_words_of_one_form_meet():
    assert facts.words("Four Mugs, 12cm; GRAY glass") == ["4", "mug", "12", "cm", "grey", "glass"]


def test_a_fact_is_named_by_any_word_for_its_value():
    for text in ("In sky blue, 2 litres.", "A 2L pot in navy."):
        assert not WORDS.check(text, POT).missing
    assert [f.attribute for f in WORDS.check("A navy pot.", POT).missing] == ["capacity"]


@pytest.mark.parametrize(
    ("text", "denied", "invented"),
    [
        ("A scarlet pot.", ("scarlet",), ()),
        ("A steel pot.", (), ("steel",)),
        ("Stainless steel.", (), ("stainless steel",)),
        ("It holds 3 litres.", ("3",), ()),
        ("A two year guarantee.", (), ("guarantee",)),
        ("A soft pot.", (), ()),  # everybody says so of everything
        ("It has a red label.", (), ()),  # the record has these words
    ],
)
def test_what_the_record_denies_and_what_it_does_not_have(text, denied, invented):
    found = WORDS.check(text, POT)
    assert (found.contradicted, found.invented) == (denied, invented)


def test_a_number_is_invented_where_the_record_has_none():
    bare = Product("p2", "mat", (Fact("colour", "red", "Red"),))
    assert WORDS.check("A set of four.", bare).invented == ("4",)


def test_the_plain_text_names_all_and_invents_nothing():
    found = WORDS.check(facts.plain(POT), POT)
    assert not found.missing and not found.wrong


SENTENCES = st.sampled_from(
    ["A navy pot.", "It is red.", "Made of steel.", "It holds 2 L!", "For tea.", "cut sho", "Sky."]
)


@given(st.lists(SENTENCES, max_size=6))
def test_what_the_guard_lets_through_is_right_and_whole(said):
    mended = facts.mend(" ".join(said), POT, WORDS)
    right = [one for one in said if one in ("A navy pot.", "It holds 2 L!", "For tea.", "Sky.")]
    cut = "cut sho" in said[:-1]  # runs into the sentence that follows it
    if mended is None:
        assert cut or not right
    else:
        found = WORDS.check(mended, POT)
        assert not found.missing and not found.wrong and (cut or "cut sho" not in mended)


# What it is like ----------------------------------------------------------------------------------


def test_repetition_is_the_share_of_runs_seen_before():
    assert facts.repetition("a b c a b c") == pytest.approx(1 / 4)
    assert facts.repetition("a b") == 0


def test_reading_ease_of_a_sentence_counted_by_hand():
    # 6 words, 1 sentence, 6 syllables.
    assert facts.reading_ease("The cat sat on the mat.") == pytest.approx(206.835 - 6.09 - 84.6)
    # A quotation mark is no word; an apostrophe within one does not part it.
    quoted, plain = "The 'cat ' can't sit.", "The cat can't sit."
    assert facts.reading_ease(quoted) == facts.reading_ease(plain)
    assert facts.reading_ease("'") == 0.0


def test_nothing_is_near_training_texts_of_two_words():
    assert facts.distance(["a navy pot for tea", "x"], ["a pot", ""]).tolist() == [1, 1]
    assert len(facts.distance([], ["a navy pot"])) == 0


def test_words_are_cut_from_the_text_itself():
    """Where lower case has more letters than the text, places must not move."""
    blue = Vocabulary({("colour", "blue"): ["navy"]})
    assert blue.find("Stra\u00dfe, Ma\u00dfe: Navy") == [("navy", "navy")]


def test_an_empty_vocabulary_knows_numbers_alone():
    assert Vocabulary({}).find("a navy pot of 2 litres") == [("2", "2")]


def test_distance_is_zero_for_a_copy_and_one_without_a_common_run():
    training = ["a navy pot for tea", "one two seven"]
    near = facts.distance(["a navy pot for tea", "x y z", "a navy pot of tin"], training)
    # One run of three in common, of 3 + 3 - 1.
    assert near == pytest.approx([0, 1, 1 - 1 / 5])


def test_measure_counts_by_product():
    table = facts.measure(["A navy 2L pot.", "A steel pot."], [POT, POT], WORDS, ["x y z"])
    assert table["named"].tolist() == [2, 0] and table["facts"].tolist() == [2, 2]
    assert table["invented"].tolist() == [0, 1] and table["clean"].tolist() == [1, 0]


# The shops ----------------------------------------------------------------------------------------


def test_the_simulated_writer_names_every_fact_and_invents_none():
    catalogue = simulated.generate(901, 300, 20, 6, 60).products
    products = describe.shop_products(catalogue)
    own = describe.shop_vocabulary()
    checks = [own.check(p.written, p) for p in products if p.written]
    assert 0.7 < len(checks) / len(products) < 0.9  # as many as the shop has descriptions
    assert not any(check.missing or check.wrong for check in checks)
    promised = describe.shop_products(catalogue, promises=True)
    wrong = [bool(own.check(p.written, p).wrong) for p in promised if p.written]
    assert 0.2 < np.mean(wrong) < 0.6


def test_a_real_record_holds_what_its_text_says_unless_it_is_withheld():
    row = {
        "id": "a", "name": "Red Mug Set", "category": "housewares", "style": "kitchen",
        "gender_affinity": None, "description": "Four red mugs of real porcelain.",
    }  # fmt: skip
    whole, bare = (
        demo_store.products(pd.DataFrame([row]), withheld=withheld)[0] for withheld in (False, True)
    )
    assert "Colour: red" in whole.record and "Number: four" in whole.record
    own = demo_store.vocabulary()
    assert not own.check(row["description"], whole).wrong
    assert set(own.check(row["description"], bare).invented) == {"4", "porcelain"}


def test_the_store_says_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("ECOMKD_REAL_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="demo_store: not found; set ECOMKD_REAL_DATA"):
        demo_store.task(profile(tmp_path))


# The generator ------------------------------------------------------------------------------------


def test_a_trimmed_generator_reads_its_texts_as_before(tiny):
    model, tokenizer = tiny
    smaller, cut = generation.trim(model, tokenizer, TEXTS[:1])
    assert len(cut) < len(tokenizer)
    before, after = tokenizer(TEXTS[0])["input_ids"], cut(TEXTS[0])["input_ids"]
    assert tokenizer.convert_ids_to_tokens(before) == cut.convert_ids_to_tokens(after)
    other = "Ünusual wörds, no loss: 東京"
    assert cut.decode(cut(other)["input_ids"]) == other
    names = cut.convert_ids_to_tokens(range(len(cut)))
    old = tokenizer.convert_tokens_to_ids(names)
    with torch.no_grad():
        want = model(torch.tensor([before])).logits[..., old]
        got = smaller(torch.tensor([after])).logits
    torch.testing.assert_close(got, want)


def test_tokens_that_were_added_to_a_generator_stay_when_it_is_trimmed(tiny):
    model, tokenizer = (copy.deepcopy(one) for one in tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<shop>", "<end>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    smaller, cut = generation.trim(model, tokenizer, [f"<shop>{TEXTS[0]}"])
    text = f"<end>{TEXTS[0]}<shop>"
    before, after = tokenizer(text)["input_ids"], cut(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(before) == cut.convert_ids_to_tokens(after)
    assert len(cut) == smaller.config.vocab_size
    old = tokenizer.convert_tokens_to_ids(cut.convert_ids_to_tokens(range(len(cut))))
    with torch.no_grad():
        want = model(torch.tensor([before])).logits[..., old]
        got = smaller(torch.tensor([after])).logits
    torch.testing.assert_close(got, want)


def test_a_student_has_the_layers_that_were_named(tiny):
    model, _ = tiny
    student = models.build_student(model, (0, 4))
    assert student.config.num_hidden_layers == 2
    assert generation.parameters(student) < generation.parameters(model)
    for mine, its in ((0, 0), (1, 4)):
        torch.testing.assert_close(
            student.model.layers[mine].state_dict(), model.model.layers[its].state_dict()
        )
    with pytest.raises(ValueError, match="0 to 5"):
        models.build_student(model, (0, 6))


def test_a_low_rank_correction_changes_nothing_before_the_first_step(tiny):
    model, tokenizer = tiny
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        before = model(ids).logits
        corrected = models.build_low_rank(copy.deepcopy(model), 2)
        torch.testing.assert_close(corrected(ids).logits, before)
    trained = {name for name, w in corrected.named_parameters() if w.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def rows_of(tokenizer):
    prompts, texts = zip(*(text.split(" A ", 1) for text in TEXTS), strict=True)
    return generation.encode(tokenizer, prompts, [f"A {text}" for text in texts])


def batch_of(rows, tokenizer):
    return generation.Collator(tokenizer.pad_token_id)(list(rows))


def test_the_loss_counts_the_tokens_of_the_description_alone():
    logits = torch.arange(8.0).reshape(1, 4, 2)
    labels = torch.tensor([[-100, -100, 1, 0]])
    kept, wanted = generation.described(logits, labels)
    assert kept.tolist() == [[2, 3], [4, 5]] and wanted.tolist() == [1, 0]


def trainer(model, tokenizer, tmp_path, **options):
    options_of = arguments(profile(tmp_path), tmp_path, 1, 1e-3)
    return generation.WordLevelTrainer(model, args=options_of, train_dataset=None,
                                       eval_dataset=[], **options)  # fmt: skip


def test_without_a_teacher_the_loss_is_the_models_own(tiny, tmp_path):
    model, tokenizer = tiny
    batch = batch_of(rows_of(tokenizer), tokenizer)
    found = trainer(model, tokenizer, tmp_path).compute_loss(model, batch)
    torch.testing.assert_close(found, model(**batch).loss)


def test_padding_changes_nothing(tiny, tmp_path):
    model, tokenizer = tiny
    rows = rows_of(tokenizer)
    own = trainer(model, tokenizer, tmp_path)
    tokens = [sum(label != -100 for label in row["labels"]) for row in rows]
    apart = [own.compute_loss(model, batch_of([row], tokenizer)) for row in rows]
    together = own.compute_loss(model, batch_of(rows, tokenizer))
    mean = sum(n * loss for n, loss in zip(tokens, apart, strict=True)) / sum(tokens)
    torch.testing.assert_close(together, mean)


def test_a_teacher_that_agrees_adds_nothing_and_another_adds(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(generation, "KEPT", len(tokenizer))
    rows = rows_of(tokenizer)
    other, _ = generation.tiny(TEXTS * 3, tokens=400, seed=1)
    plain, soft = (trainer(model, tokenizer, tmp_path, alpha=a) for a in (0.0, 2.0))
    same = batch_of(generation.teacher_tokens(rows, model, tokenizer, profile(tmp_path)), tokenizer)
    model.train()  # evaluation leaves the teacher out
    try:
        hard = plain.compute_loss(model, same)
        torch.testing.assert_close(soft.compute_loss(model, same), hard)
        another = generation.teacher_tokens(rows, other, tokenizer, profile(tmp_path))
        assert soft.compute_loss(model, batch_of(another, tokenizer)) > hard
        with pytest.raises(ValueError, match="teacher_tokens"):
            soft.compute_loss(model, batch_of(rows, tokenizer))
    finally:
        model.eval()


def test_teacher_tokens_are_the_most_probable_ones(tiny, tmp_path):
    model, tokenizer = tiny
    row = rows_of(tokenizer).select([1])
    found = generation.teacher_tokens(row, model, tokenizer, profile(tmp_path))[0]
    ids = torch.tensor([row[0]["input_ids"]])
    with torch.no_grad():
        logits, labels = generation.described(model(ids).logits, torch.tensor([row[0]["labels"]]))
    best = logits.log_softmax(-1).topk(generation.KEPT)
    assert found["top_tokens"] == best.indices.tolist() and len(labels) == len(best.indices)
    assert np.allclose(found["top_logits"], best.values, atol=1e-5)


def test_a_text_does_not_depend_on_what_is_written_beside_it(tiny, tmp_path):
    model, tokenizer = tiny
    prompts = ["Product: lamp", "Product: a tea pot of steel\nColour: Sand", "Mat"]
    settings = {"max_new_tokens": 6}
    together, count = generation.generate(model, tokenizer, prompts, profile(tmp_path), **settings)
    apart = [
        generation.generate(model, tokenizer, [prompt], profile(tmp_path), **settings)
        for prompt in prompts
    ]
    assert together == [text for (text,), _ in apart]
    assert count == sum(n for _, n in apart) <= 18
    drawn = [
        generation.generate(model, tokenizer, prompts, profile(tmp_path), sampled=3, **settings)
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1] != (together, count)


def test_a_missing_or_changed_package_is_named(monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(runtime.ModelError, match="--no-deps"):
        patch.setattr(generation.importlib.util, "find_spec", lambda name: None)
        generation.load()
    with pytest.raises(runtime.ModelError, match=r"'minilm' is an encoder.*use 'smollm2'"):
        generation.load("minilm")
    with pytest.raises(runtime.ModelError, match=r"generator .*nowhere.*use 'smollm2'"):
        generation.load(str(tmp_path / "nowhere"))
    # What pip leaves behind, or a folder of that name, is a package without a file.
    with monkeypatch.context() as patch, pytest.raises(runtime.ModelError, match="--no-deps"):
        bare = type("Spec", (), {"origin": None})
        patch.setattr(generation.importlib.util, "find_spec", lambda name: bare)
        generation.load()
    with monkeypatch.context() as patch, pytest.raises(ModuleNotFoundError, match="describe"):
        patch.setitem(sys.modules, "gguf", None)
        generation.load()
    (tmp_path / generation._FILE).write_bytes(b"nothing")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(generation.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(runtime.ModelError, match="SHA-256"):
        generation.load()


# The whole of it ----------------------------------------------------------------------------------


def test_teacher_and_students_are_made_once(tmp_path):
    task = describe.shop_task(profile(tmp_path), described=8, undescribed=4, validation=4, test=4)
    ids = [p.product_id for part in (task.train, task.undescribed, task.validation, task.test)
           for p in part]  # fmt: skip
    assert len(set(ids)) == len(ids) and not any(p.written for p in task.undescribed)
    tutor = describe.teacher(task)
    assert describe.teacher(task) == tutor
    students = {
        describe.student(task),
        describe.student(task, soft=True),
        describe.student(task, "teacher", more=True),
    }
    assert len(students) == 3
    sizes = [generation.parameters(generation.load(str(f))[0]) for f in (tutor, *students)]
    assert len(set(sizes[1:])) == 1 and sizes[1] < sizes[0]
    assert generation.load(str(tutor))[0].config.use_cache
    steps = {json.loads((f / "training.json").read_text())[-1]["step"] for f in students}
    assert len(steps) == 1  # more products are no more steps
    texts = describe.generate_descriptions(tutor, task.test, task)
    assert len(texts) == len(describe.prompted(task, 1)) == 4
    with pytest.raises(ValueError, match="more with teacher alone"):
        describe.student(task, more=True)


def test_a_teacher_is_the_generator_with_the_correction_that_was_learnt(tmp_path, monkeypatch):
    # The first of several steps has a rate of zero.
    sizes = {"described": 8, "undescribed": 4, "validation": 4, "test": 4, "teacher_epochs": 3}
    task = describe.shop_task(profile(tmp_path), **sizes)
    learnt, tutor = describe.adapter(task), describe.teacher(task)
    whole, start = (
        load_file(folder / "model.safetensors") for folder in (tutor, describe.base_generator(task))
    )
    thin = load_file(learnt / "adapter.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (thin[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
    assert len(a) == b.shape[1] == task.scale.rank and b.abs().max() > 0
    change = whole[f"{name}.weight"] - start[f"{name}.weight"]
    torch.testing.assert_close(change, 2 * b @ a, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(whole["model.norm.weight"], start["model.norm.weight"])
    assert json.loads((learnt / "training.json").read_text())
    assert sorted(path.name for path in learnt.iterdir()) == [
        "adapter.safetensors", "manifest.json", "training.json",
    ]  # fmt: skip
    # Whoever has the correction trains nothing.
    shutil.rmtree(tutor)
    monkeypatch.setattr(generation, "fit", None)
    assert describe.teacher(task) == tutor
    again = load_file(tutor / "model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_what_chapter_12_asks_for_is_recorded(monkeypatch):
    recorded = {path.name for path in Path(artifacts.RECORDED).iterdir()}
    asked = []

    def named(name, parts, make, root, recipe):
        asked.append(f"{name}-{artifacts.digest(name, recipe, *parts)}")
        raise LookupError

    monkeypatch.setattr(writers, "base_generator", lambda of: None)
    monkeypatch.setattr(writers, "stage", named)
    task = describe.shop_task(Profile.named("book"), **describe.PAGE)
    for ask in (describe.adapter, describe.prompted):
        with pytest.raises(LookupError):
            ask(task)
    assert len(set(asked) & recorded) == 2, asked


@pytest.fixture
def own_generator(tmp_path):
    """A folder, and a function that saves a tiny generator, drawn from a seed, into it."""
    folder = tmp_path / "generator"

    def save(seed: int) -> None:
        for part in generation.tiny(TEXTS * 3, tokens=400, seed=seed):
            part.save_pretrained(folder)

    save(0)
    return folder, save


def test_another_generator_in_the_same_folder_is_seen(own_generator, tmp_path):
    folder, save = own_generator
    task = describe.shop_task(profile(tmp_path), base=str(folder))
    first, texts = describe.base_generator(task), describe.prompted(task)
    assert describe.base_generator(task) == first and describe.prompted(task) == texts
    save(1)
    assert describe.base_generator(task) != first
    assert describe.prompted(task) != texts


def test_texts_are_those_of_the_weights_in_a_folder_now(own_generator, tmp_path):
    folder, save = own_generator
    task = describe.shop_task(profile(tmp_path))
    first = describe.generate_descriptions(folder, task.test, task, sampled=3)
    assert describe.generate_descriptions(folder, task.test, task, sampled=3) == first
    save(1)
    assert describe.generate_descriptions(folder, task.test, task, sampled=3) != first


def test_a_student_of_written_texts_is_keyed_by_how_long_they_may_be(tmp_path, monkeypatch):
    for made in ("base", "tutor"):
        (tmp_path / made).mkdir()
    monkeypatch.setattr(writers, "base_generator", lambda of: tmp_path / "base")
    monkeypatch.setattr(writers, "teacher", lambda of: tmp_path / "tutor")
    keyed: list = []
    monkeypatch.setattr(writers, "stage", lambda name, parts, *rest, **options: keyed.append(parts))
    task = describe.shop_task(profile(tmp_path))
    longer = replace(task, scale=replace(task.scale, max_new_tokens=20))
    for of in (task, longer):
        describe.student(of, "teacher")
        describe.student(of)
    assert keyed[0] != keyed[2]
    assert keyed[1] == keyed[3]


def test_too_few_products_are_named():
    with pytest.raises(ValueError, match="set smaller parts"):
        describe.task([POT], WORDS, Profile.named("smoke"))


def test_an_empty_text_names_no_fact():
    product = facts.Product("1", "lamp", (facts.Fact("brand", "光", "光"),))
    assert facts.Vocabulary({}).check("", product).missing == product.facts


def test_a_token_that_begins_each_text_is_renumbered_and_stands_there_once():
    words = " ".join(a + b + c for a in "abcdefgh" for b in "ijklm" for c in "nopqr")
    model, tokenizer = generation.tiny([words] * 3, tokens=600)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    start = [("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    step = processors.TemplateProcessing(single="<s> $A", special_tokens=start)
    tokenizer.backend_tokenizer.post_processor = step
    state = torch.random.get_rng_state()
    smaller, cut = generation.trim(model, tokenizer, ["ain"])
    assert torch.equal(state, torch.random.get_rng_state())
    ids = cut("ain")["input_ids"]
    assert len(cut) < len(tokenizer) and ids[0] == cut.convert_tokens_to_ids("<s>") < len(cut)
    smaller(torch.tensor([ids]))
    row = generation.encode(cut, ["ain"], ["bin"])[0]["input_ids"]
    assert row.count(ids[0]) == 1


def test_nothing_to_read_or_to_write_is_no_fault(tiny, tmp_path):
    assert generation.generate(*tiny, [], profile(tmp_path)) == ([], 0)
    _, cut = generation.trim(*tiny, [])
    assert 0 < len(cut) < len(tiny[1])
    with pytest.raises(ValueError, match="there is no text to measure; give one or more"):
        facts.measure([], [], WORDS, ["a b c"])
