"""The 128 bytes of every kind, against struct formats written by hand; what other programs send is decoded or refused."""

from __future__ import annotations

import random
import struct
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from msgspec import Meta

from transport import records
from transport.records import (
    FEATURE, HEADER_BYTES, KIND_OF, KINDS, LAYOUT_HASH, NAME_OF, REC, SLOT_BYTES, VALUES_PER_SLOT, Feature, Intent, Order, Record,
    Timer, Trade, copied, decode, empty, encode, fields_of, layout_hash, long_dtype, to_slot, to_struct, union_dtype,
)  # fmt: skip

HEADER = "4qIHBBHBBHBB"
OWN = {  # by kind, in the order of the fields: q int64, d float64, I uint32, H uint16, B uint8, x padding
    "Trade": "2q16xq24x2q", "Quote": "5q24x2q", "BookDelta": "5q24x2q", "BookSnapshot": "5q24x2q", "Bar": "10q",
    "InstrumentRow": "10q", "Status": "q28xH26x2q", "Gap": "3q12xH26x2q", "Timer": "2q64x", "Command": "3q8xI44x", "Start": "5q40x",
    "Mark": "q72x", "Feature": "8d2Iq", "Forecast": "8d2q", "Signal": "2d16xI44x", "Intent": "4qIHBB40x", "Order": "4qIHBB40x",
    "Cancel": "4qIH42x", "Amend": "4qIH42x", "Ack": "4qIHBB40x", "Reject": "4qIHBB2q24x", "Fill": "4qIHBB2q8xq8x",
    "Position": "4qIHBB4q8x", "Verdict": "q28xH42x", "Checkpoint": "2q64x",
    "Connection": "4q40xq",
}  # fmt: skip
BITS = {"u1": 8, "<u2": 16, "<u4": 32}
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)


def random_value(np_type: str, chance: random.Random) -> Any:
    if np_type in BITS:
        return chance.choice((0, 1, 2 ** BITS[np_type] - 1, chance.getrandbits(BITS[np_type])))
    if np_type == "<i8":
        return chance.choice((0, -1, 2**63 - 1, -(2**63), chance.getrandbits(64) - 2**63))
    one = lambda: chance.choice((0.0, -0.0, 1.5, 1e308, -5e-324, chance.random()))  # noqa: E731
    return one() if np_type == "<f8" else [one() for _ in range(VALUES_PER_SLOT)]


def random_record(kind: type[Record], chance: random.Random) -> Record:
    values = {name: random_value(np_type, chance) for name, np_type, _ in fields_of(kind)}
    return kind(**{**values, "kind": kind.__struct_config__.tag})


def slot_of(record: Record) -> np.ndarray[Any, Any]:
    rows = empty(1)
    rows.view(np.uint8)[:] = 0xFF  # what was there before leaves nothing
    to_slot(record, rows[0:1].reshape(()))
    return rows


def packed(record: Record) -> bytes:
    """The slot by the formats above."""
    flat: list[Any] = []
    for name in record.__struct_fields__:
        value = getattr(record, name)
        flat += value if isinstance(value, list) else [value]
    return struct.pack(f"<{HEADER}{OWN[type(record).__name__]}", *flat)


# --- layout ---------------------------------------------------------------------------------------------------------------
@kinds
def test_slot_of_every_kind_has_the_bytes_that_its_format_says(kind: type[Record], seed: int) -> None:
    chance = random.Random(seed)
    assert struct.calcsize(f"<{HEADER}") == HEADER_BYTES
    for _ in range(200):
        record = random_record(kind, chance)
        assert slot_of(record).tobytes() == packed(record), seed
        assert len(packed(record)) == SLOT_BYTES


def test_golden_bytes_of_a_trade() -> None:
    trade = Trade(
        seq=1, ts_event_ns=2, ts_recv_ns=3, ts_seq_ns=4, instrument_id=5, source_id=16, kind=1, flags=1, row=7, part=0, parts=1,
        epoch=9, side=1, action=0, price_ticks=-2, qty_lots=258, conditions=2**31, venue_seq=11, origin=12,
    )  # fmt: skip
    assert slot_of(trade).tobytes().hex() == (
        "0100000000000000" "0200000000000000" "0300000000000000" "0400000000000000" "05000000" "1000" "01" "01" "0700" "00" "01" "0900"
        "01" "00" "feffffffffffffff" "0201000000000000" + "00" * 16 + "0000008000000000" + "00" * 24 + "0b00000000000000" "0c00000000000000"
    )  # fmt: skip


def test_layout_hash_and_tags_are_those_of_every_journal_written_so_far() -> None:
    """A change here is a change of layout: older logs and tapes are refused by it, so it is made on purpose or not at all."""
    assert f"{LAYOUT_HASH:016x}" == "448d5e263ed9c062"
    assert [NAME_OF[tag] for tag in range(1, 27)] == list(OWN)


