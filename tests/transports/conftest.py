"""The suites' assertions say what they compared, as those of test files do."""

import pytest

pytest.register_assert_rewrite(
    "engine.testing.results_suite",
    *(
        f"engine.testing.transport_suite_{part}"
        for part in ("kit", "sending", "settling", "owners", "operating", "connecting")
    ),
)
