"""The processes.

``boot`` makes an engine ready and becomes its supervisor. ``supervisor`` spawns, reaps and kills; ``dispatcher`` is the
broker's end; ``child`` holds the template, which forks, and the children, which run tasks. What they share lies here:
``board`` (shared memory), ``control`` (messages between them), ``spawn`` (the only fork), ``signals``, ``processes``
(what /proc tells) and ``log`` (which never makes its writer wait).
"""