def test_any_change_of_a_field_its_place_or_a_tag_changes_the_layout_hash() -> None:
    seen = {LAYOUT_HASH, layout_hash(KINDS[:-1]), layout_hash((KINDS[1], KINDS[0], *KINDS[2:]))}
    fields = [(name, hint) for name, hint in records.get_type_hints(Trade, include_extras=True).items() if name in Trade.__annotations__]
    for changed, tag in (
        ([("size_lots", hint) if name == "qty_lots" else (name, hint) for name, hint in fields], 1),
        ([(name, records.U32) if name == "qty_lots" else (name, hint) for name, hint in fields], 1),
        ([fields[1], fields[0], *fields[2:]], 1),
        (fields, 99),
    ):
        other = msgspec.defstruct("Trade", changed, bases=(Record,), frozen=True, array_like=True, tag=tag)
        seen.add(layout_hash((other, *KINDS[1:])))
    assert len(seen) == 7


@kinds
def test_every_field_stands_where_the_union_has_it_on_its_alignment_and_over_no_other(kind: type[Record]) -> None:
    end = 0
    assert REC.fields is not None
    for name, np_type, at in fields_of(kind):
        dtype = np.dtype(np_type)
        assert REC.fields[name][:2] == (dtype, at)
        assert at >= end and at % dtype.base.itemsize == 0
        end = at + dtype.itemsize
    assert end <= SLOT_BYTES == REC.itemsize


def struct_with(*fields: tuple[str, Any], tag: int = 99) -> type[Record]:
    made: type[Record] = msgspec.defstruct("Other", fields, bases=(Record,), frozen=True, array_like=True, tag=tag)
    return made


def test_a_declaration_that_cannot_hold_is_refused() -> None:
    at = lambda np_type, place: Annotated[int, Meta(extra={"np": np_type, "at": place})]  # noqa: E731
    with pytest.raises(TypeError, match=r"Other.b overlaps the field before it"):
        fields_of(struct_with(("a", records.I64), ("b", at("<u4", 52))))
    with pytest.raises(TypeError, match=r"Other.a is not aligned"):
        fields_of(struct_with(("a", at("<i8", 52))))
    with pytest.raises(TypeError, match="Other needs 136 bytes, a slot has 128"):
        fields_of(struct_with(("a", at("<i8", 120)), ("b", records.I64)))
    with pytest.raises(TypeError, match=r"Other.qty_lots is .*64.*, another kind has it as .*56"):
        union_dtype((*KINDS, struct_with(("a", at("<i8", 56)), ("qty_lots", at("<i8", 64)))))


# --- codec ----------------------------------------------------------------------------------------------------------------
@kinds
def test_msgpack_and_slots_give_back_every_record(kind: type[Record], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        record = random_record(kind, chance)
        assert decode(encode(record)) == record, seed
        assert to_struct(slot_of(record)[0]) == record, seed


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(Trade, "side", 256), (Trade, "instrument_id", 2**32), (Trade, "row", -1), (Order, "reason", 2**16), (Order, "qty_lots", 2**63),
     (Trade, "seq", "1"), (Order, "price_ticks", 1.5), (Feature, "values", [0.0] * 7)],
)  # fmt: skip
def test_a_message_with_a_number_that_its_field_cannot_hold_is_refused(kind: type[Record], field: str, value: object) -> None:
    names = kind.__struct_fields__
    message = msgspec.msgpack.decode(encode(random_record(kind, random.Random(1))))
    message[1 + names.index(field)] = value
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode(message))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\x01\x02\x03", msgspec.msgpack.encode([99, *range(14)]), encode(Timer(*[0] * 16))[:-1]])
def test_a_message_that_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)


def test_a_slot_of_no_kind_has_no_struct() -> None:
    with pytest.raises(KeyError):
        to_struct(empty(1)[0])
    assert 0 not in KIND_OF


# --- arrays ---------------------------------------------------------------------------------------------------------------
def test_empty_slots_are_zero_and_begin_on_a_cache_line() -> None:
    for count in (1, 7):
        rows = empty(count)
        assert rows.shape == (count,) and rows.dtype == REC
        assert rows.ctypes.data % 64 == 0 and not rows.tobytes().strip(b"\0")
    assert empty(0).shape == (0,)


def test_copied_takes_whole_slots_and_shares_no_memory(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = empty(50)
    rows.view(np.uint8)[:] = rng.integers(0, 256, 50 * SLOT_BYTES)
    mask = rng.random(50) < 0.5
    for where, expected in ((slice(None), range(50)), (mask, np.flatnonzero(mask)), ([3, 3, 0], [3, 3, 0])):
        out = copied(rows, where)
        assert out.tobytes() == b"".join(rows[k].tobytes() for k in expected)
        assert out.dtype == REC and not np.shares_memory(out, rows)


def test_long_row_shows_its_first_slot_and_the_values_of_all() -> None:
    rows = empty(6)
    rows["seq"], rows["kind"] = [7, 7, 7, 8, 8, 8], FEATURE
    rows["part"], rows["parts"] = [0, 1, 2] * 2, 3
    rows["values"] = np.arange(48).reshape(6, 8)
    long = rows.view(long_dtype(3))
    assert long["seq"].tolist() == [7, 8]
    assert [long[name][1].tolist() for name in ("values", "values1", "values2")] == np.arange(24, 48).reshape(3, 8).tolist()


def test_intents_and_orders_share_their_places() -> None:
    intent = random_record(Intent, random.Random(3))
    assert packed(intent)[48:] == packed(Order(**{name: getattr(intent, name) for name in Order.__struct_fields__}))[48:]
