"""Errors of the way in.

    FeedError
    ├── NotAFeedError    the file is something else, or of a schema the engine does not read; never retriable
    ├── TruncatedError   compressed data ends in the middle; retriable once the whole file is there
    └── UnreadableError  cannot be opened, or its compressed data is damaged; never retriable

While a feed runs the last two are caught, counted and shown as its first offender: what was readable has been yielded by then.
"""

from __future__ import annotations


class FeedError(Exception):
    """Root of the way in; the text is for the user. `retriable` says whether the same call may succeed later."""

    retriable = False


class NotAFeedError(FeedError):
    """What was named as a feed is none."""


class TruncatedError(FeedError):
    """A compressed file ends before its last frame does."""

    retriable = True


class UnreadableError(FeedError):
    """A file cannot be opened or decompressed."""
