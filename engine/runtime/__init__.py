"""The processes: supervisor, dispatcher, template and children.

``boot`` builds an engine, ``supervisor`` is the loop that spawns, reaps and kills, ``dispatcher`` the broker's end,
``template`` forks, ``child`` runs tasks. ``limits`` and ``children`` hold the rules, without processes or signals.
"""
