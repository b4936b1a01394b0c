"""Measurements: what is claimed of speed is made here, in one run, with the result checked."""
