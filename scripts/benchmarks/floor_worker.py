"""The floor: what an engine must at least do on Redis, by hand, and nothing else.

A parent fetches in batches (a list of messages becomes claims, in one step), hands each to an idle forked child over a
socket, gets the outcome back, and in batches writes results and removes the claims. No limits, no retries, no
heartbeats, no second worker, no other kind of message, no recovery.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence

import hiredis
import msgspec

BATCH = 500
FETCH = b"""
local messages = redis.call('LPOP', 'floor:queue', ARGV[1])
if not messages then return {} end
local number = redis.call('INCRBY', 'floor:claims', #messages)
local claims = {}
for at, message in ipairs(messages) do
    claims[#claims + 1] = number - #messages + at
    claims[#claims + 1] = message
end
for at = 1, #claims, 1000 do
    redis.call('HSET', 'floor:claimed', unpack(claims, at, math.min(at + 999, #claims)))
end
return claims
"""
SETTLE = b"""
for at = 2, #ARGV, 3 do
    if redis.call('HDEL', 'floor:claimed', ARGV[at]) == 1 and ARGV[1] == '1' then
        redis.call('SET', 'floor:result:' .. ARGV[at + 1], ARGV[at + 2], 'PX', 86400000)
    end
end
return 1
"""

Sent = tuple[int, bytes]
Outcome = tuple[int, str, bytes]


class Redis:
    """One connection."""

    def __init__(self, host: str, port: int) -> None:
        self._sock = socket.create_connection((host, port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def call(self, *words: bytes | int | str) -> list[bytes]:
        """Sends a command and returns its reply."""
        self._sock.sendall(hiredis.pack_command(words))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._sock.recv(1 << 20))
        if isinstance(reply, Exception):
            raise reply
        return reply  # type: ignore[no-any-return]


def work(handoff: socket.socket, link: socket.socket, tasks: dict[str, Callable[..., object]]) -> None:
    """The child: takes a packet, calls the function, sends the outcome."""
    decode = msgspec.msgpack.Decoder(Sent).decode
    encode = msgspec.msgpack.Encoder().encode
    while data := handoff.recv(1 << 17):
        claim, body = decode(data)
        message = json.loads(body)
        result = tasks[message["task"]](*message["args"], **message["kwargs"])
        link.send(encode((claim, message["id"], json.dumps({"state": "SUCCESS", "result": result}).encode())))


class Parent:
    """Fetches, hands out, settles."""

    def __init__(self, redis: Redis, handoff: socket.socket, links: Sequence[socket.socket], keep: bool) -> None:
        self._redis = redis
        self._handoff = handoff
        self._links = {link.fileno(): link for link in links}
        self._poll = select.poll()
        for link in links:
            self._poll.register(link, select.POLLIN)
        self._fetch = redis.call("SCRIPT", "LOAD", FETCH)
        self._settle = redis.call("SCRIPT", "LOAD", SETTLE)
        self._keep = int(keep)
        self._decode = msgspec.msgpack.Decoder(Outcome).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._backlog: list[bytes] = []
        self._in_hand = 0

    def run(self) -> None:
        """Goes round for ever."""
        while True:
            if self._in_hand < BATCH:
                self._take()
            self._hand_out()
            if not self._in_hand:
                self._redis.call("BLMOVE", "floor:queue", "floor:queue", "LEFT", "LEFT", 1)
            elif outcomes := self._outcomes():
                self._redis.call("EVALSHA", self._settle, 0, self._keep, *outcomes)
                self._in_hand -= len(outcomes) // 3

    def _take(self) -> None:
        claims = self._redis.call("EVALSHA", self._fetch, 0, BATCH)
        self._backlog += [self._encode(pair) for pair in zip(claims[::2], claims[1::2], strict=True)]
        self._in_hand += len(claims) // 2

    def _hand_out(self) -> None:
        sent = 0
        try:
            for packet in self._backlog:
                self._handoff.send(packet, socket.MSG_DONTWAIT)
                sent += 1
        except BlockingIOError:
            pass  # the socket is full: the rest next time
        del self._backlog[:sent]

    def _outcomes(self) -> list[bytes | int | str]:
        found: list[bytes | int | str] = []
        for fd, _ in self._poll.poll(1000):
            try:
                while data := self._links[fd].recv(1 << 17, socket.MSG_DONTWAIT):
                    found += self._decode(data)
            except BlockingIOError:
                continue
        return found


def main(host: str, port: str, module: str, children: str, keep: str) -> None:
    """Forks the children and runs the parent."""
    tasks = importlib.import_module(module).TASKS
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    links = []
    for _ in range(int(children)):
        parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            work(theirs, child_end, tasks)
            os._exit(0)
        links.append(parent_end)
    Parent(Redis(host, int(port)), ours, links, keep == "1").run()


if __name__ == "__main__":
    main(*sys.argv[1:])
