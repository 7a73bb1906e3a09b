"""Every kind of input for `ecomkd check` is accepted rightly, or refused with its mend."""

import io
import re
import subprocess
import sys

import pandas as pd
import pytest
from contract_cases import CASES, GOOD, PRODUCTS

from ecomkd.data.contract import GRADES, LABELS, DataError, gains_of
from ecomkd.data.schema import check, read

FEW = "too few to conclude"
"""All cases are small: what is said about that is said about each."""


@pytest.mark.parametrize("name", CASES)
def test_kind_of_input(name, tmp_path):
    case = CASES[name]
    folder = tmp_path / (name if name.startswith(("folder", "quote", "-")) else "data")
    folder.mkdir()
    case.write(folder)
    before = sorted(path.name for path in folder.iterdir())
    if case.accepted:
        notes = check(folder)["notes"]
        assert any(FEW in note for note in notes)
        told = " ".join(notes)
        if not case.words:
            assert len(notes) == 1, told
    else:
        with pytest.raises(DataError) as error:
            check(folder)
        told = str(error.value)
        assert len(error.value.sentences) == 1
        assert str(folder) in told
        assert told.endswith(".") and told.isprintable() and len(told) < 700
    for words in case.words:
        assert words in told
    assert sorted(path.name for path in folder.iterdir()) == before


def test_several_faults_are_told_at_once(tmp_path):
    text = GOOD.replace(",E,train", ",X,train").replace(",I,train", ",,train")
    text = (
        text.replace("q2,p6,blue mug", "q2,p6,").replace("q3,p9,", "q3,,").replace(",test", ",tst")
    )
    text = text.replace("usb cable,Usb Cable model 1", "usb,")
    (tmp_path / "judgments.csv").write_text(text)
    with pytest.raises(DataError) as error:
        check(tmp_path)
    told = [sentence.removeprefix(f"{tmp_path}/") for sentence in error.value.sentences]
    assert told == [
        "judgments.csv, line 2 and 6 more rows, column 'esci_label': unknown label 'X'; "
        "use one of E, S, C, I.",
        "judgments.csv, line 5 and 6 more rows, column 'esci_label': the label is empty; "
        "use one of E, S, C, I.",
        "judgments.csv, line 7, column 'query': empty; fill it in or drop the row.",
        "judgments.csv, line 10, column 'product_id': empty; fill it in or drop the row.",
        "judgments.csv, line 19, column 'product_title': empty; fill it in or drop the row.",
        "judgments.csv, line 19, column 'query': 'usb' has the query_id 'q5' of 'usb cable' in "
        f"{tmp_path}/judgments.csv, line 18; give each query its own id.",
        "judgments.csv, line 38 and 11 more rows, column 'split': unknown split 'tst'; "
        "use train or validation or test or unlabelled.",
    ]
    assert str(error.value).split("\n") == list(error.value.sentences)


def test_what_ends_the_reading_comes_after_the_faults_before_it(tmp_path):
    (tmp_path / "judgments.csv").write_text(GOOD.replace(",E,", ",X,") + "q1,p1\n")
    (tmp_path / "products.csv").write_text(PRODUCTS + "p1,Again\n,None\n")
    with pytest.raises(DataError) as error:
        check(tmp_path)
    assert [re.search(r"line \d+", one).group() for one in error.value.sentences] == [
        "line 50",
        "line 51",
    ]
    (tmp_path / "products.csv").unlink()
    with pytest.raises(DataError) as error:
        check(tmp_path)
    # A batch of rows is complete before it is checked, so that here the short line comes first.
    assert "line 50: 2 fields" in str(error.value)


def test_long_ids_keep_their_digits_beside_missing_ones(tmp_path):
    """pandas stores such ids as 1.23456789012e+11."""
    judged = pd.read_csv(io.StringIO(GOOD))
    number = judged["product_id"].str[1:].astype(int) + 123_456_789_000
    judged.assign(product_id=number.astype(float)).to_parquet(tmp_path / "judgments.parquet")
    catalogue = pd.DataFrame({"product_id": number, "product_title": "t " + number.astype(str)})
    catalogue.to_parquet(tmp_path / "products.parquet")
    tables = read(tmp_path, tmp_path)
    assert tables.report["products_not_in_catalogue"] == 0
    assert set(tables.judgments["product_id"]) == set(number.astype(str))


def test_check_and_read_give_one_report(tmp_path):
    (tmp_path / "judgments.csv").write_text(GOOD)
    (tmp_path / "products.csv").write_text(PRODUCTS)
    assert check(tmp_path) == read(tmp_path, tmp_path).report


def test_check_loads_neither_datasets_nor_torch(tmp_path):
    (tmp_path / "judgments.csv").write_text(GOOD)
    code = (
        "import sys; from ecomkd.cli import main; main(['check', sys.argv[1]])\n"
        "heavy = {'torch', 'datasets', 'transformers', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert "keeps the data contract" in done.stdout and done.stdout.endswith("[]\n")


def test_each_class_has_its_gain_in_the_order_of_the_classes():
    assert list(gains_of(LABELS).items()) == [("E", 1.0), ("S", 0.1), ("C", 0.01), ("I", 0.0)]
    assert list(gains_of(GRADES).items()) == [(0, 0.0), (1, 1 / 7), (2, 3 / 7), (3, 1.0)]
    assert list(gains_of(["apart", "alike"]).items()) == [("apart", 0.0), ("alike", 1.0)]
    for names in (["I", "C", "S", "E"], ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"], ["E"]):
        with pytest.raises(ValueError, match=f"no gain is known for the classes {names[0]}"):
            gains_of(names)
