"""The dispatcher: owns the connections to broker and result backend; fetches, hands out and settles, in batches.

It has four lanes (threads). ``dispatcher`` is the main one; it owns what is in hand, and most of the files are its
parts. Each of the others waits for the broker so that the main lane need not, and has a part there that gives it work:

- ``fetch`` claims messages and keeps the claims alive; ``intake`` takes them, and says how many more.
- ``settle`` is where a result is stored and the broker is told how a task ended (both sides are in that file).
- ``publish`` makes all other calls of the broker; ``publisher`` hands them over.

A message goes from ``fetch`` through ``filters`` (may it run?), ``gate`` (does it run already?) and ``handout`` (the
sockets) to a child; ``outcomes`` reads from the child's socket (``journal``) how it ended, and ``settle`` tells the
broker. A run whose child died is ended by ``lost_runs``. What one dispatcher leaves when it is killed the next one
takes over through ``inheritance``. ``desk`` names the places where a message can be.
"""
