"""The part as a whole: its names, and those under which its modules were known."""

import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

import ecomkd
from ecomkd import features, relevance, words
from ecomkd.relevance import stages


def test_the_part_has_what_chapters_take_from_the_pipeline():
    names = (
        "ROWS batches catalogue_vectors digests domain_adapted evaluate frame gains identity "
        "low_rank mine origin predict quality rankable settings_of softmax start student teacher "
        "teacher_pairs training_log warmed with_unlabelled"
    )
    assert set(names.split()) <= set(dir(relevance))
    assert relevance.teacher is stages.teacher


def test_former_modules_have_what_cells_take_from_them():
    assert ecomkd.pipeline is ecomkd.baselines is ecomkd.mining is relevance
    assert (relevance.bm25, relevance.embed) == (words.bm25, features.embed)


def test_the_part_is_light_until_a_name_is_asked_for():
    code = (
        "import sys, ecomkd.relevance\n"
        "print([name for name in ('torch', 'pandas', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        relevance.nothing  # noqa: B018


def test_chapter_2_asks_of_a_warm_up_what_the_package_asks():
    path = Path(__file__).parent.parent / "notebooks" / "02_teacher.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    (source,) = (cell.source for cell in cells if "wanted = torch.stack" in cell.source)
    lines = [line for line in source.splitlines() if line.startswith(("d = ", "wanted = "))]
    known = {"torch": torch, "cosine": torch.tensor([0.1, 0.9, 0.4, 0.3, -0.2])}
    exec("\n".join(lines), known)
    odds = torch.from_numpy(stages._odds(known["cosine"].numpy()))
    asked = torch.stack([torch.zeros_like(odds), odds], dim=1).softmax(dim=1)
    assert np.allclose(known["wanted"], asked, atol=1e-6) and len(lines) == 2
