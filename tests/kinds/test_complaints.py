"""What is wrong with a capability's options, as a study has them."""

import pytest
from pydantic import Field

from kdsearch.errors import StudyError, plain_number
from kdsearch.kinds import Options
from kdsearch.kinds.options import validate


class Three(Options):
    widths: tuple[int, int, int] = (1, 2, 3)
    deep: tuple[tuple[int, int], ...] = ()
    share: float = Field(0.5, le=1)
    flag: bool = False


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"widths": [4, 8]}, "at.widths: has 2 values. Expected 3."),
        ({"widths": []}, "at.widths: has 0 values. Expected 3."),
        ({"deep": [[1, 2], [1]]}, "at.deep[1]: has 1 value. Expected 2."),
        ({"share": "50 %"}, "at.share: got '50 %'. Expected a number. Write 0.5."),
        ({"widths": [4, "2k", 8]}, "at.widths[1]: got '2k'. Expected a whole number. Write 2000."),
        ({"flag": None}, "at.flag: got null. Expected true or false."),
    ],
)
def test_the_message(raw, message):
    with pytest.raises(StudyError) as caught:
        validate(Three, raw, "at")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("got", "kind", "fix"),
    [
        (2e4, "int_from_float", "Write 20000."),
        ("1.5ms", "float_parsing", "Write 1.5."),
        ("0.3M", "int_parsing", "Write 300000."),
        ("1.5", "int_parsing", ""),
        ("many", "int_parsing", ""),
        ("1..5", "float_parsing", ""),
        ("1.5 s", "float_parsing", ""),
        ("2k", "string_type", ""),
        (True, "int_type", ""),
        (None, "int_type", ""),
    ],
)
def test_a_number_with_a_unit(got, kind, fix):
    assert plain_number(got, (kind,)) == fix
