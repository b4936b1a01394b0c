"""Numbers read by the word are what the readers by the byte make of them, reasons included, and neither reads past its text."""

from __future__ import annotations

import random

import numpy as np

from handlers.domain.reasons import PRICE_OFF_GRID
from handlers.ingest.decimals import read_plain
from handlers.ingest.venues.levels import GRID, MESSAGE, read_decimal, rows_bound, text_spans, write_rows
from transport.compiled import load
from transport.records import BOOK_DELTA, empty
from transport.words import digits_in, first_bytes, number_in, plain_in

NUMBERS = 8_000
SPARE = bytes(24)  # with as much behind it a number is read by the word, without it by the byte
DAMAGE = b'0123456789.."-+eE \\]x\x00\n\x7f\x80\xff'


def number(chance: random.Random) -> bytes:
    """Mostly a price or quantity as venues write them, at times one that is too long, damaged, or none at all."""
    text = str(chance.randrange(10 ** chance.randrange(1, 10))).encode()
    if chance.random() < 0.8:
        digits = str(chance.randrange(10 ** chance.randrange(1, 10))).encode()
        text += b"." + digits[: chance.randrange(10)] + b"0" * chance.choice([0, 0, 1, 5, 7])
    if chance.random() < 0.3:
        at = chance.randrange(len(text) + 1)
        text = text[:at] + bytes([chance.choice(DAMAGE)]) + text[at + chance.randrange(2) :]
    return text


def array_of(text: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(text), np.uint8)


def test_words_of_text_are_counted_and_read_as_their_bytes_are(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5000):
        text = bytes(chance.choice(b'0123456789') if chance.random() < 0.9 else chance.randrange(256) for _ in range(8))
        word = np.uint64(int.from_bytes(text, "little"))
        digits = next((i for i, c in enumerate(text) if c not in b"0123456789"), 8)
        plain = next((i for i, c in enumerate(text) if c in b'"\\' or not 32 <= c < 127), 8)
        assert (digits_in(word), plain_in(word)) == (digits, plain), text
        if digits:
            assert number_in(np.uint64(int.from_bytes(text[:digits].rjust(8, b"0"), "little"))) == int(text[:digits])
            assert int(first_bytes(word, digits)).to_bytes(8, "little") == text[:digits].ljust(8, b"\0")


def test_a_number_with_text_behind_it_is_read_as_the_same_at_the_texts_end(seed: int) -> None:
    chance, plain = random.Random(seed), 0
    for _ in range(NUMBERS):
        text = b'"' + number(chance)[:20] + b'"'
        decimals, step = chance.randrange(10), chance.choice([1, 1, 1, 5, 25])
        long, short = array_of(text + SPARE), array_of(text)
        by_word = read_decimal(long, 0, len(text), decimals, step, PRICE_OFF_GRID)
        assert by_word == read_decimal(short, 0, len(text), decimals, step, PRICE_OFF_GRID), (text, decimals, step)
        assert read_plain(short, 1, decimals) == (0, -1)
        units, behind = read_plain(long, 1, decimals)
        plain += behind >= 0
        assert behind < 0 or step > 1 or (units, behind, 0) == by_word or behind > len(text)
    assert plain > NUMBERS // 4


def rows_for(sides: tuple[bytes, bytes], grid: np.ndarray) -> tuple[int, int, bytes]:
    """(rows, reason, their bytes) of a depth message of bids and asks."""
    texts = (sides[0], b"", sides[1], b"")
    message, rows = np.zeros(1, MESSAGE), empty(rows_bound(b"".join(texts), 1))
    message["kind"] = BOOK_DELTA
    used = write_rows(array_of(b"".join(texts) + SPARE), text_spans(texts, 0), message, grid, rows)
    return used, int(message["refused"][0]), rows[:used].tobytes()


def test_levels_are_the_same_rows_however_they_are_spaced(seed: int) -> None:
    """A blank between price and quantity is what the reader of whole levels leaves to the one of single numbers."""
    load(write_rows)
    chance, taken = random.Random(seed), 0
    for _ in range(2000):
        grid = np.zeros(1, GRID)
        grid["price_decimals"], grid["qty_decimals"] = chance.randrange(9), chance.randrange(9)
        grid["price_step"], grid["qty_step"] = chance.choice([1, 1, 1, 5]), chance.choice([1, 1, 1, 10])
        levels = [[(number(chance), number(chance)) for _ in range(chance.randrange(3))] for _ in range(2)]
        tight, wide = (
            [b"[" + b",".join(b'["' + p + b'",' + blank + b'"' + q + b'"]' for p, q in side) + b"]" for side in levels] for blank in (b"", b" ")
        )
        found = rows_for((tight[0], tight[1]), grid)
        assert found == rows_for((wide[0], wide[1]), grid), (tight, grid)
        taken += found[1] == 0
    assert taken > 200
