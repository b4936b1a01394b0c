"""ARCHITECTURE.md says what the code says, where it repeats it: the order's life and the places of the fields of a slot."""

from __future__ import annotations

import re

from handlers.domain import order
from tests.tidy.source import ROOT
from transport import records
from transport.records import HEADER_BYTES, KIND_OF, Record, fields_of

PAGE = (ROOT / "ARCHITECTURE.md").read_text()
SLOT = PAGE.partition("## The slot")[2].partition("\n## ")[0]
Places = set[tuple[int, str, str]]  # offset, name, numpy type


def rows_under(heading: str) -> list[list[str]]:
    """Cells of the table whose first row begins with `heading`, that row first and the rule under it left out."""
    text = SLOT[SLOT.index(heading) :].partition("\n\n")[0]
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    return [head, *rows]


def typed(kind: str, times: str = "") -> str:
    """The page's `u4` or `f8 × 8` as the records have it."""
    bare = kind if kind == "u1" else f"<{kind}"
    return f"({times},){bare}" if times else bare


def header_of_page() -> Places:
    found: Places = set()
    for at, names, kind in re.findall(r"\| (\d+) \| ((?:`\w+`(?:, )?)+) (\w\d) \|", SLOT):
        for k, name in enumerate(re.findall(r"\w+", names)):
            found.add((int(at) + k * int(kind[1]), name, typed(kind)))
    return found


def shared_of_page() -> dict[str, tuple[int, str]]:
    """Fields whose place and type the sentence above the table gives, once for all kinds."""
    said = re.search(r"i8 unless said \((.*?) at ([\d, ]+)\)", SLOT.replace("\n", " "))
    assert said
    kinds: dict[str, str] = {}
    for names, kind in re.findall(r"((?:`\w+`(?: and )?)+) (\w\d)", said[1]):
        kinds |= dict.fromkeys(re.findall(r"`(\w+)`", names), kind)
    places = [int(at) for at in said[2].split(", ")]
    return {name: (at, typed(kind)) for (name, kind), at in zip(kinds.items(), places, strict=True)}


def cell_of_page(text: str, column: int) -> Places:
    """Fields of one cell: `name`, `name f8 × 8`, `name u4 at 116`, `name (a remark)`, several with commas."""
    shared, found = shared_of_page(), set()
    for field in filter(None, text.split(", ")):
        said = re.fullmatch(r"(\w+)(?: (\w\d)(?: × (\d+))?)?(?: at (\d+))?(?: \(\w+\))?", field)
        assert said, f"{field!r} at {column} is no field"
        at, kind = shared.get(said[1], (int(said[4] or column), typed(said[2] or "i8", said[3] or "")))
        assert column <= at < column + 8, f"{said[1]} stands in the column of {column}"
        found.add((at, said[1], kind))
    return found


def kinds_of_page() -> dict[tuple[int, str], Places]:
    head, *rows = rows_under("| kind |")
    columns = [int(at) for at in head[1:]]
    order_row = next(cells for cells in rows if "17 Order" in cells[0])
    found: dict[tuple[int, str], Places] = {}
    for kinds, *cells in rows:
        places: Places = set()
        for at, ours, orders in zip(columns, cells, order_row[1:], strict=True):
            places |= cell_of_page(orders if ours == "as Order" else ours, at)
        found |= {(int(tag), name): places for tag, name in re.findall(r"(\d+) (\w+)", kinds)}
    return found


def own_fields(kind: type[Record]) -> Places:
    return {(at, name, np_type) for name, np_type, at in fields_of(kind) if at >= HEADER_BYTES}


def test_the_diagram_of_an_orders_life_is_what_the_table_prints() -> None:
    assert re.findall(r"```mermaid\n(.*?)\n```", PAGE, re.S) == [order.diagram()]


def test_the_header_stands_where_the_page_says() -> None:
    assert header_of_page() == {(at, name, np_type) for name, np_type, at in fields_of(Record)}


def test_flags_have_the_values_that_the_page_gives() -> None:
    said = re.findall(r"`([A-Z_]+)` (\d+)", SLOT)
    assert {name: int(value) for name, value in said} == {
        name: getattr(records, name) for name in ("EVENT_END", "EVENT_FIRST", "WARMUP", "SYNTHETIC", "SUSPECT")
    }


def test_the_fields_of_every_kind_stand_where_the_page_says() -> None:
    for (tag, name), places in kinds_of_page().items():
        assert KIND_OF[tag].__name__.removesuffix("Row") == name
        assert places == own_fields(KIND_OF[tag]), name


def test_the_page_leaves_no_kind_out() -> None:
    aside = re.search(r"^(12 Mark.*?) have places too", SLOT, re.M)
    assert aside
    named = [*kinds_of_page(), *((int(tag), name) for tag, name in re.findall(r"(\d+) (\w+)", aside[1]))]
    assert sorted(named) == [(tag, kind.__name__.removesuffix("Row")) for tag, kind in sorted(KIND_OF.items())]
