"""Product descriptions by a GPT-type model: the products of two shops, teacher and students."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ecomkd import facts, generation, pipeline
from ecomkd.artifacts import digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data import shop as simulated
from ecomkd.facts import Fact, Product, Vocabulary

FURTHER = {
    "colour": (
        "teal turquoise maroon lavender coral khaki bronze indigo violet magenta peach mauve ruby "
        "aqua tan caramel pastel|cream|rose gold|multicolored|multicolor|neutral"
    ),
    "material": (
        "suede brass crystal granite concrete mahogany walnut teak cedar pearl diamond jute hemp "
        "satin lace chiffon tweed vinyl mesh cork stone clay resin terracotta tulle sequin fur "
        "velour oak iron|sterling silver|faux leather|faux fur"
    ),
}
INSTRUCTION = (
    "Write a product description of two short sentences for an online shop. Name every fact of "
    "this record and add no other fact.\n\n"
)


# The simulated shop -------------------------------------------------------------------------------

_OPENINGS = (
    "The {brand} {name} is made for {use}.",
    "Made for {use}, this {name} comes from {brand}.",
    "This {name} by {brand} is a fine choice for {use}.",
    "For {use}, {brand} offers this {name}.",
)
_PHRASES = {
    "colour": ("it comes in {}", "the colour is {}"),
    "material": ("it is made of {}", "the material is {}"),
    "set": ("it is sold as a {}", "you get a {}"),
    "who": ("it belongs to the {} range", "it is from the {} range"),
    "capacity": ("it has a capacity of {}", "its capacity is {}"),
}
_ANY = ("its {attribute} is {}", "the {attribute} is {}")


@cache
def shop_vocabulary() -> Vocabulary:
    """All words of the simulated shop for values, brands, kinds of product and uses."""
    known, forms = simulated.vocabulary(), defaultdict(set)
    for reading, both in known.forms.items():
        forms[reading] |= {form for side in both for form in side}
    for kind in known.types:
        forms["product", kind.key] |= {*kind.names, *kind.known}
        for use in kind.uses:
            forms["for", use].add(use)
    for brands in known.brands.values():
        for brand in brands:
            forms["brand", brand.name].add(brand.name)
    return Vocabulary(forms | {("promise", one): {one} for one in facts.PROMISES})


def shop_products(catalogue: pd.DataFrame, promises: bool = False) -> list[Product]:
    """The products of a simulated shop, of which those with a description have a text from which
    a model can learn, in the words of a simulated writer who names every fact.

    With `promises`, it ends as the shop's own description does: on a guarantee, on packaging, or
    on something else that no record holds.
    """
    known = simulated.vocabulary()
    kinds = {kind.key: kind for kind in known.types}
    products = []
    for row in catalogue.itertuples():
        bullets = row.product_bullet_point.split("\n")
        shown = dict(line.split(": ", 1) for line in bullets if ": " in line)
        title = row.product_title.casefold()
        names = kinds[row.product_type].names
        name = max((one for one in names if one.casefold() in title), key=len, default=names[0])
        told_facts = [Fact("brand", row.product_brand, row.product_brand)]
        for attribute, value in json.loads(row.attributes).items():
            forms = known.forms[attribute, value][0]
            told = [form for form in forms if form.casefold() in title] or forms[:1]
            label = attribute.replace("_", " ").capitalize()
            told_facts.append(Fact(attribute, value, shown.get(label, max(told, key=len))))
        first, _, closer = row.product_description.partition(". ")
        use = bullets[-1].removeprefix("For ") if bullets[-1].startswith("For ") else ""
        use = use or first.rstrip(".").partition(" made for ")[2] or kinds[row.product_type].uses[0]
        product = Product(row.product_id, name.lower(), (*told_facts, Fact("for", use, use)))
        if row.product_description:
            product = replace(product, written=_written(product, closer if promises else ""))
        products.append(product)
    return products


def _written(product: Product, closer: str) -> str:
    rng = np.random.default_rng(list(product.product_id.encode()))
    shown = {fact.attribute: fact.shown for fact in product.facts}
    opening = str(rng.choice(_OPENINGS)).format(
        brand=shown.pop("brand"), name=product.name, use=shown.pop("for")
    )
    told = [
        str(rng.choice(_PHRASES.get(attribute, _ANY))).format(
            value.lower().removeprefix("for " if attribute == "who" else ""),
            attribute=attribute.replace("_", " "),
        )
        for attribute, value in sorted(shown.items(), key=lambda _: rng.random())
    ]
    halves = [told] if len(told) < 3 else [told[:2], told[2:]]
    rest = [f"{' and '.join(part)}." for part in halves if part]
    return " ".join([opening, *(one[0].upper() + one[1:] for one in rest), closer]).strip()


# A real catalogue ---------------------------------------------------------------------------------


@cache
def store_vocabulary() -> Vocabulary:
    """Words for colours and materials, those of the simulated shop and further ones, and promises;
    numbers need no word."""
    known, forms = simulated.vocabulary(), defaultdict(set)
    for (attribute, value), both in known.forms.items():
        if attribute in FURTHER:
            forms[attribute, value] |= {form for side in both for form in side}
    for attribute, text in FURTHER.items():
        singles, *several = text.split("|")
        for one in (*singles.split(), *several):
            forms[attribute, one].add(one)
    return Vocabulary(forms | {("promise", one): {one} for one in facts.PROMISES})


def read_store() -> pd.DataFrame:
    """The 2,465 products of the demo store. Raises FileNotFoundError where they are not found."""
    folder = os.environ.get("ECOMKD_REAL_DATA")
    file = Path(folder or ".") / "demo_store" / "products.parquet"
    if not folder or not file.exists():
        raise FileNotFoundError(
            "The demo store was not found: set ECOMKD_REAL_DATA to a folder that holds "
            "demo_store/products.parquet; the data card says where it comes from."
        )
    return pd.read_parquet(file)


def store_products(catalogue: pd.DataFrame, withheld: bool = False) -> list[Product]:
    """The products of the demo store, each with its written description.

    Its fields are name, category, style and audience; colours, materials, numbers and promises are
    read from the name and the description by `store_vocabulary`, as a shop would hold them in its
    records. With `withheld` the record holds those of the name alone.
    """
    vocabulary, products = store_vocabulary(), []
    for row in catalogue.itertuples():
        context = [f"Kind: {row.category}, {row.style}"]
        if row.gender_affinity in ("F", "M"):
            context.append(f"For: {'women' if row.gender_affinity == 'F' else 'men'}")
        told = row.name if withheld else f"{row.name}. {row.description}"
        seen = {}
        for form, shown in vocabulary.find(told):
            reading = min(vocabulary.readings.get(form) or {("number", form)})
            seen.setdefault(reading, Fact(*reading, shown))
        own = tuple(sorted(seen.values(), key=lambda fact: fact.attribute))
        products.append(Product(row.id, row.name, own, tuple(context), row.description))
    return products


# The models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """How many products teach and test, and how the models learn."""

    base: str = "smollm2"
    described: int = 400
    """Products whose written description is learnt."""
    undescribed: int = 400
    """Further products, for which only the teacher writes."""
    validation: int = 48
    test: int = 100
    rank: int = 16
    teacher_epochs: int = 2
    teacher_learning_rate: float = 1e-3
    every: int = 3
    """A student starts from each so-many-th layer of the teacher."""
    student_epochs: int = 4
    """Passes over the described products, and as many steps where there are more."""
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


@dataclass(frozen=True)
class Task:
    """The products of one shop, drawn by the profile's seed, and what its models are made with."""

    train: list[Product]
    undescribed: list[Product]
    validation: list[Product]
    test: list[Product]
    vocabulary: Vocabulary
    profile: Profile
    scale: Scale

    @property
    def training_texts(self) -> list[str]:
        return [product.written for product in self.train]


