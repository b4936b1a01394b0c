"""What RISK counts as open, against sums made anew from all that was asked and told, over random orders, amends, cancels and reports.

The venue here answers late and in any order, also of one order; what it says adds up, and so must what RISK makes of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from handlers.domain import reasons
from tests.desk import Desk, place
from tests.stages import Fields
from transport.records import (
    ACCEPTED, ACK, AMEND, AMENDED, BUY, CANCEL, CANCEL_ALL, CANCEL_ORDER, CANCELLED, EXPIRED, FILL, FLATTEN, ORDER,
    REJECT, SELL,
)  # fmt: skip

LOT_UNITS = (3, 5)
POSITION_MAX, TOTAL_MAX = 60, 330
STEPS = 1200


@dataclass
class Sent:
    """An order with all that was asked of it and told about it; `left` and `alive` are the venue's own knowledge."""

    order_id: int
    strategy: int
    instrument: int
    side: int
    qty: int
    left: int = 0
    alive: bool = False
    amends: list[int] = field(default_factory=list)
    cancels: int = 0
    requests: list[tuple[int, int]] = field(default_factory=list)  # (kind, lots) on their way out
    answers: list[Fields] = field(default_factory=list)  # on their way back
    told: list[Fields] = field(default_factory=list)

    def answer(self, kind: int, action: int, qty: int, leaves: int) -> None:
        self.answers.append({"kind": kind, "action": action, "qty": qty, "leaves": leaves})

    def count(self, kind: int, action: int) -> int:
        return sum((a["kind"], a["action"]) == (kind, action) for a in self.told)

    # --- what the line can know of it, from scratch -----------------------------------------------------------------------
    def filled(self) -> int:
        return sum(a["qty"] for a in self.told if a["kind"] == FILL)

    def amending(self) -> bool:
        return len(self.amends) > self.count(ACK, AMENDED) + self.count(REJECT, AMEND)

    def cancelling(self) -> bool:
        return self.cancels > self.count(REJECT, CANCEL)

    def may_still_fill(self) -> int:
        qty = self.qty + sum(a["leaves"] - a["qty"] for a in self.told if (a["kind"], a["action"]) == (ACK, AMENDED))
        if self.amending():
            qty = max(qty, self.amends[-1])
        ended = any((a["kind"], a["action"]) in ((ACK, CANCELLED), (ACK, EXPIRED), (REJECT, 0)) for a in self.told)
        ended |= any(a["kind"] == FILL and not a["leaves"] for a in self.told)
        return 0 if ended else qty - self.filled()


