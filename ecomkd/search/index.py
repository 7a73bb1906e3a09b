"""Write the folder of a search engine, and train what it needs: `ecomkd index`. Chapter 8."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Value
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
from ecomkd.search import engine, hosted, stores
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
from ecomkd.search.folder import FORMATS, QUALITY
from ecomkd.search.retrieve import Weights, lexical, token_means
from ecomkd.search.sparse import TEMPERATURE, load_sparse, sparse_encoder
from ecomkd.search.tune import DEFAULT, SPARSE_DEFAULT, answerable, quality_on, weights_on

TABLE = "products"
"""Of a store, where no other name is given."""
_PART = 4_096
"""Products that are read at a time."""
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d+)?|\.\d+)([eE][+-]?\d+)?")


def write(
    folder: Path | str,
    catalogue: Dataset,
    encoder: Path,
    exported: Path,
    profile: Profile,
    validation: Dataset,
    teacher: Path | None = None,
    fields: Sequence[str] = (),
    store: str | None = None,
    table: str = TABLE,
    vectors_of: features.Vectors = features.in_turn,
    first_stage: str = "static",
    test: Dataset | None = None,
) -> Path:
    """Write all that an engine needs into one folder, which `load` reads; return the folder.

    `encoder` is the folder of the first stage's student, as `static_encoder` or, where
    `first_stage` is "sparse", as `sparse_encoder` gives it. `exported` and `teacher` are what
    `export.exports` gives for a student and for its teacher; with the teacher, a service can
    compare the two. `fields` are columns of the catalogue that an answer can tell.

    Words and student get the weights with the best nDCG@10 on the queries of the validation pairs
    over the whole catalogue, where what nobody judged counts as irrelevant. With `test`,
    quality.json tells what the index is worth on the queries of these pairs (`measured`).

    With `store`, the URI of one (see `stores.opened`), products, vectors and words go into a table
    there, and the folder holds the rest. Where models, texts or fields are others than before, a
    service that answers from the same table tells its clients to ask again until it has the new
    folder, about a second later; a new name of a table spares them that.

    `vectors_of` computes the catalogue's vectors, part by part; they are the same whoever does.
    Where others compute them, unfinished work lies in the artefact folder under a name of model and
    texts, so that a run that was stopped goes on.

    An engine that stood in the folder stays until the new one is whole. Raises OSError where
    something else stands there, or no space is left, and as the store does, and ValueError for a
    store with a sparse first stage.
    """
    _refuse(first_stage, store)
    gains = judge.gains(validation)
    settings = {
        "format": FORMATS[first_stage],
        "max_length": profile.max_length,
        "gains": list(gains.values()),
        "weights": asdict(Weights()),
        "teacher": teacher is not None,
        "fields": _kinds(catalogue, fields),
        "store": None,
    }
    if first_stage == "sparse":
        settings["first_stage"] = first_stage
    with _told_of_a_full_disk(folder), outputs.replaced(folder, engine.KIND) as working:
        _write_products(working, catalogue, settings["fields"])
        if first_stage == "sparse":
            _write_postings(working, catalogue, encoder, profile)
        else:
            _write_vectors(working, catalogue, encoder, profile, vectors_of)
        export.deploy(exported, working / "student", gains, profile.max_length)
        if teacher is not None:
            (working / "teacher").mkdir()
            for name in ("model.onnx", "tokenizer.json"):
                shutil.copyfile(teacher / name, working / "teacher" / name)
        write_text(working / "engine.json", json.dumps(settings))
        made = engine.assemble(working)
        default = SPARSE_DEFAULT if first_stage == "sparse" else DEFAULT
        given = validation, made.ids, made.compare, made.read, made.depth, default
        made.weights = weights_on(*given)
        settings["weights"] = asdict(made.weights)
        if test is not None and answerable(test, made.ids):
            found = measured(made, test, first_stage)
            write_text(working / QUALITY, json.dumps(found, indent=1))
        if isinstance(made, engine.SearchEngine) and store is not None:
            outputs.claim(folder, engine.KIND)  # the old folder is of no use without its table
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


def _refuse(first_stage: str, store: str | None) -> None:
    if first_stage not in FORMATS:
        raise ValueError(f"{first_stage!r:.40}: no such first stage; give {' or '.join(FORMATS)}.")
    if first_stage == "sparse" and store is not None:
        raise ValueError(
            "a store finds products by their vectors, and a sparse first stage has none: leave out "
            "--engine, or --first-stage sparse."
        )


def measured(
    made: engine.SearchEngine | engine.SparseEngine, test: Dataset, first_stage: str
) -> dict:
    """The nDCG@10 of an engine, and of what it is made of, on the queries of judged pairs.

    `ndcg@10` has a row each for BM25, the first stage, their sum with the engine's weight, and what
    the student makes of it, which the engine answers, or, from a store, would answer if that found
    as much as the folder does; `queries` is their number. What nobody judged counts as irrelevant:
    the rows of one catalogue compare, and none says how good an answer is.
    """
    queries, quality = quality_on(test, made.ids)
    place = {product: row for row, product in enumerate(made.ids)}

    def answers(weights: Weights, depth: int) -> np.ndarray:
        asked, rows = replace(made, weights=weights, depth=depth), np.full((len(queries), 10), -1)
        for number, query in enumerate(queries):
            hits = [place[hit.product_id] for hit in asked.search(query)]
            rows[number, : len(hits)] = hits
        return rows

    rows = {
        "BM25": lexical(made.words, queries, 10)[1],
        first_stage: answers(Weights(), 0),
        f"{first_stage} + BM25": answers(Weights(made.weights.words), 0),
        "re-ranked": answers(made.weights, made.depth),
    }
    return {"queries": len(queries), "ndcg@10": {name: quality(own) for name, own in rows.items()}}


def _write_products(folder: Path, catalogue: Dataset, fields: Mapping[str, str]) -> None:
    def products() -> Iterator[Product]:
        for rows in catalogue.iter(_PART):
            for row, text in enumerate(sources.product_text(rows)):
                told = {name: plain_field(rows[name][row], kind) for name, kind in fields.items()}
                yield Product(rows["product_id"][row], rows["product_title"][row], text, told)

    path = folder / "products.jsonl"
    write_products(path, products())
    index = words.bm25(Column(Products(path), "text"))
    _write_lists(folder, "words", index)
    write_text(folder / "words.json", json.dumps(index.numbers))


def _write_lists(folder: Path, name: str, index: words.Words) -> None:
    for part in ("data", "indices", "indptr"):
        save_table(folder / f"{name}.{part}.npy", getattr(index, part))


def _write_vectors(
    folder: Path,
    catalogue: Dataset,
    static: Path,
    profile: Profile,
    vectors_of: features.Vectors,
) -> None:
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


def _write_postings(folder: Path, catalogue: Dataset, saved: Path, profile: Profile) -> None:
    student = load_sparse(saved, profile)
    (folder / "encoder").mkdir()
    student.encoder.tokenizer.backend_tokenizer.save(str(folder / "encoder" / "tokenizer.json"))
    index = student.postings(student.documents(sources.product_text(catalogue[:])))
    # At the temperature that the student learnt by, a sum of pieces is scaled as a cosine.
    scaled = replace(index, data=index.data * np.float32(TEMPERATURE))
    _write_lists(folder, "pieces", scaled)


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
    return value is None or isinstance(value, (int, float, Decimal))


def _fits(source: str | Path, catalogue: Dataset, fields: Sequence[str], store: str) -> None:
    """Refuse, before any work, a product that the store would refuse at the end of it."""
    longest = stores.MILVUS_LONGEST if store.startswith("milvus") else None
    for rows in catalogue.iter(_PART):
        told = [rows["product_title"], sources.product_text(rows), *(rows[one] for one in fields)]
        for own, *values in zip(rows["product_id"], *told, strict=True):
            for text in (own, *(value for value in values if isinstance(value, str))):
                if "\0" in text:
                    raise ValueError(
                        f"{source}: product {own!r:.60} holds a NUL, which no store takes; delete "
                        "it."
                    )
                if longest is not None and len(text.encode()) > longest:
                    raise ValueError(
                        f"{source}: product {own!r:.60} has a text of more than the {longest:,} "
                        "bytes that Milvus takes; shorten it."
                    )


def build(
    source: str | Path,
    profile: Profile,
    folder: Path | str,
    with_teacher: bool = False,
    fields: Sequence[str] = (),
    store: str | None = None,
    table: str = TABLE,
    vectors_of: features.Vectors = features.in_turn,
    first_stage: str = "static",
    outputs_of: stages.Outputs | None = None,
) -> Path:
    """Train what an engine over a source needs, where it is not there yet, and `write` it.

    `with_teacher` puts the teacher into the folder too, as fp32, so that a service can compare the
    student's answers with its own. `vectors_of` computes the vectors of the catalogue: those that
    training compares queries with, and those of the index. `outputs_of` computes the teacher's
    outputs that students learn from, as `stages.student` has it. With `first_stage` "sparse" the
    index has posting lists of the pieces that a sparse student gives to products, in the place of
    vectors; it learns from the same bi-encoder as the static student, in this process, where token
    states of all products are in memory (`sparse_encoder`).

    Before anything is trained, raises OSError where `folder` may not be written,
    ModuleNotFoundError where a package is missing, ValueError for a field that the catalogue lacks
    and for a store with a sparse first stage, and as `hosted.tried` does.
    """
    _refuse(first_stage, store)
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
        if not isinstance(catalogue.features[name], (Value, ClassLabel)):
            raise ValueError(
                f"{source}: the column {name!r} holds lists or objects, and a field is one number "
                "or text of a product: write it as a text, or leave it out of the fields."
            )
    if store is not None:
        _fits(source, catalogue, fields, store)
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
        outputs_of=outputs_of,
    )
    if first_stage == "sparse":
        encoder = sparse_encoder(data, catalogue, profile, wide)
    else:
        encoder = static_encoder(data, catalogue, profile, wide, vectors_of)
    exported = export.exports(student, profile)
    shadow = export.exports(teacher, profile) if with_teacher else None
    return write(
        folder,
        catalogue,
        encoder,
        exported,
        profile,
        data["validation"],
        shadow,
        fields,
        store,
        table,
        vectors_of,
        first_stage,
        data["test"],
    )
