"""Temporary folders that a kill does not leave for ever: each bears its owner in its name, and the next one made sweeps the dead's.

    <temporary folder>/tickline-<purpose>-<owner's pid>-<its start>-<random>
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transport.segment import is_alive, process_start

_OURS = re.compile(r"tickline-[a-z]+-(\d+)-(\d+)-.+")


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder for `purpose` (lower-case letters) that is gone afterwards; those whose owner was killed go first."""
    sweep_folders()
    pid = os.getpid()
    with tempfile.TemporaryDirectory(prefix=f"tickline-{purpose}-{pid}-{process_start(pid)}-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def sweep_folders() -> None:
    """Remove every scratch folder whose owner is dead; another user's stays, for that user to sweep."""
    for path in Path(tempfile.gettempdir()).glob("tickline-*"):
        match = _OURS.fullmatch(path.name)
        if match and not is_alive(int(match[1]), int(match[2])):
            shutil.rmtree(path, ignore_errors=True)
