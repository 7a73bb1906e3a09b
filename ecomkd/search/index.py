"""Write the folder of a search engine, and train what it needs: `ecomkd index`. Chapter 8."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from datasets import Dataset
from safetensors.numpy import save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from ecomkd import export, features, outputs, words
from ecomkd.artifacts import data_digest, digest, file_digest, locked, write_text
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.contract import TEXT
from ecomkd.extras import needed
from ecomkd.relevance import judge, mining, stages
from ecomkd.search import engine, hosted
from ecomkd.search.catalogue import (
    Column,
    Product,
    Products,
    plain_field,
    save_table,
    write_cells,
    write_products,
)
from ecomkd.search.encoders import bi_encoder, static_encoder
from ecomkd.search.retrieve import Weights, token_means
from ecomkd.search.tune import weights_on

TABLE = "products"
"""Of a store, where no other name is given."""
_PART = 4_096
"""Products that are read at a time."""
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d+)?(?<=\d)")


def write(
    folder: Path | str,
    catalogue: Dataset,
    static: Path,
    exported: Path,
    profile: Profile,
    validation: Dataset,
    teacher: Path | None = None,
    fields: Sequence[str] = (),
    store: str | None = None,
    table: str = TABLE,
    vectors_of: features.Vectors = features.in_turn,
) -> Path:
    """Write all that an engine needs into one folder, which `load` reads; return the folder.

    `exported` and `teacher` are what `export.exports` gives for a student and for its teacher; with
    the teacher, a service can compare the two. `fields` are columns of the catalogue that an answer
    can tell. Words and student get the weights with the best nDCG@10 on the queries of the
    validation pairs over the whole catalogue, where what nobody judged counts as irrelevant.

    With `store`, the URI of one (see `stores.opened`), products, vectors and words go into a table
    there, and the folder holds the rest. Where models, texts or fields are others than before, a
    service that answers from the same table fails until it has the new folder, about a second
    later; a new name of a table spares it that.

    `vectors_of` computes the catalogue's vectors, part by part; they are the same whoever does.
    Where others compute them, unfinished work lies in the artefact folder under a name of model and
    texts, so that a run that was stopped goes on.

    An engine that stood in the folder stays until the new one is whole. Raises OSError where
    something else stands there, or no space is left, and as the store does.
    """
    gains = judge.gains(validation)
    settings = {
        "format": engine.FORMAT,
        "max_length": profile.max_length,
        "gains": list(gains.values()),
        "weights": asdict(Weights()),
        "teacher": teacher is not None,
        "fields": _kinds(catalogue, fields),
        "store": None,
    }
    with _told_of_a_full_disk(folder), outputs.replaced(folder, engine.KIND) as working:
        _write_catalogue(working, catalogue, static, settings["fields"], profile, vectors_of)
        export.deploy(exported, working / "student", gains, profile.max_length)
        if teacher is not None:
            (working / "teacher").mkdir()
            for name in ("model.onnx", "tokenizer.json"):
                shutil.copyfile(teacher / name, working / "teacher" / name)
        write_text(working / "engine.json", json.dumps(settings))
        made = engine.assemble(working)
        weights = weights_on(validation, made.ids, made.compare, made.read, made.depth)
        settings["weights"] = asdict(weights)
        if store is not None:
            made.weights = weights
            settings["store"] = asdict(hosted.moved(made, working, store, table))
        write_text(working / "engine.json", json.dumps(settings, indent=1))
    return Path(folder)


@contextmanager
def _told_of_a_full_disk(folder: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"No space left while writing {folder}: free some, or give a folder on another disk; "
            "what was trained is kept",
        ) from error


def _write_catalogue(
    folder: Path,
    catalogue: Dataset,
    static: Path,
    fields: Mapping[str, str],
    profile: Profile,
    vectors_of: features.Vectors,
) -> None:
    def products() -> Iterator[Product]:
        for rows in catalogue.iter(_PART):
            for row, text in enumerate(sources.product_text(rows)):
                told = {name: plain_field(rows[name][row], kind) for name, kind in fields.items()}
                yield Product(rows["product_id"][row], rows["product_title"][row], text, told)

    path = folder / "products.jsonl"
    write_products(path, products())
    bag = _bag(static)
    table = bag.embedding.weight.detach().numpy()
    (folder / "encoder").mkdir()
    bag.tokenizer.save(str(folder / "encoder" / "tokenizer.json"))
    # Not `save_file`: of a full disk it makes an error that is no OSError.
    (folder / "encoder" / "model.safetensors").write_bytes(save({"embedding.weight": table}))

    texts = (sources.product_text(rows) for rows in catalogue.iter(_PART))
    with _scratch(folder, catalogue, profile, vectors_of) as scratch:
        vectors = vectors_of(partial(_static, static.resolve()), texts, scratch)
        write_cells(folder, vectors, (len(catalogue), table.shape[1]))
    index = words.bm25(Column(Products(path), "text"))
    for name in ("data", "indices", "indptr"):
        save_table(folder / f"words.{name}.npy", getattr(index, name))
    write_text(folder / "words.json", json.dumps(index.numbers))


@contextmanager
def _scratch(
    folder: Path, catalogue: Dataset, profile: Profile, vectors_of: features.Vectors
) -> Iterator[Path]:
    """Where unfinished vectors lie: of others, under a name of the encoder in `folder` and of the
    texts, and in no other process's use."""
    if vectors_of is features.in_turn:  # it leaves none
        yield folder / "scratch"
        return
    files = [file_digest(path) for path in sorted((folder / "encoder").iterdir())]
    key = digest("index_vectors", 1, files, data_digest(catalogue, TEXT), _PART)
    profile.artifacts.mkdir(parents=True, exist_ok=True)
    scratch = profile.artifacts / f".index_vectors-{key}.partial"
    with locked(scratch):
        yield scratch


