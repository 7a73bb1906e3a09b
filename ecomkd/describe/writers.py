"""Models that describe products: a pretrained generator, a teacher and students. Chapter 12."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset

from ecomkd.extras import needed

with needed("ecomkd.describe.writers", "describe"):
    from safetensors.torch import load_file
    from transformers import PreTrainedTokenizerFast

from ecomkd import models
from ecomkd.artifacts import digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data import shop as simulated
from ecomkd.describe import generation
from ecomkd.describe.facts import Product, Vocabulary
from ecomkd.describe.records import shop_products, shop_vocabulary
from ecomkd.keys import batches, identity, known_as, settings_of

INSTRUCTION = (
    "Write a product description of two short sentences for an online shop. Name every fact of "
    "this record and add no other fact.\n\n"
)
"""The text that comes before a record when a pretrained generator is told what to do."""


@dataclass(frozen=True)
class Scale:
    """The number of products that teach and test, and the settings of the models."""

    base: str = "smollm2"
    described: int = 400
    """The number of products whose written description is learnt."""
    undescribed: int = 400
    """The number of further products, for which only the teacher writes."""
    validation: int = 48
    test: int = 100
    rank: int = 16
    teacher_epochs: int = 2
    teacher_learning_rate: float = 1e-3
    every: int = 3
    """A student starts from every so-many-th layer of the pretrained generator."""
    student_epochs: int = 4
    """The number of passes over the described products. Further products add no steps."""
    student_learning_rate: float = 8e-4
    alpha: float = 1.0
    temperature: float = 1.0
    batch_size: int = 8
    max_new_tokens: int = 110


SCALES = {
    "smoke": Scale("tiny", 24, 16, 8, 8, 4, 1, every=2, student_epochs=1, max_new_tokens=16),
    "book": Scale(),
    "gpu": Scale(generation.HUB, 2000, 10_000, 100, 300, student_epochs=6, batch_size=32),
}

PAGE = {"undescribed": 0, "test": 16, "max_new_tokens": 64}
"""What `shop_task` changes for chapter 12, whose teacher is recorded: no products for which only
the teacher writes, and few short texts to wait for."""


@dataclass(frozen=True)
class Task:
    """The products of one shop, drawn by the profile's seed, and the settings of its models."""

    train: list[Product]
    undescribed: list[Product]
    validation: list[Product]
    test: list[Product]
    vocabulary: Vocabulary
    profile: Profile
    scale: Scale

    @property
    def training_texts(self) -> list[str]:
        """The written descriptions of the products of training."""
        return [product.written for product in self.train]


def task(
    products: Sequence[Product], vocabulary: Vocabulary, profile: Profile, **changes: int | str
) -> Task:
    """The task of a shop, whose products are drawn for training, validation and test.

    Products without a description come first where only the teacher writes. `changes` replace
    settings of `Scale`. Raises ValueError when too few products have a description.
    """
    scale = replace(SCALES[profile.name], **changes)
    order = np.random.default_rng(profile.seed).permutation(len(products))
    own = [products[i] for i in order]
    written = [product for product in own if product.written]
    parts, start = [], 0
    for size in (scale.test, scale.validation, scale.described):
        parts.append(written[start : start + size])
        start += size
    bare = [product for product in own if not product.written] + written[start:]
    more = [replace(product, written="") for product in bare[: scale.undescribed]]
    test, validation, train = parts
    if not train or len(train) < scale.described:
        raise ValueError(
            f"{len(written)} products have a description, {start} are wanted: set smaller parts."
        )
    profile = replace(profile, batch_size=scale.batch_size)
    return Task(train, more, validation, test, vocabulary, profile, scale)


def shop_task(profile: Profile, promises: bool = False, **changes: int | str) -> Task:
    """The task of the simulated shop of the profile's seed; for `promises` see `shop_products`."""
    made = simulated.generate(profile.seed, profile.products, 30, 6, 60)
    return task(shop_products(made.products, promises), shop_vocabulary(), profile, **changes)


# The models ---------------------------------------------------------------------------------------


