"""The table of codes is the challenge's, and every statement of a header finds its class or stays as it is."""

import pytest

from dataset_scripts.snomed import (
    CLASSES,
    DIAGNOSES,
    EQUIVALENT,
    SCORED_CLASSES,
    WORDS,
    class_of,
    classes_of,
    statements,
)

# Verhoeff's scheme, by which the last digit of every SNOMED CT identifier checks the others (SNOMED CT release guide).
_DIHEDRAL = [[(a + b) % 5 + 5 * (b > 4) if a < 5 else (a - b) % 5 + 5 * (b < 5) for b in range(10)] for a in range(10)]
_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _check(identifier: str) -> int:
    sum_, digits = 0, [int(digit) for digit in reversed(identifier)]
    for place, digit in enumerate(digits):
        for _ in range(place % 8):
            digit = _PERMUTATION[digit]
        sum_ = _DIHEDRAL[sum_][digit]
    return sum_


def test_no_code_is_misspelt():
    assert _check("164889003") == 0 and _check("164889004") != 0 and _check("168489003") != 0
    assert [code for code in {*DIAGNOSES, *EQUIVALENT, *WORDS.values()} if _check(code)] == []


def test_the_tables_have_the_challenges_sizes():
    scored = [diagnosis for diagnosis in DIAGNOSES.values() if diagnosis.scored]
    assert (len(scored), len(DIAGNOSES)) == (30, 133)
    assert (len(SCORED_CLASSES), len(CLASSES)) == (26, 129)
    assert len({diagnosis.abbreviation for diagnosis in DIAGNOSES.values()}) == 133
    assert set(SCORED_CLASSES) < set(CLASSES) and len(set(CLASSES)) == 129


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("713427006", "59118001", "RBBB"),
        ("733534002", "164909002", "LBBB"),
        ("63593006", "284470004", "PAC"),
        ("17338001", "427172004", "PVC"),
    ],
)
def test_the_challenges_four_pairs_are_one_class_each(one, other, name):
    assert DIAGNOSES[one].scored and DIAGNOSES[other].scored
    assert class_of(one) == class_of(other) == name
    assert classes_of([other, one], SCORED_CLASSES) == (name,)


def test_incomplete_blocks_are_classes_of_their_own():
    assert classes_of(["713426002", "713427006"], SCORED_CLASSES) == ("IRBBB", "RBBB")
    assert class_of("251120003") == "ILBBB" and "ILBBB" not in SCORED_CLASSES


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        (["Age: 85", "Dx: 164889003,59118001"], ("164889003", "59118001")),
        (["dx:164889003 , 59118001,"], ("164889003", "59118001")),
        (["Dx: RBBB"], ("RBBB",)),
        (["Dx: 426783006,426783006"], ("426783006",)),
        (["Dx: AF", "Dx: PVC"], ("AF", "PVC")),
        (["Dx: Unknown"], ()),
        (["Dx:"], ()),
        (["Rx: 164889003", "Dxtra: 1", "no colon"], ()),
        ([], ()),
    ],
)
def test_statements_are_what_stands_after_dx(comments, expected):
    assert statements(comments) == expected


def test_a_code_that_no_table_has_belongs_to_no_class():
    assert class_of("28189009") is None
    assert classes_of(["28189009", "Tachycardia?", ""], CLASSES) == ()


def test_words_mean_what_the_same_records_later_had_as_codes():
    """Challenge 2021's table counts nine codes among the 6,877 records of CPSC2018, and these are they."""
    assert [class_of(word) for word in WORDS] == ["NSR", "AF", "IAVB", "LBBB", "RBBB", "PAC", "VEB", "STD", "STE"]
    assert "VEB" not in SCORED_CLASSES


def test_every_code_of_the_real_headers_is_in_the_table(shared_ecg):
    found: set[str] = set()
    for header in shared_ecg.glob("*/**/*.hea"):
        comments = [line.strip("# ") for line in header.read_text().splitlines() if line.startswith("#")]
        found.update(statements(comments))
    assert len(found) > 20 and [code for code in found if class_of(code) is None] == []
