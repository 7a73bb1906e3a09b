"""What an index is written from, of models of a few words that nothing has trained; and fixtures of
modules whose own fixture `parts` says what theirs is written from."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from ecomkd import export, search
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT

TITLES = ["red shoe", "blue mug", "green lamp", "small desk", "large mat", "tea pot", "wool strap"]


def parts(folder: Path, profile: Profile) -> dict:
    """The arguments of `search.write` but for the folder that it writes."""
    texts = [f"{title} steel" for title in TITLES] + [f"kids {title}" for title in TITLES] * 2
    columns = {name: [""] * len(texts) for name in TEXT}
    columns |= {"product_id": [f"p{row}" for row in range(len(texts))], "product_title": texts}
    table = np.random.default_rng(0).normal(size=(len(tiny_models.tokenizer()), 8))
    bag = StaticEmbedding(tiny_models.tokenizer(), embedding_weights=table.astype(np.float32))
    static = folder / "static"
    SentenceTransformer(modules=[bag, Normalize()], device="cpu").save_pretrained(str(static))
    student = tiny_models.save(tiny_models.bert(layers=1), folder / "student")
    teacher = tiny_models.save(tiny_models.bert(seed=1), folder / "teacher")
    return {
        "catalogue": Dataset.from_dict(columns),
        "encoder": static,
        "exported": export.exports(student, profile),
        "profile": profile,
        "validation": tiny_models.pairs(24, seed=2, prefix="v"),
        "teacher": export.exports(teacher, profile),
    }


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return tiny_models.profile(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def written(parts, tmp_path_factory) -> Path:
    return search.write(tmp_path_factory.mktemp("index") / "served", **parts)


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy of the index that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "served"))


@pytest.fixture(scope="module")
def engine(written):
    return search.load(written)
