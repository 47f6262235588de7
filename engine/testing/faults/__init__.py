"""Faults on purpose: processes and brokers that are killed, links that lose bytes, and the account of what became of
the tasks.

The parts: `ledger` (what ran, written by the tasks themselves), `points` (places in the engine at which a process dies,
stops or waits), `clock` (a wall clock that is set while an engine runs), `proxy` (a TCP link that loses, hangs or
cuts), `scripted_redis` and `scripted_amqp` (servers that answer what they are told to), `brokers` (private servers to
kill), `chaos` (kills at random, and the judgement). `scripts/chaos` runs the last.
"""
