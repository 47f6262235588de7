"""The ``engine`` command with the points armed that ENGINE_TEST_POINTS names: `engine.testing.faults.points`."""

from __future__ import annotations

import os

from engine.cli.main import main
from engine.testing.faults.points import VARIABLE, arm

if __name__ == "__main__":
    arm(os.environ.get(VARIABLE, ""))
    main()
