"""Reason codes: unique, named, explained, each in the hundred of who speaks."""

from __future__ import annotations

from handlers.domain import reasons

CODES = {name: value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, int)}


def test_no_code_is_given_twice() -> None:
    assert len(set(CODES.values())) == len(CODES) > 40


def test_every_code_has_its_name_and_one_line_that_no_other_has() -> None:
    assert {code: name for name, code in CODES.items()} == reasons.NAME
    assert set(reasons.DOC) == set(reasons.NAME)
    assert len(set(reasons.DOC.values())) == len(reasons.DOC)
    assert all(text and "\n" not in text and len(text) <= 80 for text in reasons.DOC.values())


def test_codes_fit_their_field_and_stand_in_the_hundred_of_who_speaks() -> None:
    assert {code // 100 for code in CODES.values()} == {0, 1, 2, 3, 4}
    assert (CODES["NO_REASON"], CODES["BROKEN_LINE"], CODES["POSITION_LIMIT"], CODES["NO_LIQUIDITY"], CODES["BAR_LATE"]) == (0, 100, 201, 301, 401)
