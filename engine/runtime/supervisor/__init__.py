"""The supervisor: spawns, reaps, enforces limits. ``supervisor`` is its loop, ``fleet`` the processes that it keeps,
``enforcer`` the place that kills; ``limits`` and ``children`` hold the rules, without processes or signals."""