class Venue:
    """Takes a request or makes an execution at random; every answer goes into its order's `answers`."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def take(self, o: Sent) -> None:
        kind, lots = o.requests.pop(self.chance.randrange(len(o.requests)))
        if kind == ORDER:
            o.alive = self.chance.random() < 0.9
            o.left = lots
            o.answer(ACK if o.alive else REJECT, ACCEPTED if o.alive else 0, lots, lots)
        elif not o.alive or self.chance.random() < 0.15:
            o.answer(REJECT, kind, lots, 0)
        elif kind == CANCEL:
            o.answer(ACK, CANCELLED, lots, o.left)
            o.alive = False
        else:
            before = o.left
            o.left = max(0, lots - self.done(o))
            o.answer(ACK, AMENDED, before, o.left)
            o.alive = o.left > 0

    def done(self, o: Sent) -> int:
        return sum(a["qty"] for a in [*o.told, *o.answers] if a["kind"] == FILL)

    def execute(self, o: Sent) -> None:
        if self.chance.random() < 0.05:
            o.answer(ACK, EXPIRED, o.left, o.left)
            o.alive = False
            return
        lots = self.chance.randint(1, o.left)
        o.left -= lots
        o.answer(FILL, 0, lots, o.left)
        o.alive = o.left > 0


class Rig:
    """RISK, the venue, and the sums that RISK must agree with."""

    def __init__(self, seed: int, shuffled: bool) -> None:
        self.chance, self.shuffled = random.Random(seed), shuffled
        self.venue = Venue(self.chance)
        big = {"rate": 10**6, "burst": 10**6, "open_orders_max": 4000, "stale_ns": 0}
        self.desk = Desk(position_max_lots=POSITION_MAX, position_total_max=TOTAL_MAX, **big)
        self.desk.state.limits["lot_units"] = LOT_UNITS
        self.orders: dict[int, Sent] = {}
        self.held = {(s, i): 0 for s in (1, 2) for i in range(2)}
        self.reasons: set[int] = set()

    # --- sums made anew ---------------------------------------------------------------------------------------------------
    def open_lots(self, side: int, instrument: int, strategy: int = 0) -> int:
        mine = [o for o in self.orders.values() if (o.side, o.instrument) == (side, instrument)]
        return sum(o.may_still_fill() for o in mine if strategy in (0, o.strategy))

    def net(self, instrument: int) -> int:
        return self.held[1, instrument] + self.held[2, instrument]

    def gross(self, instrument: int) -> int:
        net = self.net(instrument)
        return max(abs(net + self.open_lots(BUY, instrument)), abs(net - self.open_lots(SELL, instrument)))

    def refused(self, instrument: int, side: int, lots: int) -> int:
        """Reason for which so many more lots may not be asked for, or 0."""
        sign = 1 if side == BUY else -1
        worst = sign * self.net(instrument) + self.open_lots(side, instrument) + lots
        if worst <= 0 or lots == 0:
            return 0
        if worst > POSITION_MAX:
            return reasons.POSITION_LIMIT
        other = 1 - instrument
        total = worst * LOT_UNITS[instrument] + self.gross(other) * LOT_UNITS[other]
        return reasons.TOTAL_POSITION_LIMIT if total > TOTAL_MAX else 0

    def check(self) -> None:
        state = self.desk.state
        for i in range(2):
            e = state.exposures[i]
            assert int(e["net_lots"]) == self.net(i)
            assert (int(e["open_buy_lots"]), int(e["open_sell_lots"])) == (self.open_lots(BUY, i), self.open_lots(SELL, i))
            for s in (1, 2):
                account = (s - 1) * 2 + i
                assert int(state.positions[account]["lots"]) == self.held[s, i]
                counted = tuple(int(state.open_lots[account][name]) for name in ("buy", "sell"))
                assert counted == (self.open_lots(BUY, i, s), self.open_lots(SELL, i, s))
        still = {n for n, o in self.orders.items() if o.may_still_fill()}
        assert int(state.line[0]["open_orders"]) == len(still)
        assert set(state.table["order_id"].tolist()) - {0} == still
        assert int(state.line[0]["gross_units"]) == sum(self.gross(i) * LOT_UNITS[i] for i in range(2))

    # --- what happens -----------------------------------------------------------------------------------------------------
    def note_order(self, row: Fields) -> None:
        names = ("order_id", "strategy_id", "instrument_id", "side", "qty_lots")
        o = Sent(*(int(row[name]) for name in names))
        o.requests.append((ORDER, o.qty))
        self.orders[o.order_id] = o

    def place(self) -> None:
        side, lots = self.chance.choice((BUY, SELL)), self.chance.randint(1, 25)
        instrument, strategy = self.chance.randrange(2), self.chance.choice((1, 2))
        wanted = self.refused(instrument, side, lots)
        row = self.desk.ask(place(side, lots, 1000, instrument, strategy))[0]
        assert (int(row["kind"]), int(row["reason"])) == ((REJECT, wanted) if wanted else (ORDER, 0))
        self.reasons.add(wanted)
        if not wanted:
            self.note_order(row)

    def amend(self) -> None:
        o = self.chance.choice(list(self.orders.values())[-20:])
        lots = self.chance.randint(1, 40)
        row = self.desk.amend(lots, 1000, o.order_id, strategy=o.strategy, instrument=o.instrument)[0]
        left = o.may_still_fill()
        wanted = reasons.UNKNOWN_ORDER if not left else 0
        if not wanted:
            wanted = reasons.INVALID_TRANSITION if o.amending() or o.cancelling() else 0
        if not wanted:
            wanted = self.refused(o.instrument, o.side, max(0, lots - left - o.filled()))
        assert (int(row["kind"]), int(row["reason"])) == ((REJECT, wanted) if wanted else (AMEND, 0))
        self.reasons.add(wanted)
        if not wanted:
            o.amends.append(lots)
            o.requests.append((AMEND, lots))

    def cancel(self, orders: list[Sent]) -> None:
        for o in orders:
            if o.may_still_fill() and not o.cancelling():  # else ORDERS does not send it
                o.cancels += 1
                o.requests.append((CANCEL, o.qty))

    def ask_cancel(self) -> None:
        o = self.chance.choice(list(self.orders.values())[-20:])
        rows = self.desk.ask(place(o.side, 0, 0, o.instrument, o.strategy, action=CANCEL_ORDER, order_id=o.order_id))
        assert rows["kind"].tolist() == [CANCEL]
        self.cancel([o])

    def command(self) -> None:
        flat = self.chance.random() < 0.5
        rows = self.desk.command(FLATTEN if flat else CANCEL_ALL)
        self.cancel(list(self.orders.values()))
        assert len(rows) == 1 + (sum(lots != 0 for lots in self.held.values()) if flat else 0)
        for row in rows[1:]:
            self.note_order(row)

    def tell(self, o: Sent) -> None:
        told = o.answers.pop(self.chance.randrange(len(o.answers)) if self.shuffled else 0)
        o.told.append(told)
        if told["kind"] == FILL:
            self.held[o.strategy, o.instrument] += told["qty"] if o.side == BUY else -told["qty"]
        self.desk.report(
            told["kind"], o.side, told["qty"], told["leaves"], told["action"], o.strategy, instrument=o.instrument,
            order_id=o.order_id, cash=told["qty"] * 1000,
        )  # fmt: skip

    def step(self) -> None:
        orders = list(self.orders.values())
        out, alive = [o for o in orders if o.requests], [o for o in orders if o.alive]
        back = [o for o in orders if o.answers]
        draw = self.chance.random()
        if draw < 0.22 or not orders:
            self.place()
        elif draw < 0.36:
            self.amend()
        elif draw < 0.42:
            self.ask_cancel()
        elif draw < 0.425:
            self.command()
        elif draw < 0.62 and out:
            self.venue.take(self.chance.choice(out))
        elif draw < 0.72 and alive:
            self.venue.execute(self.chance.choice(alive))
        elif back:
            self.tell(self.chance.choice(back))

    def settle(self) -> None:
        """Everything on its way arrives, out and back."""
        for o in self.orders.values():
            while o.requests:
                self.venue.take(o)
            while o.answers:
                self.tell(o)
                self.check()


@pytest.mark.parametrize("shuffled", [False, True], ids=["told in order", "told in any order"])
@pytest.mark.parametrize("case", range(4))
def test_open_lots_and_orders_are_exact_after_every_input(case: int, shuffled: bool, seed: int) -> None:
    rig = Rig(seed + case, shuffled)
    for _ in range(STEPS):
        rig.step()
        rig.check()
    rig.settle()
    for i in range(2):
        for side, name in ((BUY, "open_buy_lots"), (SELL, "open_sell_lots")):
            at_venue = sum(o.left for o in rig.orders.values() if o.alive and (o.side, o.instrument) == (side, i))
            assert int(rig.desk.state.exposures[i][name]) == at_venue
    assert int(rig.desk.state.line[0]["open_orders"]) == sum(o.alive for o in rig.orders.values())
    wanted = {0, reasons.POSITION_LIMIT, reasons.TOTAL_POSITION_LIMIT, reasons.UNKNOWN_ORDER, reasons.INVALID_TRANSITION}
    assert rig.reasons == wanted
