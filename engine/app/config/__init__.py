"""The settings, from what was written to what holds: ``loader`` puts the sources together (code, TOML, environment,
command line), ``values`` checks and converts, ``places`` and ``sources`` say where a value stands."""
