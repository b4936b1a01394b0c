"""One GET of a venue's REST interface, and how long to wait before it is tried again.

It blocks, and is called on a thread of its own. Addresses on the loopback are reached directly, whatever proxy the environment names.
"""

from __future__ import annotations

import random
import ssl
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT_S = 10.0
BODY_BYTES_MAX = 1 << 26
FIRST_S, LONGEST_S = 0.5, 30.0  # of the back-off
AFTER_MAX_S = 300.0  # a venue's own word for how long to keep away is believed up to this
LIMITED = (418, 429, 503)  # statuses that may come with Retry-After; 418 is Binance's for who went on after a 429
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Answer(NamedTuple):
    """`status` 0: no answer came, and `body` says why in words; `after_s`: the venue's word for when to come again, 0 without one."""

    status: int
    body: bytes
    after_s: float = 0.0


def get(url: str) -> Answer:
    """The answer to a GET of `url`; never raises for what a network or a server may do."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=ssl.create_default_context())]
    if urlsplit(url).hostname in LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_S) as answer:
            body = answer.read(BODY_BYTES_MAX + 1)
            if len(body) > BODY_BYTES_MAX:
                return Answer(0, b"the answer is too long")
            return Answer(answer.status, body)
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(1 << 16), retry_after(error.headers.get("Retry-After", ""), error.code))
    except (OSError, ValueError, EOFError) as error:  # timeouts and cut connections among them
        return Answer(0, str(error).encode())
    except Exception as error:  # http.client raises its own for a broken answer
        return Answer(0, f"{type(error).__name__}: {error}".encode())


def retry_after(text: str, status: int) -> float:
    """Seconds that a Retry-After header asks for, bounded by AFTER_MAX_S; 0 where it says nothing that can be read."""
    if status not in LIMITED or not text:
        return 0.0
    try:
        return min(max(float(text), 0.0), AFTER_MAX_S)
    except ValueError:
        pass
    try:
        from datetime import UTC, datetime

        return min(max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0), AFTER_MAX_S)
    except (ValueError, TypeError):
        return 0.0


def back_off_s(attempt: int, first_s: float = FIRST_S) -> float:
    """Seconds to wait after failed `attempt` (from 1): a draw below a bound that doubles up to LONGEST_S, and at least a tenth of it.

    Drawn anew each time, so that many clients that were cut off together do not come back together.
    """
    bound = min(LONGEST_S, first_s * 2.0 ** min(attempt - 1, 10))
    return bound * random.uniform(0.1, 1.0)
