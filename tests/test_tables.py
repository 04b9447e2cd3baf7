import pytest

from dataset_scripts.tables import number, read_table
from modeling_ecg_jepa import EcgJepaRecordError


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_values_are_text_as_it_stands(write):
    table = read_table(write("id,name\n007,NA\n1.50,\n"), ["id", "name"])
    assert table.to_dict("list") == {"id": ["007", "1.50"], "name": ["NA", ""]}


def test_a_byte_order_mark_and_quoted_commas_are_understood(write):
    table = read_table(write('\ufeffid,text\n1,"a, ""b"""\n'), ["id"])
    assert table.to_dict("list") == {"id": ["1"], "text": ['a, "b"']}


def test_a_missing_column_is_named_beside_those_there_are(write):
    with pytest.raises(EcgJepaRecordError, match="no column 'fold'; it has 'id', 'age'.") as caught:
        read_table(write("id,age\n1,2\n"), ["id", "fold"])
    assert caught.value.reason == "table incomplete"


def test_short_lines_have_empty_fields(write):
    assert read_table(write("a,b,c\n1,2\n"), ["c"])["c"].tolist() == [""]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2,3\n4,5,6\n",  # pandas alone would take the first column for names of rows
        "a,b\n1,2\n1,2,3,4\n",
        b"a,b\n\xff\xfe,1\n",
    ],
    ids=["empty", "more fields than names", "one line with more fields", "not UTF-8"],
)
def test_what_is_no_table_is_refused(write, content):
    with pytest.raises(EcgJepaRecordError) as caught:
        read_table(write(content), ["a"])
    assert caught.value.reason == "table not readable"


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(EcgJepaRecordError, match=path.name) as caught:
            read_table(path, [])
        assert caught.value.reason == "table missing"


def test_numbers():
    assert [number(text, "age") for text in ("1", " 2.5 ", "", "  ", "nan", "NaN")] == [
        1.0,
        2.5,
        None,
        None,
        None,
        None,
    ]
    for text in ("old", "1,5", "inf"):
        with pytest.raises(EcgJepaRecordError, match=f"line 3, age: '{text}'"):
            number(text, "line 3, age")