def base_generator(of: Task) -> Path:
    """The folder of the pretrained generator, trimmed to the tokens that this shop needs."""
    texts = _texts(of)

    def make(folder: Path) -> None:
        if of.scale.base == "tiny":
            model, tokenizer = generation.tiny(texts)
        else:
            model, tokenizer = generation.trim(*generation.load(of.scale.base), texts)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    parts = [texts, known_as(of.scale.base)]
    return stage("generator", parts, make, of.profile.artifacts, recipe=1)


def adapter(of: Task) -> Path:
    """The folder of what the teacher learns from the written descriptions: a low-rank correction.

    It is small, and so it can be recorded: `adapter.safetensors`, and the log, `training.json`. Its
    key holds what the generator is made of and not the generator's files, which other versions of
    the libraries write otherwise.
    """
    start = base_generator(of)

    def make(folder: Path) -> None:
        model, tokenizer = generation.load(str(start))
        model = models.build_low_rank(model, of.scale.rank, of.profile.seed)
        train = _rows(of.train, of.training_texts, tokenizer)
        steps = of.scale.teacher_epochs * batches(len(train), of.profile)
        run = folder / "run"
        generation.fit(
            model,
            train,
            _validation(of, tokenizer),
            tokenizer,
            of.profile,
            run,
            steps=steps,
            learning_rate=of.scale.teacher_learning_rate,
        )
        (run / "adapter_model.safetensors").replace(folder / "adapter.safetensors")
        (run / "training.json").replace(folder / "training.json")
        shutil.rmtree(run)

    settings = [of.scale.rank, of.scale.teacher_epochs, of.scale.teacher_learning_rate]
    parts = [_texts(of), known_as(of.scale.base), _key(of), settings, settings_of(of.profile)]
    return stage("description_adapter", parts, make, of.profile.artifacts, recipe=1)


def teacher(of: Task) -> Path:
    """The folder of the pretrained generator, fine-tuned to the written descriptions.

    It is the generator with what `adapter` has learnt added to its weights.
    """
    start, learnt = base_generator(of), adapter(of)

    def make(folder: Path) -> None:
        from peft import set_peft_model_state_dict  # `build_low_rank` says where it is missing

        model, tokenizer = generation.load(str(start))
        model = models.build_low_rank(model, of.scale.rank, of.profile.seed)
        set_peft_model_state_dict(model, load_file(learnt / "adapter.safetensors"))
        model.merge_and_unload().save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    parts = [identity(start), identity(learnt), of.scale.rank]
    return stage("description_teacher", parts, make, of.profile.artifacts, recipe=1)


def student(of: Task, text: str = "reference", soft: bool = False, more: bool = False) -> Path:
    """The folder of a student that starts from every so-many-th layer of the pretrained generator.

    All students take the same number of steps.

    Args:
        text: what it learns to write, the `reference` text or the `teacher`'s (sequence-level
            distillation, Kim & Rush 2016, section 3.2).
        soft: whether it also learns the teacher's distribution of each token (word-level).
        more: whether it also learns from products for which only the teacher has written.

    Raises ValueError for another text, and for more products with the reference text.
    """
    if text not in ("reference", "teacher") or (more and text == "reference"):
        raise ValueError(
            f"text={text!r}, more={more}: take reference or teacher, and more with teacher alone."
        )
    start, tutor = base_generator(of), teacher(of) if soft or text == "teacher" else None

    def make(folder: Path) -> None:
        whole, tokenizer = generation.load(str(start))
        layers = range(0, whole.config.num_hidden_layers, of.scale.every)
        products = of.train + of.undescribed * more
        texts = of.training_texts
        if text == "teacher":
            texts = generate_descriptions(tutor, products, of)
        rows = _rows(products, texts, tokenizer)
        if soft:
            model, _ = generation.load(str(tutor))
            rows = generation.teacher_tokens(rows, model, tokenizer, of.profile)
        steps = of.scale.student_epochs * batches(len(of.train), of.profile)
        model = models.build_student(whole, layers)
        generation.fit(
            model,
            rows,
            _validation(of, tokenizer),
            tokenizer,
            of.profile,
            folder,
            steps=steps,
            learning_rate=of.scale.student_learning_rate,
            alpha=of.scale.alpha * soft,
            temperature=of.scale.temperature,
        )

    settings = [of.scale.every, of.scale.student_epochs, of.scale.student_learning_rate]
    settings += [of.scale.alpha, of.scale.temperature, text, soft, more, tutor and identity(tutor)]
    settings += [of.scale.max_new_tokens if text == "teacher" else None]
    parts = [identity(start), _key(of), settings, settings_of(of.profile)]
    return stage("description_student", parts, make, of.profile.artifacts, recipe=1)


