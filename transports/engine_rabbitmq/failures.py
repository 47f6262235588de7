"""What went wrong at RabbitMQ, as the engine's errors: one table.

- A connection or channel that is gone is `BrokerUnavailable`: the engine connects again.
- So is `NotStarted`, and it is worth asking again at once.
- Wrong credentials, a missing vhost, missing permissions are `Refused`, a `BrokerUnavailable` at run time (an operator
  may be about to repair them) that `check` turns into a ConfigError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pika import exceptions

from engine.errors import BrokerUnavailable

_CODES = {
    311: "the message is larger than the server allows",
    312: "nothing takes messages for that queue",
    320: "the server closed the connection (it shuts down, or an operator asked it to)",
    402: "the virtual host does not exist",
    403: "access refused: check user, password and permissions",
    404: "a queue or exchange is gone",
    405: "somebody else is at the same: try again",
    406: "refused",
    501: "the connection carried what is not AMQP",
    504: "a channel error",
    506: "the server has not enough resources",
    530: "not allowed",
    540: "the server does not know this feature: RabbitMQ 3.10 or later is needed",
    541: "the server failed inside",
}
"""What an AMQP reply code means here; the server's own text follows."""
_CONFIG_CODES = frozenset({402, 403, 530, 540})
_NO_ACCESS = 403
_NO_LOGIN = "wrong user or password, or the user may not connect from here"
_GUESSES = (
    exceptions.ProbableAuthenticationError,
    exceptions.ProbableAccessDeniedError,
    exceptions.IncompatibleProtocolError,
)
_SAID = re.compile(r"ConnectionClosedByBroker: \((?P<code>\d+)\) (?P<text>.*)")
CONSUMER_TIMEOUT = "delivery acknowledgement on channel"
"""How the server's text begins when a message was held unacknowledged for too long."""


class Refused(BrokerUnavailable):
    """The server refuses this user, virtual host or request: something in the configuration is wrong."""


class NotStarted(BrokerUnavailable):
    """The node of a queue is down, or has not finished its start: it may answer in a moment."""


def failure(error: BaseException, place: str) -> BrokerUnavailable:
    """Returns the engine's error for one of pika's. ``place`` names the server, without a password."""
    if isinstance(error, BrokerUnavailable):
        return error
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, exceptions.AuthenticationError):
            return Refused(f"{place}: {_NO_LOGIN}")
        if isinstance(cause, _GUESSES):
            return _guessed(cause, place)
        if isinstance(cause, exceptions.ConnectionClosed | exceptions.ChannelClosed):
            return _closed(cause.reply_code, cause.reply_text, place)
    return BrokerUnavailable(f"{place}: {_text(causes[-1])}")


def _guessed(error: exceptions.AMQPConnectionError, place: str) -> BrokerUnavailable:
    """Returns the error for a connection that ended before it was open. pika guesses why by how far it had come; a
    server that is going down ends it too. What the server said, if anything, is in the text alone."""
    said = _SAID.search(str(error))
    if said is not None:
        code = int(said["code"])
        if code == _NO_ACCESS and isinstance(error, exceptions.ProbableAuthenticationError):
            return Refused(f"{place}: {_NO_LOGIN}")
        if code in _CONFIG_CODES and isinstance(error, exceptions.ProbableAccessDeniedError):
            return Refused(f"{place}: the virtual host does not exist, or the user has no access to it")
        return _closed(code, said["text"].replace("\\", "").strip("\"',()"), place)
    if isinstance(error, exceptions.IncompatibleProtocolError):
        return BrokerUnavailable(
            f"{place}: it ended the connection without a word of AMQP: it is starting or going down, is no "
            "RabbitMQ, or expects amqps://"
        )
    return BrokerUnavailable(f"{place}: it ended the connection while it was being opened")


def _closed(code: int, text: str, place: str) -> BrokerUnavailable:
    if CONSUMER_TIMEOUT in text:
        return BrokerUnavailable(
            f"{place}: the server took back messages that were held longer than its consumer_timeout: set "
            f"consumer_timeout in rabbitmq.conf to more than your longest task may take ({text})"
        )
    if "down or inaccessible" in text:
        return NotStarted(f"{place}: the node of a queue is down, or has not finished its start ({text})")
    kind = Refused if code in _CONFIG_CODES else BrokerUnavailable
    return kind(f"{place}: {_CODES.get(code, f'closed with code {code}')} ({text})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and what it is made of: pika wraps the reason of a failed connection several times."""
    yield error
    if isinstance(error, exceptions.AMQPConnectionError | exceptions.AMQPChannelError):
        for inner in error.args:
            if isinstance(inner, BaseException):
                yield from _causes(inner)
    for name in ("exception", "exceptions"):
        inner = getattr(error, name, None)
        for one in inner if isinstance(inner, list | tuple) else [inner]:
            if isinstance(one, BaseException):
                yield from _causes(one)
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _text(error: BaseException) -> str:
    if isinstance(error, exceptions.AMQPHeartbeatTimeout):
        return "no sign of life from the server"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}" if isinstance(error, exceptions.AMQPError) else text
