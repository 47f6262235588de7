"""The dispatcher: owns the connections; fetches, hands out, settles, in batches. ``dispatcher`` is its main lane,
``fetch``, ``settle`` and ``publish`` are the others; ``settle`` is where a result is stored."""
