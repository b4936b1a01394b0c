"""What a run came to: counts, money and the series of the report, gathered from the rows as they are journaled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from engine.config import AccountConfig
from engine.journaling import Rows
from engine.loops import STAGES
from engine.observe.histogram import COUNTS, percentiles, upper_bounds
from handlers.domain import reasons
from transport.instruments import Instrument, plain
from transport.records import (
    AFTER_FILL, AT_END, BUY, COMMAND, FILL, GAP, MARKED, NAME_OF, ORDER, POSITION, REJECT, SET_POSITION, SYNTHETIC, TRADE,
)  # fmt: skip

TRADES_A_PIECE = 64  # points of the price series taken from each piece of the input log
PERCENTILES = (50, 90, 99, 99.9, 100)
PERCENTILE_NAMES = ("p50", "p90", "p99", "p99.9", "max")


MONEY_FIELDS = ("qty_lots", "cost", "realised", "fee", "unrealised", "if_flattened")
POSITION_FIELDS = ("strategy_id", "instrument_id", "action", "ts_seq_ns", *MONEY_FIELDS)
HELD_FIELDS = ("strategy_id", "instrument_id", "ts_seq_ns", "qty_lots")
FILL_FIELDS = ("instrument_id", "ts_seq_ns", "price_ticks", "side", "qty_lots")


def _columns(rows: Rows, where: np.ndarray[Any, Any], fields: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Some fields of the rows at `where`, as ints: a column at a time, for a slot at a time costs microseconds."""
    at = np.flatnonzero(where)
    return zip(*(rows[name][at].tolist() for name in fields), strict=True)


