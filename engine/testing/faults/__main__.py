"""The ``engine`` command with the points armed that ENGINE_TEST_POINTS names (`engine.testing.faults.points`), and the
wall clock that ENGINE_TEST_CLOCK names (`engine.testing.faults.clock`)."""

from __future__ import annotations

import os

from engine.cli.main import main
from engine.testing.faults import clock, points

if __name__ == "__main__":
    points.arm(os.environ.get(points.VARIABLE, ""))
    if path := os.environ.get(clock.VARIABLE):
        clock.install(path)
    main()
