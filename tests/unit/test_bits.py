"""The highest set bit of a word, which the book's bitmaps and the long division search with."""

from __future__ import annotations

import random

import numpy as np

from handlers.domain.bits import highest_bit
from transport.compiled import kernel


@kernel
def _highest(words, out):
    for i in range(len(words)):
        out[i] = highest_bit(words[i])


def test_is_the_highest_of_every_bit_whatever_stands_below_it(seed: int) -> None:
    rng = random.Random(seed)
    words = [1 << bit | rng.getrandbits(bit) for bit in range(64) for _ in range(20)]
    words += [1 << bit for bit in range(64)] + [(1 << bit + 1) - 1 for bit in range(64)]
    out = np.zeros(len(words), np.int64)
    _highest(np.array(words, np.uint64), out)
    assert out.tolist() == [word.bit_length() - 1 for word in words]