class Tally:
    """Folds input pieces and decision rows, in log order, on the journal's thread; `summary` and `series` once it has ended."""

    def __init__(self, instruments: Sequence[Instrument], strategies: Sequence[str], money_decimals: int) -> None:
        self.instruments, self.strategies, self.decimals = list(instruments), list(strategies), money_decimals
        self.kinds: Counter[int] = Counter()
        self.rejects: Counter[int] = Counter()
        self.inputs = self.orders = self.rejected = 0  # plain numbers: another thread may look at them at any time
        self.synthetic = False
        self.prices: dict[int, list[tuple[Any, Any]]] = {}
        self.fills: dict[int, list[tuple[int, int, int, int]]] = {}
        self.positions: dict[int, list[tuple[int, int]]] = {}
        self.nets: dict[tuple[int, int], int] = {}  # net money units of each account at its last mark
        self.worth = 0  # their sum
        self.marks: dict[int, int] = {}  # time -> what it was
        self.held: dict[tuple[int, int], int] = {}
        self.totals: Counter[int] = Counter()  # lots held of each instrument
        self.last: dict[tuple[int, int], dict[str, int]] = {}
        self.executions: Counter[tuple[int, int]] = Counter()

    def piece(self, rows: Rows) -> None:
        """Fold stamped input records."""
        kinds = rows["kind"]
        numbers = np.bincount(kinds, minlength=64)
        self.inputs += len(rows)
        self.kinds.update({k: int(n) for k, n in enumerate(numbers) if n})
        self.synthetic = self.synthetic or bool((rows["flags"] & SYNTHETIC).any())  # of any record: a piece may end anywhere
        if numbers[TRADE]:
            at = np.flatnonzero(kinds == TRADE)
            which = rows["instrument_id"][at]
            for i in np.unique(which):
                mine = at[which == i]
                mine = mine[:: max(1, len(mine) // TRADES_A_PIECE)]
                self.prices.setdefault(int(i), []).append((rows["ts_seq_ns"][mine].copy(), rows["price_ticks"][mine].copy()))
        if numbers[FILL]:
            for instrument, *fill in _columns(rows, kinds == FILL, FILL_FIELDS):
                self.fills.setdefault(instrument, []).append((fill[0], fill[1], fill[2], fill[3]))
        if numbers[REJECT]:
            self._refused(rows["reason"][kinds == REJECT])
        if numbers[COMMAND]:
            begun = (kinds == COMMAND) & (rows["action"] == SET_POSITION)
            for strategy, instrument, when, lots in _columns(rows, begun, HELD_FIELDS):
                self._hold((strategy, instrument), when, lots)

    def decisions(self, stage: str, rows: Rows) -> None:
        """Fold decision rows of a stage."""
        kinds = rows["kind"]
        why = rows["reason"][kinds == REJECT]
        self._refused(why if stage != "orders" else why[why != reasons.TABLE_FULL])  # which comes back as a report
        if stage != "orders":
            return
        self.orders += int(np.count_nonzero(kinds == ORDER))
        for strategy, instrument, action, when, *money in _columns(rows, kinds == POSITION, POSITION_FIELDS):
            self._position((strategy, instrument), action, when, dict(zip(MONEY_FIELDS, money, strict=True)))

    def _refused(self, why: np.ndarray[Any, Any]) -> None:
        self.rejected += len(why)
        self.rejects.update(why.tolist())

    def _position(self, account: tuple[int, int], action: int, when: int, money: dict[str, int]) -> None:
        self.last[account] = money
        if action == AFTER_FILL:
            self.executions[account] += 1
            self._hold(account, when, money["qty_lots"])
        if action in (MARKED, AT_END):
            net = money["realised"] + money["unrealised"] - money["fee"]
            self.worth += net - self.nets.get(account, 0)
            self.nets[account] = net
            self.marks[when] = self.worth

    def _hold(self, account: tuple[int, int], when: int, lots: int) -> None:
        """An account holds `lots` from `when` on: a point of its instrument's position over all strategies."""
        instrument = account[1]
        self.totals[instrument] += lots - self.held.get(account, 0)
        self.held[account] = lots
        self.positions.setdefault(instrument, []).append((when, self.totals[instrument]))

    def not_flattened(self) -> dict[str, int]:
        """Of a run that was to end flat: how many accounts still hold something, as a trouble; {} when none does."""
        open_accounts = sum(lots != 0 for lots in self.held.values())
        return {"NOT_FLATTENED": open_accounts} if open_accounts else {}

    def money(self, units: int) -> str:
        """Money units as exact decimal text."""
        return plain(Decimal(units).scaleb(-self.decimals))

    def equity(self, cash: Decimal) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(ts_ns, equity) at every mark, in whole currency, for drawing."""
        values = [float(cash) + worth / 10**self.decimals for worth in self.marks.values()]
        return np.array(list(self.marks), np.int64), np.array(values, np.float64)

    def accounts(self, terms: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """One entry per account that traded or holds something."""
        out = []
        for (strategy, i), row in sorted(self.last.items()):
            instrument = self.instruments[i]
            lots = row["qty_lots"]
            average = ""
            if lots:
                num, den = int(terms[i]["num"]), int(terms[i]["den"])
                average = plain((instrument.tick * row["cost"] * den / (lots * num)).quantize(instrument.tick / 100))
            out.append(
                {
                    "strategy": self.strategies[strategy - 1], "instrument": instrument.name,
                    "position": plain(instrument.qty(lots)), "average_price": average, "realised": self.money(row["realised"]),
                    "unrealised": self.money(row["unrealised"]), "fees": self.money(row["fee"]),
                    "fills": self.executions[(strategy, i)],
                }
            )  # fmt: skip
        return out

    def pnl(self, cash: Decimal, currency: str) -> dict[str, Any]:
        """Totals over all accounts; the two nets differ by what flattening at the end would cost."""
        rows = self.last.values()
        realised, fees = sum(r["realised"] for r in rows), sum(r["fee"] for r in rows)
        unrealised = sum(r["unrealised"] for r in rows)
        flattened = sum(r["if_flattened"] if r["qty_lots"] else 0 for r in rows)
        _, equity = self.equity(cash)
        peak = np.maximum.accumulate(np.append(float(cash), equity))
        return {
            "currency": currency, "realised": self.money(realised), "unrealised": self.money(unrealised), "fees": self.money(fees),
            "net_marked_to_mid": self.money(realised + unrealised - fees),
            "net_flattened": self.money(realised + flattened - fees),
            "max_drawdown": f"{float((peak - np.append(float(cash), equity)).max()):.2f}",
        }  # fmt: skip

    def money_told(self, account: AccountConfig, terms: np.ndarray[Any, Any]) -> dict[str, Any]:
        """What summary.json says of money."""
        return {"accounts": self.accounts(terms), "pnl": self.pnl(account.cash, account.currency)}

    def counts(self) -> dict[str, Any]:
        """Events by kind, orders, fills, rejects by reason."""
        return {
            "events": {NAME_OF[k]: n for k, n in sorted(self.kinds.items())},
            "inputs": self.inputs,
            "orders": self.orders,
            "fills": self.kinds[FILL],
            "rejects": {reasons.NAME[r]: n for r, n in sorted(self.rejects.items())},
            "synthetic": self.synthetic,
            "gaps": self.kinds[GAP],
        }

    def series(self, cash: Decimal) -> dict[str, Any]:
        """What the report draws."""
        names = [i.name for i in self.instruments]
        price = {
            names[i]: (np.concatenate([t for t, _ in parts]), np.concatenate([p for _, p in parts]) * float(self.instruments[i].tick))
            for i, parts in self.prices.items()
        }
        fills = {}
        for i, rows in self.fills.items():
            table = np.array(rows, np.int64)
            instrument = self.instruments[i]
            fills[names[i]] = (
                table[:, 0], table[:, 1] * float(instrument.tick), ["BUY" if s == BUY else "SELL" for s in table[:, 2]],
                table[:, 3] * float(instrument.lot),
            )  # fmt: skip
        held = {
            names[i]: (np.array([t for t, _ in rows]), np.array([q for _, q in rows]) * float(self.instruments[i].lot))
            for i, rows in self.positions.items()
        }
        times, worth = self.equity(cash)
        return {"price": price, "fills": fills, "position": held, "equity": (times, worth - float(cash))}


def latency_table(histograms: np.ndarray[Any, Any], cycles_per_ns: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """(table, series) of the stages that were timed, in ns."""
    table, series = {}, {}
    for name, row in zip(STAGES, histograms["bucket"], strict=True):
        samples = int(row[:COUNTS].sum())
        if samples:
            values = [round(v / cycles_per_ns) for v in percentiles(row, PERCENTILES)]
            table[name] = {**dict(zip(PERCENTILE_NAMES, values, strict=True)), "samples": samples}
            series[name] = (upper_bounds() / cycles_per_ns, row[:COUNTS])
    return table, series
