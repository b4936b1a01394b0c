"""What the declarations over events share: bounds of their parameters, what an event is, the side of a trade.

Across a gap there is no difference. A sum over a window of differences (order flow, realised variance) begins again, without a value,
with what comes behind it; a mean over single observations (Kyle's lambda, Roll's spread, VPIN in bulk) leaves out those that the gap
interrupts. What is of one event or trade by itself, and the rates and shares of trades, go on: trades that were lost count nowhere.
"""

from __future__ import annotations

from handlers.features.declare import LEVELS_MAX, ON_GAP, ON_TRADE, Param
from transport.compiled import kernel
from transport.records import BUY, SELL

PERIOD_MAX = 10_000  # entries of a window
MS_MAX = 86_400_000  # a day
NS_PER_MS = 1_000_000
DECAY = Param("decay", "f8", 1.0, 0.0, 1.0)  # weight of a level in that of the level before it


def levels(default: int) -> Param:
    """Levels of the book a side, the best among them."""
    return Param("levels", "i8", default, 1, LEVELS_MAX)


def period(default: int, low: int = 1) -> Param:
    """A number of entries: trades, returns, buckets, as the feature says."""
    return Param("period", "i8", default, low, PERIOD_MAX)


@kernel(inline=True)
def has_book(x):
    """Whether both sides of the book are known."""
    return x.mid == x.mid


@kernel(inline=True)
def is_trade(x):
    """Whether the event is a trade; else the book has changed, or is not known any more."""
    return x.kind == ON_TRADE


@kernel(inline=True)
def is_gap(x):
    """Whether something was missed before the next event: a book that is not known either, and trades it may be."""
    return x.kind == ON_GAP


@kernel
def sign_of(x):
    """+1.0 of a trade that bought, -1.0 of one that sold: as the venue says, else by the mid it is above or below (Lee & Ready 1991).

    0.0 at the mid, and where neither says.
    """
    if x.side == BUY:
        return 1.0
    if x.side == SELL:
        return -1.0
    if x.price > x.mid:
        return 1.0
    return -1.0 if x.price < x.mid else 0.0
