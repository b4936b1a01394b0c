"""ARCHITECTURE.md says what the code says, where it repeats it: the order's life and the places of the fields of a slot."""

from __future__ import annotations

import re

from handlers.domain import order
from tests.tidy.source import ROOT

PAGE = (ROOT / "ARCHITECTURE.md").read_text()


def test_the_diagram_of_an_orders_life_is_what_the_table_prints() -> None:
    assert re.findall(r"```mermaid\n(.*?)\n```", PAGE, re.S) == [order.diagram()]