def _bag(folder: Path) -> StaticEmbedding:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)[0]


def _static(folder: Path) -> features.Encode:
    """What a static student makes of texts, in the process that calls this."""
    bag = _bag(folder)
    table = bag.embedding.weight.detach().numpy()

    def encode(texts: Sequence[str]) -> np.ndarray:
        pieces = bag.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return token_means([text.ids for text in pieces], table)

    return encode


def _kinds(catalogue: Dataset, fields: Sequence[str]) -> dict[str, str]:
    """Whether each field holds a "number" or a "text"; a CSV file has its numbers as text, too."""
    return {
        name: "number" if all(map(_is_number, catalogue.unique(name))) else "text"
        for name in fields
    }


def _is_number(value) -> bool:
    if isinstance(value, str):
        value = value.strip()
        # 007 is a name. Empty says that there is no value.
        return not value or _NUMBER.fullmatch(value) is not None
    return value is None or isinstance(value, (int, float))


def build(
    source: str | Path,
    profile: Profile,
    folder: Path | str,
    with_teacher: bool = False,
    fields: Sequence[str] = (),
    store: str | None = None,
    table: str = TABLE,
    vectors_of: features.Vectors = features.in_turn,
    outputs_of: stages.Outputs | None = None,
) -> Path:
    """Train what an engine over a source needs, where it is not there yet, and `write` it.

    `with_teacher` puts the teacher into the folder too, as fp32, so that a service can compare the
    student's answers with its own. `vectors_of` computes the vectors of the catalogue: those that
    training compares queries with, and those of the index. `outputs_of` computes the teacher's
    outputs that students learn from, as `stages.student` has it.

    Before anything is trained, raises OSError where `folder` may not be written,
    ModuleNotFoundError where a package is missing, ValueError for a field that the catalogue lacks,
    and as `hosted.tried` does.
    """
    outputs.claim(folder, engine.KIND)
    # Else it would be found missing only after all training, by `export`.
    with needed("`ecomkd index`", "run"):
        import_module("onnx")
    if store is not None:
        hosted.tried(store, table, fields)
    catalogue = sources.catalogue(source, profile)
    for name in fields:
        if name not in catalogue.column_names:
            there = ", ".join(catalogue.column_names)
            raise ValueError(f"{source}: no column {name!r} in the catalogue: it has {there}.")
    if vectors_of is not features.in_turn:
        mining.catalogue_vectors(catalogue, profile, vectors_of)  # kept: all that mines finds them
    data = mining.with_unlabelled(sources.load(source, profile), catalogue, profile)
    teacher = stages.teacher(data, profile)
    student = stages.student(data, profile, teacher_folder=teacher, outputs_of=outputs_of)
    wide = bi_encoder(
        data,
        catalogue,
        profile,
        teacher_folder=teacher,
        vectors_of=vectors_of,
        outputs_of=outputs_of,
    )
    static = static_encoder(data, catalogue, profile, wide, vectors_of)
    exported = export.exports(student, profile)
    shadow = export.exports(teacher, profile) if with_teacher else None
    return write(
        folder,
        catalogue,
        static,
        exported,
        profile,
        data["validation"],
        shadow,
        fields,
        store,
        table,
        vectors_of,
    )
