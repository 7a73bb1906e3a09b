"""The part as a whole: its names, and those under which its modules were known."""

import subprocess
import sys

import pytest

from ecomkd import export, relevance, words
from ecomkd.relevance import baselines, run, stages, tables, verdict
from ecomkd.relevance import run as running


@pytest.mark.parametrize("name", sorted(relevance._HOMES))
def test_every_name_of_the_part_is_there(name):
    assert getattr(relevance, name) is not None


def test_the_part_has_what_chapters_take_from_the_pipeline():
    names = (
        "ROWS batches catalogue_vectors digests domain_adapted evaluate frame gains identity "
        "low_rank mined origin predict quality rankable settings_of softmax start student teacher "
        "teacher_pairs training_log warmed with_unlabelled"
    )
    assert set(names.split()) <= set(relevance._HOMES)
    assert relevance.teacher is stages.teacher


def test_former_modules_have_what_cells_take_from_them():
    assert tables.DISTILLED in tables.SYSTEMS and tables.SYSTEMS is tables.SYSTEMS
    assert (export.exports, export.predict_onnx) == (export.exports, export.predict_onnx)
    assert (run.speed, run.run, verdict.verdict) == (running.speed, running.run, verdict.verdict)
    assert (words.bm25, words.bm25_of) == (words.bm25, words.bm25_of)
    assert baselines.lexical_boosting is relevance.lexical_boosting


def test_the_part_is_light_until_a_name_is_asked_for():
    code = (
        "import sys, ecomkd.relevance\n"
        "print([name for name in ('torch', 'pandas', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        relevance.nothing  # noqa: B018
