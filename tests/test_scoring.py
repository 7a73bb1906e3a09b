"""`ecomkd score`: each pair once, whatever scores it and stops it; what else a cluster computes."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_index
import tiny_models
import torch
from datasets import load_from_disk

from ecomkd import artifacts, cli, distill, export, features, models, outputs, scale, search
from ecomkd.config import Profile
from ecomkd.data.contract import DataError
from ecomkd.data.schema import GAINS, LABELS
from ecomkd.relevance import stages
from ecomkd.scale import engines, scoring
from ecomkd.search import encoders, index

LENGTH, ROWS, PAIRS = 24, 8, 61
PROFILE = Profile.named("smoke", precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_models.save(named(tiny_models.bert()), tmp_path_factory.mktemp("model") / "teacher")


def named(model):
    model.config.id2label = dict(enumerate(LABELS))
    return model


@pytest.fixture(scope="module")
def table() -> pa.Table:
    own = tiny_models.pairs(PAIRS, seed=5).remove_columns("label").data.table
    return own.replace_schema_metadata()


@pytest.fixture
def pairs(table, tmp_path) -> Path:
    """Two files, one in row groups that no part fits."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    pq.write_table(table.slice(0, 40), folder / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(40), folder / "b.parquet")
    return folder


@pytest.fixture(scope="module")
def expected(table, model) -> np.ndarray:
    data = tiny_models.pairs(PAIRS, seed=5)
    tokenizer = models.load_tokenizer(str(model))
    logits = distill.predict(
        models.load(model), distill.encode(data, tokenizer, LENGTH), tokenizer, PROFILE
    )
    odds = np.exp(logits.astype(np.float64))
    return odds / odds.sum(axis=1, keepdims=True)


def score(pairs: Path, model: Path, out: Path, **options) -> scale.Scored:
    return scale.score(pairs, model, out, PROFILE, rows=ROWS, max_length=LENGTH, **options)