def task(products: list[Product], vocabulary: Vocabulary, profile: Profile, **changes) -> Task:
    """Draw the products of training, validation and test; those for which only the teacher writes
    come first from products without a description. `changes` replace settings of `Scale`."""
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


def shop(profile: Profile, promises: bool = False, **changes) -> Task:
    """The task of the simulated shop of the profile's seed."""
    made = simulated.generate(profile.seed, profile.products, 30, 6, 60)
    return task(shop_products(made.products, promises), shop_vocabulary(), profile, **changes)


def store(profile: Profile, withheld: bool = False, **changes) -> Task:
    """The task of the demo store; the profile's seed draws its parts."""
    return task(store_products(read_store(), withheld), store_vocabulary(), profile, **changes)


def base(of: Task) -> Path:
    """The folder of the pretrained generator with the tokens that this shop needs."""
    texts = [f"{p.prompt} {p.written}" for p in (*of.train, *of.undescribed, *of.validation)]
    # Every word that a record may hold: a product of tomorrow is cut into the usual tokens.
    texts += sorted({f" {form}" for forms in of.vocabulary.forms.values() for form in forms})

    def make(folder: Path) -> None:
        if of.scale.base == "tiny":
            model, tokenizer = generation.tiny(texts)
        else:
            model, tokenizer = generation.trim(*generation.load(of.scale.base), texts)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    parts = [texts, _identity(of.scale.base)]
    return stage("generator", parts, make, of.profile.artifacts, recipe=1)


def teacher(of: Task) -> Path:
    """The folder of the pretrained generator with a low-rank correction, learnt from the written
    descriptions and added to its weights."""
    start = base(of)

    def make(folder: Path) -> None:
        model, tokenizer = generation.load(str(start))
        model = generation.build_low_rank(model, of.scale.rank, of.profile.seed)
        train = _rows(of.train, of.training_texts, tokenizer)
        steps = of.scale.teacher_epochs * -(-len(train) // of.profile.batch_size)
        _fit(model, train, of, tokenizer, folder / "adapter", steps, of.scale.teacher_learning_rate)
        model.merge_and_unload().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "adapter" / "training.json").replace(folder / "training.json")

    settings = [of.scale.rank, of.scale.teacher_epochs, of.scale.teacher_learning_rate]
    parts = [start.name, _key(of), settings, pipeline.settings_of(of.profile)]
    return stage("describer", parts, make, of.profile.artifacts, recipe=1)