def generate_descriptions(
    folder: Path, products: Sequence[Product], of: Task, sampled: int | None = None
) -> list[str]:
    """The texts that the model in `folder` writes for these products, in their order.

    They are made once and then found among the artefacts. `sampled` is the seed of drawn texts, as
    of `generation.generate`; without it the most probable token is taken at each step.
    """
    prompts = [product.prompt for product in products]

    def make(out: Path) -> None:
        model, tokenizer = generation.load(str(folder))
        settings = {"max_new_tokens": of.scale.max_new_tokens, "sampled": sampled}
        texts, _ = generation.generate(model, tokenizer, prompts, of.profile, **settings)
        write_text(out / "texts.json", json.dumps(texts))

    settings = [of.scale.max_new_tokens, sampled, settings_of(of.profile)]
    parts = [identity(folder), prompts, settings]
    out = stage("descriptions", parts, make, of.profile.artifacts, recipe=1)
    return json.loads((out / "texts.json").read_text("utf-8"))


def prompted(of: Task, examples: int = 0) -> list[str]:
    """The texts that the pretrained generator writes for the test products without training.

    It is told what to do (`INSTRUCTION`), or is shown `examples` products with their descriptions.
    """
    shown = "\n\n".join(f"{p.prompt} {p.written}" for p in of.train[:examples])
    prompts = [f"{shown}\n\n{p.prompt}" if examples else INSTRUCTION + p.record for p in of.test]

    # A tiny generator is made here, and has no other folder.
    start = base_generator(of) if of.scale.base == "tiny" else None

    def make(out: Path) -> None:
        model, tokenizer = generation.load(str(start or of.scale.base))
        asked = prompts
        if not examples and tokenizer.chat_template:
            asked = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": one}], add_generation_prompt=True, tokenize=False
                )
                for one in prompts
            ]
        length = of.scale.max_new_tokens
        texts, _ = generation.generate(model, tokenizer, asked, of.profile, max_new_tokens=length)
        # Shown examples, a model goes on with a product of its own.
        write_text(out / "texts.json", json.dumps([t.split("Product:")[0].strip() for t in texts]))

    settings = [of.scale.max_new_tokens, settings_of(of.profile)]
    parts = [identity(start) if start else known_as(of.scale.base), prompts, settings]
    out = stage("prompted_descriptions", parts, make, of.profile.artifacts, recipe=1)
    return json.loads((out / "texts.json").read_text("utf-8"))


def _rows(
    products: Sequence[Product], texts: Sequence[str], tokenizer: PreTrainedTokenizerFast
) -> Dataset:
    return generation.encode(tokenizer, [product.prompt for product in products], texts)


def _validation(of: Task, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    return _rows(of.validation, [product.written for product in of.validation], tokenizer)


def _texts(of: Task) -> list[str]:
    """The texts whose tokens the trimmed generator keeps."""
    texts = [f"{p.prompt} {p.written}" for p in (*of.train, *of.undescribed, *of.validation)]
    # Every word that a record may hold: a product of tomorrow is cut into the usual tokens.
    return texts + sorted({f" {form}" for forms in of.vocabulary.forms.values() for form in forms})


def _key(of: Task) -> str:
    """What the products add to the key of an artefact."""
    return digest(*[[[p.prompt, p.written] for p in part]
                    for part in (of.train, of.undescribed, of.validation)])  # fmt: skip