def parts(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.parquet"))


def told(out: Path, column: str = "log_probabilities") -> np.ndarray:
    return np.array(scale.scored(out)[column])


def test_each_pair_is_scored_once_in_its_order(pairs, model, table, expected, tmp_path):
    out = tmp_path / "out"
    found = score(pairs, model, out)
    assert found == scale.Scored(PAIRS, PAIRS, 8)  # 40 pairs in five parts, and 21 in three
    scored = scale.scored(out)
    assert scored["product_id"] == table["product_id"].to_pylist()
    assert scored["query_id"] == table["query_id"].to_pylist()
    np.testing.assert_allclose(np.exp(told(out)), expected, atol=1e-6)
    np.testing.assert_allclose(told(out, "score"), expected @ list(GAINS.values()), atol=1e-6)


def test_the_order_of_pairs_changes_no_score(model, table, expected, tmp_path):
    order = np.random.default_rng(0).permutation(PAIRS)
    file = tmp_path / "mixed.parquet"
    pq.write_table(table.take(order), file)
    score(file, model, tmp_path / "out")
    np.testing.assert_allclose(np.exp(told(tmp_path / "out")), expected[order], atol=1e-6)


def test_what_is_there_is_left_and_what_has_changed_is_scored_anew(
    pairs, model, table, expected, tmp_path
):
    out = tmp_path / "out"
    score(pairs, model, out)
    before = {name: (out / name).stat().st_mtime_ns for name in parts(out)}
    assert score(pairs, model, out).new == 0
    assert {name: (out / name).stat().st_mtime_ns for name in parts(out)} == before
    pq.write_table(table.slice(40, 10), pairs / "b.parquet")
    assert score(pairs, model, out) == scale.Scored(50, 10, 7)
    np.testing.assert_allclose(np.exp(told(out)), expected[:50], atol=1e-6)
    assert len(before.keys() & set(parts(out))) == 5  # and the parts of the old file are gone


def test_another_length_or_model_has_other_scores(pairs, model, tmp_path):
    score(pairs, model, tmp_path / "out")
    other = tiny_models.save(named(tiny_models.bert(seed=8)), tmp_path / "other")
    assert score(pairs, other, tmp_path / "out").new == PAIRS
    found = scale.score(pairs, other, tmp_path / "out", PROFILE, rows=ROWS, max_length=LENGTH - 4)
    assert found.new == PAIRS


def test_a_stopped_run_goes_on(pairs, model, expected, tmp_path, monkeypatch):
    out, write, written = tmp_path / "out", engines.write, []

    def interrupted(own, path):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(own, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engines, "write", interrupted)
        score(pairs, model, out)
    assert len(parts(out)) == 3
    with pytest.raises(ValueError, match=r"has changed|is missing"):
        scale.scored(out)
    assert score(pairs, model, out).new == PAIRS - 3 * ROWS
    np.testing.assert_allclose(np.exp(told(out)), expected, atol=1e-6)


@pytest.mark.parametrize("column", ["query", "product_title"])
def test_a_pair_that_nobody_can_score_is_named_and_the_others_are_kept(
    column, pairs, model, table, tmp_path
):
    texts = table[column].to_pylist()
    texts[50] = None
    broken = table.set_column(table.schema.get_field_index(column), column, pa.array(texts))
    pq.write_table(broken.slice(40), pairs / "b.parquet")
    with pytest.raises(DataError) as caught:
        score(pairs, model, tmp_path / "out")
    place = f"{pairs / 'b.parquet'}, row 11: {column} is empty"
    assert [place in sentence for sentence in caught.value.sentences] == [True]
    assert len(parts(tmp_path / "out")) == 7
    pq.write_table(table.slice(40), pairs / "b.parquet")
    assert score(pairs, model, tmp_path / "out").new == PAIRS - 40


def test_a_model_that_gives_no_number_is_told(pairs, model, tmp_path):
    broken = named(tiny_models.bert())
    broken.classifier.bias.data[:] = float("nan")
    folder = tiny_models.save(broken, tmp_path / "broken")
    with pytest.raises(DataError, match=r"a\.parquet, row 1: the model gives no number"):
        score(pairs, folder, tmp_path / "out")


def test_classes_without_a_gain_are_refused(pairs, tmp_path):
    folder = tiny_models.save(tiny_models.bert(), tmp_path / "unnamed")
    with pytest.raises(ValueError, match="no gain is known for the classes LABEL_0, LABEL_1"):
        score(pairs, folder, tmp_path / "out")


def test_a_deployed_student_is_scored_with_too(pairs, model, tmp_path):
    exported = export.exports(model, Profile.named("smoke", artifacts=tmp_path / "made"))
    export.deploy(exported, tmp_path / "student", GAINS, LENGTH)
    found = scale.score(pairs, tmp_path / "student", tmp_path / "out", PROFILE, rows=ROWS)
    assert found.new == PAIRS
    scored = scale.scored(tmp_path / "out")
    odds = np.exp(told(tmp_path / "out"))
    np.testing.assert_allclose(odds.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(scored["score"], odds @ list(GAINS.values()), atol=1e-6)


def test_a_student_learns_from_scores_what_it_learns_from_the_teachers_own_outputs(
    pairs, model, tmp_path
):
    """The losses of every step: a constant for each pair, which `scored` leaves out, is unseen."""
    score(pairs, model, tmp_path / "out")
    tokenizer, profile = models.load_tokenizer(str(model)), tiny_models.profile(tmp_path / "made")
    rows = distill.encode(tiny_models.pairs(PAIRS, seed=5), tokenizer, LENGTH)
    own = distill.teacher_outputs(rows, models.load(model), tokenizer, profile)
    taught = scale.scored(tmp_path / "out").rename_column("log_probabilities", "teacher_logits")
    shift = np.array(own["teacher_logits"]) - np.array(taught["teacher_logits"])
    assert np.abs(shift).max() > 0.1  # other numbers, of which the loss must make the same
    curves = []
    for name, columns in {"own": own, "scores": distill.with_teacher(rows, taught)}.items():
        log = distill.fit(
            tiny_models.bert(dropout=0.0, seed=2),
            columns,
            columns.select(range(8)),
            tokenizer,
            profile,
            tmp_path / name,
            steps=6,
            learning_rate=1e-3,
            quality=lambda logits: {"quality": float(-np.abs(logits).mean())},
            alpha=2.0,
            temperature=2.0,
        )
        curves.append([entry["loss"] for entry in log if "loss" in entry])
    assert len(curves[0]) == 6
    np.testing.assert_allclose(*curves, rtol=1e-5)


def test_the_command_says_what_it_did(pairs, model, tmp_path, capsys):
    call = ["score", str(pairs), "--model", str(model), "--out", str(tmp_path / "out")]
    call += ["--max-length", str(LENGTH), "--profile", "smoke"]
    assert cli.main(call) == 0
    assert "Scored 61 of 61 pairs" in capsys.readouterr().out
    assert cli.main(call) == 0
    assert "Scored 0 of 61 pairs" in capsys.readouterr().out
    assert outputs.check(tmp_path / "out", "score")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: None, "no Parquet file here"),
        (lambda folder: (folder / "a.parquet").write_bytes(b"PAR1 and no more"), "not a whole"),
        (
            lambda folder: pq.write_table(pa.table({"query": ["a"]}), folder / "a.parquet"),
            "no column 'product_title'",
        ),
        (
            lambda folder: pq.write_table(
                pa.table([["a"], ["b"], ["c"]], names=["query", "query", "product_title"]),
                folder / "a.parquet",
            ),
            "the column 'query' occurs twice",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(spoil, sentence, model, tmp_path, capsys):
    folder = tmp_path / "pairs"
    folder.mkdir()
    spoil(folder)
    call = ["score", str(folder), "--model", str(model), "--out", str(tmp_path / "out")]
    assert cli.main([*call, "--max-length", "24"]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", [lambda own: own[:-20], lambda own: own[:-108] + b"\xff" * 100 + own[-8:]]
)
def test_a_damaged_part_is_scored_again(damage, pairs, model, expected, tmp_path):
    out = tmp_path / "out"
    score(pairs, model, out)
    damaged = out / parts(out)[2]
    damaged.write_bytes(damage(damaged.read_bytes()))
    assert score(pairs, model, out).new == ROWS
    np.testing.assert_allclose(np.exp(told(out)), expected, atol=1e-6)


def test_texts_are_read_from_whatever_holds_them(pairs, model, table, tmp_path):
    """Numbers are texts, and what is missing is none, as in every file of a shop."""
    place = table.schema.get_field_index("product_color")
    sizes = pa.array([1.5, float("nan"), None] * 20 + [2.0])
    pq.write_table(table.set_column(place, "product_color", sizes), tmp_path / "own.parquet")
    part = engines.Part(str(tmp_path / "own.parquet"), 0, PAIRS, "")
    assert scoring.read(part)["product_color"][:3] == ["1.5", "", ""]
    lists = pa.array([["red", "tall"]] * PAIRS)
    pq.write_table(table.set_column(place, "product_color", lists), tmp_path / "own.parquet")
    with pytest.raises(DataError, match=r"column 'product_color' holds list<.*> that is no text"):
        score(tmp_path / "own.parquet", model, tmp_path / "out")


def test_a_folder_that_another_program_named_as_a_file_is_read(table, model, tmp_path):
    (tmp_path / "data" / "pairs.parquet").mkdir(parents=True)
    pq.write_table(table, tmp_path / "data" / "pairs.parquet" / "part-0.parquet")
    assert score(tmp_path / "data", model, tmp_path / "out").pairs == PAIRS


def test_a_run_waits_for_another_one_in_the_same_folder(pairs, model, tmp_path, monkeypatch):
    """Else the first to end would delete what the other has finished."""
    other = tiny_models.save(named(tiny_models.bert(seed=8)), tmp_path / "other")
    begun, write = threading.Event(), engines.write

    def slow(own, path):
        begun.set()
        time.sleep(0.05)
        write(own, path)

    monkeypatch.setattr(engines, "write", slow)
    monkeypatch.setattr(artifacts, "_SILENT_S", 60.0)  # that it waits is told after this time
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(score, pairs, model, tmp_path / "out")
        begun.wait(60)
        second = pool.submit(score, pairs, other, tmp_path / "out")
        assert first.result() == second.result() == scale.Scored(PAIRS, PAIRS, 8)
    assert len(scale.scored(tmp_path / "out")) == PAIRS


def test_what_cannot_be_scored_is_refused_before_any_work(pairs, model, table, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        score(pairs, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match=r"lies in .*, whose files are pairs"):
        score(pairs, model, pairs / "out")
    with pytest.raises(ValueError, match="Unknown engine 'dask': choose one of local, ray"):
        score(pairs, model, tmp_path / "out", engine="dask")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no pairs in it"):
        score(tmp_path / "empty.parquet", model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_refused(pairs, model, tmp_path, capsys):
    mine = tmp_path / "out" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    call = ["score", str(pairs), "--model", str(model), "--out", str(mine.parent)]
    assert cli.main([*call, "--max-length", "24"]) == 1
    assert "mine.txt" in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_an_address_needs_its_engine(pairs, model, tmp_path, capsys):
    call = ["score", str(pairs), "--model", str(model), "--out", str(tmp_path / "out")]
    assert cli.main([*call, "--address", "10.0.0.1:6379"]) == 1
    assert "--engine ray" in capsys.readouterr().err


def test_ray_is_loaded_where_it_is_asked_for_alone(pairs, model, tmp_path):
    """`run` and `index` come to where they would train."""
    call = ["score", str(pairs), "--model", str(model), "--out", str(tmp_path / "out")]
    call += ["--max-length", str(LENGTH), "--profile", "smoke"]
    trained = [[name, "shop", "--out", str(tmp_path / name)] for name in ("run", "index")]
    code = f"""
import sys
from pathlib import Path
from ecomkd import cli
from ecomkd.relevance import run
from ecomkd.search import index
run.run = index.build = lambda *told, **further: Path("done")
status = [cli.main(call) for call in {[call, *trained]!r}]
sys.exit(status != [0, 0, 0] or 'ray' in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# A cluster ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of a Ray cluster, each with one worker, on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ecomkd[scale]'")
    # Else workers stand behind all other tests that run meanwhile.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        made.add_node(**{name: node[name] for name in ("num_cpus", "object_store_memory")})
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def test_a_pair_that_a_cluster_cannot_score_is_named(cluster, model, table, tmp_path):
    texts = table["query"].to_pylist()
    texts[3] = " "
    column = table.schema.get_field_index("query")
    file = tmp_path / "pairs.parquet"
    pq.write_table(table.set_column(column, "query", pa.array(texts)).slice(0, 12), file)
    with pytest.raises(DataError, match=r"pairs\.parquet, row 4: query is empty"):
        score(file, model, tmp_path / "out", engine="ray", address=cluster.address)
    assert len(parts(tmp_path / "out")) == 1


def test_a_cluster_gives_what_one_process_gives_though_a_worker_is_killed(
    cluster, pairs, model, expected, tmp_path
):
    """The worker that gets the third part kills itself before it scores it, the first time."""
    struck = tmp_path / "struck"
    call = [str(pairs), str(model), str(tmp_path / "out"), cluster.address, str(struck)]
    subprocess.run([sys.executable, "-c", KILLED, *call], check=True)
    assert struck.exists()
    np.testing.assert_allclose(np.exp(told(tmp_path / "out")), expected, atol=1e-6)
    score(pairs, model, tmp_path / "local")
    assert parts(tmp_path / "out") == parts(tmp_path / "local")


KILLED = f"""
import os, signal, sys
from pathlib import Path
from ecomkd import scale
from ecomkd.config import Profile
from ecomkd.scale import engines

pairs, model, out, address, struck = sys.argv[1:]

class Mortal(engines.OfRay):
    def __call__(self, batch):
        if batch["start"][0] == 16 and not os.path.exists(struck):
            Path(struck).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

engines.OfRay = Mortal
profile = Profile.named("smoke", precision="fp32", device="cpu")
scale.score(Path(pairs), Path(model), Path(out), profile, "ray", address, {ROWS}, {LENGTH})
"""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_is_not_there_is_told(address, pairs, model, tmp_path, capsys):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ecomkd[scale]'")
    call = ["score", str(pairs), "--model", str(model), "--out", str(tmp_path / "out")]
    call += ["--max-length", "24", "--engine", "ray", "--address", address]
    assert cli.main(call) == 1
    assert f"{address}: no Ray cluster answers" in capsys.readouterr().err


# What trains, with a cluster ----------------------------------------------------------------------


def test_a_student_learns_from_a_cluster_what_it_learns_from_its_own_teacher(
    cluster, tmp_path, monkeypatch
):
    """The same artefacts, by their names; in them the same columns, and the losses of all steps."""
    start = tiny_models.save(named(tiny_models.bert(dropout=0.0)), tmp_path / "start")
    teacher = tiny_models.save(named(tiny_models.bert(seed=3)), tmp_path / "teacher")
    monkeypatch.setattr(scoring, "_TAUGHT", 9)
    ways = {"own": None, "cluster": partial(scale.teacher_outputs, cluster.address)}
    data, names, columns, curves = tiny_models.shop(), [], [], []
    for way, outputs_of in ways.items():
        profile = tiny_models.profile(tmp_path / way, teacher=str(start), student_layers=(0,))
        folder = stages.student(data, profile, teacher_folder=teacher, outputs_of=outputs_of)
        steps = json.loads((folder / "training.json").read_text("utf-8"))
        curves.append([step["loss"] for step in steps if "loss" in step])
        names.append(files(tmp_path / way))
        taught = sorted((tmp_path / way).glob("teacher_outputs-*"))
        columns.append([load_from_disk(one / "pairs") for one in taught])
    assert names[0] == names[1]
    assert len(curves[0]) == 5
    np.testing.assert_allclose(*curves, rtol=1e-5)
    assert [len(own) for own in columns[0]] in ([24, 16], [16, 24])
    for own, theirs in zip(*columns, strict=True):
        assert own.features == theirs.features
        logits = [np.array(one["teacher_logits"], np.float64) for one in (own, theirs)]
        np.testing.assert_allclose(*(one - one.mean(1, keepdims=True) for one in logits), atol=1e-5)
        assert np.abs(logits[0] - logits[1]).max() > 0.1  # a constant for each pair
        rest = [one.remove_columns("teacher_logits")[:] for one in (own, theirs)]
        assert rest[0] == rest[1]


def files(folder: Path) -> set[str]:
    """Of all artefacts but for what locks them."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(".lock")}


def test_hidden_states_are_computed_here(model, tmp_path):
    profile, data = tiny_models.profile(tmp_path), tiny_models.shop()
    told = profile, model, "unlabelled", None, (2,), lambda *_: pytest.fail("asked somebody else")
    assert "teacher_hidden_2" in stages.teacher_pairs(data, *told).column_names


@pytest.fixture(scope="module")
def index_without(tmp_path_factory):
    """A profile, and the folder of an index that one process made; its models learn from vectors in
    parts of a few texts."""
    threads, patch = torch.get_num_threads(), pytest.MonkeyPatch()
    torch.set_num_threads(1)  # as many as a worker has: another number may change last digits
    drawn = np.random.default_rng(0).normal(size=(30_522, 96)).astype(np.float32)
    patch.setattr(encoders, "_token_table", lambda *_: drawn.copy())  # half a minute
    patch.setattr(features, "PART", 40)
    patch.setattr(index, "_PART", 40)
    folder = tmp_path_factory.mktemp("index")
    start = tiny_models.save(named(tiny_models.bert(dropout=0.0)), folder / "start")
    shape = {"student_layers": (0,), "unlabelled_pairs": 16, "products": 100, "queries": 20}
    profile = tiny_models.profile(folder / "own", teacher=str(start), **shape)
    yield profile, index.build("shop", profile, folder / "first")
    patch.undo()
    torch.set_num_threads(threads)


def another(profile: Profile, artifacts: Path, *kept: str) -> Profile:
    """The profile with artefacts of its own, of which it finds those stages."""
    for name in kept:
        for folder in profile.artifacts.glob(f"{name}-*"):
            shutil.copytree(folder, artifacts / folder.name)
    return replace(profile, artifacts=artifacts)


def test_an_index_with_a_cluster_is_the_index_without(
    cluster, index_without, tmp_path, monkeypatch
):
    """All its files, byte by byte, where the teacher's outputs are the same."""
    profile, own = index_without
    kept = [path.name.split("-")[0] for path in profile.artifacts.glob("data*")]
    kept += ["teacher", "teacher_outputs", "student", "onnx"]
    other = another(profile, tmp_path / "cluster", *kept)
    worked, work = [], engines.over_ray
    monkeypatch.setattr(
        engines, "over_ray", lambda parts, *told: worked.append(len(parts)) or work(parts, *told)
    )
    vectors_of = partial(scale.vectors, cluster.address, profile)
    found = index.build("shop", other, tmp_path / "second", vectors_of=vectors_of)
    assert worked == [3, 3, 3]
    assert files(profile.artifacts) == files(other.artifacts)
    assert outputs.read(own, "index") == outputs.read(found, "index")


def test_an_index_learns_from_a_cluster_what_it_learns_from_its_own_teacher(
    cluster, index_without, tmp_path, monkeypatch
):
    """The same artefacts by their names, as far as no key holds trained weights; in them the same
    outputs, and the vectors of the index."""
    profile, own = index_without
    monkeypatch.setitem(engines.ENGINES, "ray", counted := Counted(engines.over_ray))
    monkeypatch.setattr(scoring, "_TAUGHT", 9)
    other = another(profile, tmp_path / "cluster", "teacher", "vectors")
    outputs_of = partial(scale.teacher_outputs, cluster.address)
    found = index.build("shop", other, tmp_path / "second", outputs_of=outputs_of)
    taught = sorted(path.name for path in profile.artifacts.glob("teacher_outputs-*"))
    assert len(taught) == len(counted.parts) == 3  # of labelled, unlabelled and mined pairs
    for stage in ("teacher_outputs", "student", "contrastive", "hard_negatives"):
        names = [
            sorted(path.name for path in one.artifacts.glob(f"{stage}-*"))
            for one in (profile, other)
        ]
        assert names[0] == names[1] != []
    for name in taught:
        columns = [load_from_disk(one.artifacts / name / "pairs") for one in (profile, other)]
        logits = [np.array(one["teacher_logits"], np.float64) for one in columns]
        np.testing.assert_allclose(*(one - one.mean(1, keepdims=True) for one in logits), atol=1e-5)
        rest = [one.remove_columns("teacher_logits")[:] for one in columns]
        assert rest[0] == rest[1]
    written = [outputs.read(one, "index")["files"] for one in (own, found)]
    assert written[0].keys() == written[1].keys()
    vectors = [np.load(one / "vectors.npy") for one in (own, found)]
    np.testing.assert_allclose(*vectors, atol=1e-3)


class Counted:
    """An engine that notes how many parts it is given each time, and can be stopped."""

    def __init__(self, work, stop: int | None = None):
        self.work, self.stop, self.parts = work, stop, []

    def __call__(self, parts, *told):
        self.parts.append(len(parts))
        yield from itertools.islice(self.work(parts, *told), self.stop)
        if self.stop is not None:
            raise KeyboardInterrupt


def test_a_stopped_index_goes_on_with_the_vectors_that_were_done(
    cluster, tmp_path, monkeypatch, capsys
):
    artifacts = tmp_path / "artifacts"
    parts = tiny_index.parts(tmp_path, tiny_models.profile(artifacts))
    monkeypatch.setattr(index, "_PART", 4)  # 21 texts in six parts
    vectors_of = partial(scale.vectors, cluster.address, PROFILE)
    before = search.write(tmp_path / "own", **parts)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engines, "over_ray", Counted(engines.one_by_one, stop=2))
        search.write(tmp_path / "served", **parts, vectors_of=vectors_of)
    assert not (tmp_path / "served").exists()
    monkeypatch.setattr(engines, "over_ray", counted := Counted(engines.over_ray))
    other = parts | {"catalogue": parts["catalogue"].select(range(20))}  # another catalogue
    search.write(tmp_path / "other", **other, vectors_of=vectors_of)
    after = search.write(tmp_path / "served", **parts, vectors_of=vectors_of)
    assert counted.parts == [5, 4]
    assert outputs.read(after, "index") == outputs.read(before, "index")
    assert not list(artifacts.glob(".index_vectors-*.partial"))  # all were taken


@pytest.mark.parametrize("command", ["run", "index"])
def test_a_cluster_that_is_not_there_is_told_before_any_training(
    command, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ecomkd[scale]'")
    monkeypatch.setenv("ECOMKD_ARTIFACTS", str(tmp_path / "artifacts"))
    call = [command, "shop", "--out", str(tmp_path / "out"), "--cluster", "127.0.0.1:1"]
    assert cli.main(call) == 1
    assert "127.0.0.1:1: no Ray cluster answers" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_csv_file_of_pairs_is_told_to_be_parquet(tmp_path):
    (tmp_path / "pairs.csv").write_text("query,product_title\na,b\n")
    with (
        pytest.raises(DataError, match="write it as Parquet"),
        engines.opened(tmp_path / "pairs.csv"),
    ):
        pass


def test_a_part_is_read_without_the_rest_of_its_row_group(table, tmp_path):
    file = tmp_path / "one.parquet"
    many = pa.concat_tables([table] * 200)
    pq.write_table(many, file, row_group_size=len(many))
    part = engines.Part(str(file), 5_000, 5_008, "")
    with engines.opened(file) as found:
        own = engines.rows_of(found, part, ["query", "product_title"])
    assert own.to_pylist() == many.slice(5_000, 8).select(["query", "product_title"]).to_pylist()
    assert own.get_total_buffer_size() < many.nbytes / 10


def test_a_damaged_page_is_told_by_its_file(table, model, tmp_path):
    file = tmp_path / "pairs.parquet"
    pq.write_table(table, file)
    whole = bytearray(file.read_bytes())
    whole[30:600] = b"\xff" * 570
    file.write_bytes(whole)
    with pytest.raises(DataError, match=r"pairs\.parquet: damaged among the rows 1 to"):
        score(file, model, tmp_path / "out")


def test_long_ids_beside_a_missing_one_keep_their_digits(table, tmp_path):
    place = table.schema.get_field_index("product_id")
    ids = pa.array([4006381333931.0, float("nan"), None] * 20 + [7.0])
    pq.write_table(table.set_column(place, "product_id", ids), tmp_path / "own.parquet")
    found = scoring.read(engines.Part(str(tmp_path / "own.parquet"), 0, PAIRS, ""))["product_id"]
    assert (found[:3], found[-1]) == (["4006381333931", "", ""], "7")


def test_two_that_write_a_part_at_once_do_not_share_a_file(tmp_path, monkeypatch):
    both, write = threading.Barrier(2), pq.write_table

    def slow(own, path):
        write(own, path)
        both.wait(20)

    monkeypatch.setattr(engines.pq, "write_table", slow)
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(engines.write, pa.table({"a": [1]}), tmp_path / "x") for _ in range(2)]
        assert [one.result() for one in done] == [None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
