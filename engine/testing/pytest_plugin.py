"""What `pytest` finds when the engine is installed: nothing yet that changes a test run by itself."""

from __future__ import annotations
