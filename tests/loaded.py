"""What the process that forks the workers of tests has imported: the line, and its loops out of the cache."""

from __future__ import annotations

from engine.workers import load_ring_kernels

load_ring_kernels()
