"""The supervisor: spawns, reaps, enforces limits. ``supervisor`` is its loop, ``enforcer`` the place that kills;
``limits`` and ``children`` hold the rules, without processes or signals."""
