"""What the cells of a table say of ticks and lots: the decimals that they need, those aside that floating point has left.

    61800.3, 61800.25, 0.30000000000000004      two decimals: the third cell has more than 15 digits

A double keeps 15 digits of any decimal; programs that print more show 0.1 + 0.2 as 0.30000000000000004. So cells of more than
DIGITS_MAX digits tell no grid. Where they lie off the grid of the others they are refused when they are read, each counted, as long as
they are few: one, or one in NOISY_SHARE. Where they are more, or there are no others, the numbers were computed or are longer than
doubles: then nothing tells the step, and the user is asked for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from handlers.ingest.decimals import decimals_in, digits_in
from transport.compiled import kernel

DECIMALS_MAX = 18  # what 64 bits can count
DIGITS_MAX = 15  # of a decimal that a double gives back as it was (DBL_DIG of C)
NOISY_SHARE = 100
_LONGEST = 32  # decimals beyond are counted as so many
TALLY = np.dtype(
    [
        ("cells", "i8"),
        ("most", "i8"),  # decimals of the cells of at most DIGITS_MAX digits
        ("long", "i8", (_LONGEST,)),  # cells of more digits, by their decimals
        ("column", "i8"),  # of the last of those
    ]
)


class Seen(NamedTuple):
    """Decimals of a symbol's prices and of its quantities, and the place of the column that leaves them untold, -1 for none."""

    price: int = 0
    qty: int = 0
    price_untold: int = -1
    qty_untold: int = -1


@kernel
def tell_cell(tally: Any, text: Any, at: Any, end: Any, column: Any) -> None:
    """Count the cell that fills [at, end)."""
    tell_decimals(tally, np.int64(decimals_in(text, at, end)), np.int64(digits_in(text, at, end)), column, np.int64(1))


@kernel
def tell_decimals(tally: Any, decimals: Any, digits: Any, column: Any, cells: Any) -> None:
    """Count `cells` cells of so many decimals and digits."""
    tally.cells += cells
    if digits > DIGITS_MAX:
        tally.long[min(decimals, _LONGEST - 1)] += cells
        tally.column = column
    else:
        tally.most = max(tally.most, decimals)


@kernel
def tell_values(tallies: Any, which: Any, decimals: Any, digits: Any, cells: Any, column: Any) -> None:
    """Count values in one tally, each of so many decimals and digits and in so many cells."""
    for i in range(len(cells)):
        tell_decimals(tallies[which], decimals[i], digits[i], column, cells[i])


def decimals_of(tally: Any) -> tuple[int, int]:
    """(decimals, -1), or (decimals of the cells that are not too long, column at fault) where those do not tell the step."""
    most, cells = int(tally["most"]), int(tally["cells"])
    off, long = int(tally["long"][most + 1 :].sum()), int(tally["long"].sum())
    untold = off > max(1, cells // NOISY_SHARE) or (off > 0 and long == cells)
    return min(most, DECIMALS_MAX), int(tally["column"]) if untold else -1


def seen(prices: Any, quantities: Any) -> Seen:
    """Of the two tallies of a symbol."""
    (price, price_untold), (qty, qty_untold) = decimals_of(prices), decimals_of(quantities)
    return Seen(price, qty, price_untold, qty_untold)
