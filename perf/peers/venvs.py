"""An environment a peer, made on demand: their pins differ from ours and from one another's.

Each is a folder under perf/peers/.venvs/, installed from a fully pinned list without resolving anything, and stamped with the
hash of that list and the interpreter; another list or interpreter makes it anew.

    python -m perf.peers.venvs [PEER ...]        makes them all, or those named
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".venvs"
PEERS = ("hftbacktest", "nautilus")
INSTALL_TIMEOUT_S = 900


class InstallFailed(RuntimeError):
    """pip could not install a peer's list (no network, no wheel for this interpreter); the message ends with pip's own words."""


def requirements(peer: str) -> Path:
    """The peer's pinned list; raises KeyError for a peer that is not one."""
    if peer not in PEERS:
        raise KeyError(f"{peer} is none of {', '.join(PEERS)}")
    return HERE / f"requirements-{peer}.txt"


def stamp_of(peer: str) -> str:
    """What an environment must have been made from to be used: list and interpreter."""
    about = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}\n"
    return hashlib.sha256(about.encode() + requirements(peer).read_bytes()).hexdigest()


def ensure(peer: str, folder: Path = FOLDER) -> Path:
    """The python of `peer`'s environment, made first when missing or outdated; raises InstallFailed."""
    home = folder / peer
    python = home / "bin" / "python"
    stamp = home / "tickline.stamp"
    if stamp.exists() and stamp.read_text() == stamp_of(peer):
        return python
    if home.exists():
        shutil.rmtree(home)
    print(f"making the environment of {peer} (once, about half a minute)", file=sys.stderr, flush=True)
    _call([sys.executable, "-m", "venv", str(home)])
    # The list is complete, so nothing is resolved; wheels only, so that nothing is compiled with this machine's flags.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    _call([str(python), "-m", "pip", "install", *options, "-r", str(requirements(peer))])
    stamp.write_text(stamp_of(peer))  # last: an interrupted install has no stamp and is made again
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        raise InstallFailed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        print(ensure(name))
