"""What the indicators' declarations share: the period's bounds, the state of those that look one bar back, sums of block sizes."""

from __future__ import annotations

from typing import Any

from handlers.features.blocks import TOTAL
from handlers.features.declare import Param

PERIOD_MAX = 10_000  # bars


def period(default: int, name: str = "period", low: int = 1) -> Param:
    """A number of bars."""
    return Param(name, "i8", default, low, PERIOD_MAX)


def ring(p: Any) -> int:
    """Slots of one `total` or `mean` over the period."""
    return TOTAL + int(p.period)


def first_value(p: Any) -> int:
    """Bars before a full period."""
    return int(p.period) - 1
