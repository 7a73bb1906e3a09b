"""Scripts that measure seeds and what no seed changes: what is missing is said before a merge."""

import json
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["multimodal", "explanations"])
def test_what_was_not_measured_is_not_merged(name, tmp_path):
    script = import_module(f"measure_{name}")
    with pytest.raises(SystemExit, match=r"no file of a seed; run this script with --seeds"):
        script.merge(tmp_path, tmp_path / "out.json")
    (tmp_path / "seed1.json").write_text(json.dumps({"profile": {}}), "utf-8")
    with pytest.raises(SystemExit, match=r"once.json: not found; run this script with --once"):
        script.merge(tmp_path, tmp_path / "out.json")


def test_engines_that_were_not_measured_are_not_merged(tmp_path):
    script = import_module("measure_engines")
    with pytest.raises(SystemExit, match=r"nothing was measured; run this script without --merge"):
        script.merge(tmp_path, tmp_path / "out.json")
