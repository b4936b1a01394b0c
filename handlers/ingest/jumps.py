"""A receive time that stands alone in the future: which lines of a source are refused for it, said once for all decoders.

A feed's time never goes back. One line stamped 2099 in a capture of 2026 would take every later line of its source along, and
call the timers of 73 years. So a line over a day ahead of its source's time, the greatest accepted so far, has to be confirmed by
the next one, whose time is then at most a day earlier:

    10:00  10:01  2099   10:02           refused: 10:02 does not confirm it
    10:00  10:01 | two days | 10:00  10:01    a pause: the line behind it confirms it, nothing is lost
    2099   10:00  10:01                  refused: the first line of a source has nothing before it, but is asked as well
    10:00  10:01  2099                   refused: the last line has nothing to confirm it (a source of one line is taken)

Lines without a time that can be read are passed over. Two such lines in a row confirm each other; what they cost is bounded where
timers are made, in the sequencer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

JUMP_NS = 86_400 * 10**9  # a day: far beyond any clock's correction; a longer pause of the market costs no more than a look ahead
CONFIRM_LINES = 16  # how far behind the next time is looked for: bounds what waits for it; damage of more lines confirms nothing
NO_TIME = -1  # cannot be read
JUMPED = -2  # refused

Times = NDArray[np.int64]  # receive time in ns of each line of a source, or NO_TIME


def jumps(times: Times, feed_ns: int, jump_ns: int = JUMP_NS) -> NDArray[np.bool_]:
    """Which of `times`, with which the source ends, are refused; `feed_ns` is the greatest time accepted before them, or NO_TIME."""
    timed = np.flatnonzero(times != NO_TIME)
    known = times[timed]
    follows = np.full(len(timed), NO_TIME)
    near = np.flatnonzero(np.diff(timed) <= CONFIRM_LINES)
    follows[near] = known[near + 1]
    refused = np.zeros(len(times), np.bool_)
    at = 0
    for i in np.flatnonzero(follows < known - jump_ns).tolist():
        feed_ns = max(feed_ns, int(known[at:i].max(initial=NO_TIME)))
        alone = feed_ns == follows[i] == NO_TIME
        refused[timed[i]] = known[i] > feed_ns + jump_ns and not alone
        at = i + int(refused[timed[i]])  # an accepted one counts among those before the next
    return refused


class JumpRule:
    """The rule along one source, given in batches; how it is cut into them does not show."""

    def __init__(self, jump_ns: int = JUMP_NS) -> None:
        """`jump_ns` is longer for a source that has a line now and then: of daily bars each is a jump of a day, on Mondays of three."""
        self._jump_ns = jump_ns
        self.feed_ns = NO_TIME  # greatest time accepted

    def settle(self, times: Times, final: bool) -> Times:
        """The times of as many of `times` as are decided, JUMPED where refused; all of them if `final`, nothing coming behind.

        The rest, one line that waits to be confirmed and what cannot be read behind it, at most CONFIRM_LINES in all, is to be
        given again, in front of what follows it.
        """
        told = np.where(jumps(times, self.feed_ns, self._jump_ns), JUMPED, times)
        if not final:
            told = told[: self._waiting(times, told)]
        self.feed_ns = max(self.feed_ns, int(told.max(initial=NO_TIME)))
        return told

    def _waiting(self, times: Times, told: Times) -> int:
        """Place of the line that what comes behind `times` may confirm or refuse; their number if there is none."""
        timed = np.flatnonzero(times != NO_TIME)
        if not len(timed) or len(times) - timed[-1] > CONFIRM_LINES:
            return len(times)
        last = int(timed[-1])
        before = max(self.feed_ns, int(told[:last].max(initial=NO_TIME)))
        return last if times[last] > before + self._jump_ns else len(times)
