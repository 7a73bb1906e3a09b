"""Numbers as the book prints and records them."""

import json
import re

import pandas as pd
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


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "title": ["a sofa table for behind the couch", "<b>"],
            "share": [0.9731, float("nan")],
            "p50": [1068.14, -0.41],
            "pairs": [20_000, 5_560],
            "count": [32.0, None],
            "met": [True, False],
        },
        index=["teacher", "student"],
    )


def test_a_table_as_text():
    shown = report.show(table(), units={"share": "%", "p50": "ms"}, index="model", width=20)
    assert repr(shown).splitlines() == [
        "model    title               share (%)  p50 (ms)   pairs  count  met",
        "teacher  a sofa table for …       97.3     1,068  20,000     32  yes",
        "student  <b>                         –    −0.410   5,560      –  no",
    ]


def test_a_table_as_html():
    html = report.show(table(), index="model")._repr_html_()
    assert re.match(r'<div class="table-box" tabindex="0" role="region" aria-label="Table: ', html)
    assert '<table class="ecomkd">' in html
    assert '<th scope="col" style="text-align: left">model</th>' in html
    assert '<th scope="row" style="text-align: left">teacher</th>' in html
    assert '<td style="text-align: right">20,000</td>' in html
    assert "&lt;b&gt;" in html and "<b>" not in html
    corner = report.show(table())._repr_html_()
    assert "<thead>\n<tr><td " in corner
    assert not re.search(r"<th[^>]*></th>", corner)


def test_rows_that_are_only_counted_are_not_numbered():
    frame = pd.DataFrame({"day": [1, 2]})
    assert report.show(frame).heads == ["day"]
    assert report.show(frame.rename_axis("row")).heads == ["row", "day"]
    assert report.show(frame, index="no.").heads == ["no.", "day"]
    assert report.show(table(), index=False).heads[0] == "title"
    assert report.show(pd.Series([1.5], index=["a"], name="lift")).heads == ["", "lift"]


def test_heads_of_several_levels_are_one_row():
    columns = pd.MultiIndex.from_tuples([("teacher", 16), ("student", 16)], names=[None, "ef"])
    frame = pd.DataFrame([[1, 2]], columns=columns)
    assert report.show(frame).heads == ["teacher, ef 16", "student, ef 16"]
    rows = frame.set_axis(pd.MultiIndex.from_tuples([("us", 3)], names=["shop", "seed"]))
    assert report.show(rows).rows == [["us", "3", "1", "2"]]


def test_digits_of_a_table_can_be_said():
    frame = pd.DataFrame({"a": [0.12345], "b": [12.0], "c": [0.5]})
    assert report.show(frame, digits=2).rows == [["0.12", "12.00", "0.50"]]
    assert report.show(frame, digits={"a": 1}).rows == [["0.1", "12", "0.500"]]
    assert report.show(frame, digits={"c": 0}, units={"c": "%"}).rows == [["0.123", "12", "50"]]


def test_a_single_long_word_is_cut_with_a_mark():
    assert report.show(pd.DataFrame({"a": ["x" * 60]}), width=10).rows == [["x" * 9 + "…"]]


def test_values_are_recorded_together_and_printed(capsys):
    report.record_all({"queries": 1200, "share": (0.973, "%"), "wait": 1.5}, wait="ms")
    text = capsys.readouterr().out.replace("\u00a0", " ")
    assert text == "queries = 1,200\nshare = 97.3 %\nwait = 1.50 ms\n"


def test_a_recorded_number_has_a_true_minus():
    assert report.record("gain", -0.051) == "−0.051"
    assert report.record("span", "-0.5 [-1.0, +0.1]") == "−0.5 [−1.0, +0.1]"
    assert report.record("model", "ms-2 of 2026-11-27") == "ms-2 of 2026-11-27"
