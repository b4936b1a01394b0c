"""Errors of the moving parts.

    TransportError
    ├── LayoutError      another record layout, or a file or segment that is not ours; never retriable
    ├── DamagedError     bytes that fail their checksum or chain; never retriable
    ├── InstrumentError  a tick, lot or price that the table does not allow; never retriable
    ├── SegmentError     shared memory could not be made or attached; retriable after the fix it names
    └── StorageError     the disk refused a write (full, read-only); retriable once there is room
"""

from __future__ import annotations


class TransportError(Exception):
    """Root of this package's errors; `retriable` says whether the same call may succeed later."""

    retriable = False


class LayoutError(TransportError):
    """The bytes were written under another record layout or are not ours at all."""


class DamagedError(TransportError):
    """A checksum or a link of the hash chain does not hold."""


class InstrumentError(TransportError):
    """An instrument's grid is unusable, or a value does not lie on it."""


class SegmentError(TransportError):
    """A shared-memory segment could not be created or attached."""

    retriable = True


class StorageError(TransportError):
    """A write to the run folder failed: disk full, quota, or read-only."""

    retriable = True
