"""The wheel with `[serve]` alone, in a fresh environment, serves an index that was made elsewhere.

The index is as large as that of the simulated shop of profile `book`: 3,000 products and models of
the real size, which nothing has trained.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from transformers import BertConfig, BertForSequenceClassification

from ecomkd import __version__, export, models, search
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.schema import TEXT
from lowest import requirements

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
ROOT = Path(__file__).resolve().parent.parent
PRODUCTS = 3_000
STATIC_WIDTH = 96
HIDDEN, LAYERS = 384, 3
MOST_MIB = 200
TRAINS = ("torch", "transformers", "sentence_transformers", "faiss", "bm25s")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    profile = Profile.named("smoke", artifacts=folder / "artifacts", device="cpu")
    pairs = sources.load("shop", profile)["validation"]
    rows = np.arange(PRODUCTS) % len(pairs)
    columns = {name: [pairs[name][row] for row in rows] for name in TEXT}
    columns["product_id"] = [f"p{row}" for row in range(PRODUCTS)]
    tokenizer = models.load_tokenizer("minilm")
    draw = np.random.default_rng(0)
    table = draw.normal(size=(len(tokenizer), STATIC_WIDTH)).astype(np.float32)
    bag = StaticEmbedding(tokenizer.backend_tokenizer, embedding_weights=table)
    static = folder / "static"
    SentenceTransformer(modules=[bag, Normalize()], device="cpu").save_pretrained(
        str(static), create_model_card=False
    )
    labels = pairs.features["label"].names
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        intermediate_size=4 * HIDDEN,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )
    BertForSequenceClassification(config).save_pretrained(folder / "student")
    tokenizer.save_pretrained(folder / "student")
    exported = export.exports(folder / "student", profile)
    catalogue = Dataset.from_dict(columns)
    return search.write(folder / "index", catalogue, static, exported, profile, pairs)


def run(*command: Path | str, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needed(waiting: list[Requirement]) -> dict[str, metadata.Distribution]:
    """What pip would install for these requirements, as it is installed here."""
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found[name] = metadata.distribution(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                more = map(Requirement, found[name].requires or ())
                waiting += [r for r in more if not r.marker or r.marker.evaluate({"extra": extra})]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The folder of the programs of a fresh environment with the wheel and its `[serve]`.

    What the wheel requires, and what that requires, is linked from here, file by file, rather than
    fetched: it is what pip would install, in the versions that all other tests have.
    """
    folder = tmp_path_factory.mktemp("alone")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-data"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "ecomkd", source / "ecomkd", ignore=shutil.ignore_patterns("*.pyc"))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    programs = folder / "venv" / "bin"
    there = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    for distribution in needed(requirements("serve")).values():
        for file in distribution.files:
            if ".." not in file.parts:  # programs, which a service does not need
                link = Path(there.strip(), file)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(distribution.locate_file(file))
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    run(*pip, "install", "-q", "--no-index", "--no-deps", wheel)
    run(*pip, "check")
    return programs


def outside() -> dict[str, str]:
    """The environment's variables without those that lead to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_what_trains_is_not_installed(environment, tmp_path):
    code = (
        "import importlib.util\n"
        f"print([name for name in {TRAINS} if importlib.util.find_spec(name)])"
    )
    said = run(environment / "python", "-c", code, cwd=tmp_path, env=outside())
    assert said == "[]\n"


def test_an_index_is_served(environment, index, tmp_path):
    begun = time.monotonic()
    child = subprocess.Popen(
        [str(environment / "ecomkd"), "serve", str(index), "--port", "0"],
        stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=outside(),
    )  # fmt: skip
    try:
        line = child.stdout.readline()
        assert line.startswith("Listening on "), line
        port = int(line.split(":")[2].split()[0])

        def ask(path: str, body: dict | None = None) -> dict:
            """The answer's content, and in it the header that names the index."""
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            sent = None if body is None else json.dumps(body)
            kind = {"Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, sent, kind)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            connection.close()
            assert answer.status == 200, content
            return content | {"header": answer.getheader("X-Ecomkd-Index")}

        found = ask("/search?q=red+sofa")
        seconds = time.monotonic() - begun
        hits = found["hits"]
        assert len(hits) == 10
        titles = [hit["title"] for hit in hits]
        again = ask("/rerank", {"query": "red sofa", "products": titles})
        assert len(again["scores"]) == 10
        assert len(ask("/search?q=red+sofa&k=100")["hits"]) == 100
        health = ask("/health")
        assert health["ready"]
        wanted = rf"index, format 4, written by ecomkd {re.escape(__version__)}, [0-9a-f]{{12}}"
        assert re.fullmatch(wanted, health["index"])
        assert health["header"] == found["header"] == health["index"]
        status = Path(f"/proc/{child.pid}/status").read_text()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    mebibytes = int(peak.split()[1]) / 1024
    print(f"first answer after {seconds:.2f} s; at most {mebibytes:.0f} MiB")
    assert mebibytes <= MOST_MIB
