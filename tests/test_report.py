"""Numbers as the book prints and records them."""

import json

import pytest

from ecomkd import report


def test_a_result_that_is_not_recorded_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(report.resources, "files", lambda package: tmp_path)
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "core.json").write_text('{"seeds": [1]}')
    assert report.recorded("core") == {"seeds": [1]}
    with pytest.raises(FileNotFoundError, match="there are core"):
        report.recorded("other")


NUMBERS = {
    "0": (0, None), "0.00": (0.0, None), "1,234": (1234, None), "12,346": (12345.6, None),
    "12.3": (12.34, None), "1.23": (1.234, None), "0.123": (0.1234, None), "0.001": (0.001, None),
    "0.0004": (0.0004, None), "-0.0004": (-0.00041, None), "2e-05": (0.00002, None),
    "12.3 %": (0.1234, "%"), "1.23\u00a0ms": (1.234, "ms"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "given"), NUMBERS.items(), ids=NUMBERS)
def test_a_number_keeps_digits_that_say_something(text, given):
    assert report.number(*given) == text.replace("\u00a0", " ")


def test_what_is_not_finite_is_null_in_json():
    """Python would write NaN, which strict readers refuse."""
    given = {"a": [float("nan"), 1.0, (float("inf"), 2)], 3: {"b": -float("inf"), "c": None}}
    assert json.loads(report.to_json(given)) == {
        "a": [None, 1.0, [None, 2]], "3": {"b": None, "c": None},
    }  # fmt: skip


def test_a_recorded_file_holds_no_nan(tmp_path):
    report.write_recorded(
        tmp_path / "x.json",
        command="none",
        seeds=[1],
        hardware={},
        generator=None,
        data={"rows": {"lift": float("nan")}},
        goals=[report.goal("g", float("nan"), 0.0, 1.0, "above 0", False)],
    )
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text
    kept = json.loads(text)
    assert kept["data"]["rows"]["lift"] is None and kept["goals"][0]["value"] is None
