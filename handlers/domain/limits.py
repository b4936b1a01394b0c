"""What numbers of a record the line holds: INGEST refuses what is beyond, and all behind it counts on that."""

from __future__ import annotations

PRICE_MAX = 2**40  # ticks, either sign
QTY_MAX = 2**50  # lots
CLOCKS_APART_NS = 3600 * 10**9  # clocks differ by seconds; a time that is written in another zone, or unit, by hours