def student(of: Task, text: str = "reference", soft: bool = False, more: bool = False) -> Path:
    """The folder of a student that starts from every so-many-th layer of the pretrained generator.

    All students take as many steps. Args:
        text: what it learns to write, the `reference` text or the `teacher`'s (sequence-level
            distillation, Kim & Rush 2016, section 3.2).
        soft: whether it also learns the teacher's distribution of each token (word-level).
        more: whether it also learns from products for which only the teacher has written.
    """
    if text not in ("reference", "teacher") or (more and text == "reference"):
        raise ValueError(
            f"text={text!r}, more={more}: take reference or teacher, and more with teacher alone."
        )
    start, tutor = base(of), teacher(of) if soft or text == "teacher" else None

    def make(folder: Path) -> None:
        whole, tokenizer = generation.load(str(start))
        layers = range(0, whole.config.num_hidden_layers, of.scale.every)
        products = of.train + of.undescribed * more
        texts = of.training_texts
        if text == "teacher":
            texts = write(tutor, products, of)
        rows = _rows(products, texts, tokenizer)
        if soft:
            model, _ = generation.load(str(tutor))
            rows = generation.teacher_tokens(rows, model, tokenizer, of.profile)
        steps = of.scale.student_epochs * -(-len(of.train) // of.profile.batch_size)
        model = generation.build_student(whole, layers)
        alpha = {"alpha": of.scale.alpha * soft, "temperature": of.scale.temperature}
        rate = of.scale.student_learning_rate
        _fit(model, rows, of, tokenizer, folder, steps, rate, **alpha)

    settings = [of.scale.every, of.scale.student_epochs, of.scale.student_learning_rate]
    settings += [of.scale.alpha, of.scale.temperature, text, soft, more, tutor and tutor.name]
    parts = [start.name, _key(of), settings, pipeline.settings_of(of.profile)]
    return stage("small_describer", parts, make, of.profile.artifacts, recipe=1)


def write(folder: Path, products: Sequence[Product], of: Task, sampled: int | None = None):
    """What a model writes for these products: a list of texts."""
    prompts = [product.prompt for product in products]

    def make(out: Path) -> None:
        model, tokenizer = generation.load(str(folder))
        settings = {"max_new_tokens": of.scale.max_new_tokens, "sampled": sampled}
        texts, _ = generation.generate(model, tokenizer, prompts, of.profile, **settings)
        write_text(out / "texts.json", json.dumps(texts))

    settings = [of.scale.max_new_tokens, sampled, pipeline.settings_of(of.profile)]
    parts = [pipeline.identity(folder), prompts, settings]
    out = stage("descriptions", parts, make, of.profile.artifacts, recipe=1)
    return json.loads((out / "texts.json").read_text("utf-8"))


def prompted(of: Task, examples: int = 0) -> list[str]:
    """What the pretrained generator writes for the test products, as it comes: told what to do, or
    shown so many products with their descriptions."""
    shown = "\n\n".join(f"{p.prompt} {p.written}" for p in of.train[:examples])
    prompts = [f"{shown}\n\n{p.prompt}" if examples else INSTRUCTION + p.record for p in of.test]

    start = base(of) if of.scale.base == "tiny" else None  # it is made, and has no other folder

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

    settings = [of.scale.max_new_tokens, pipeline.settings_of(of.profile)]
    parts = [start.name if start else _identity(of.scale.base), prompts, settings]
    out = stage("prompted_descriptions", parts, make, of.profile.artifacts, recipe=1)
    return json.loads((out / "texts.json").read_text("utf-8"))


def _rows(products: Sequence[Product], texts: Sequence[str], tokenizer):
    return generation.encode(tokenizer, [product.prompt for product in products], texts)


def _fit(model, rows, of: Task, tokenizer, folder: Path, steps: int, rate: float, **rest) -> None:
    held = _rows(of.validation, [product.written for product in of.validation], tokenizer)
    generation.fit(
        model, rows, held, tokenizer, of.profile, folder, steps=steps, learning_rate=rate, **rest
    )
    tokenizer.save_pretrained(folder)


def _key(of: Task) -> str:
    """What the products add to the key of an artefact."""
    return digest(*[[[p.prompt, p.written] for p in part]
                    for part in (of.train, of.undescribed, of.validation)])  # fmt: skip


def _identity(base: str) -> str | list:
    """What a pretrained generator adds to a key: its name, or what its folder holds."""
    return pipeline.identity(Path(base)) if Path(base).is_dir() else base
