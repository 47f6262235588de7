"""Publishing with confirms: what came back because no queue took it is confirmed as well, and is not sent."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pika
import pytest
from pika import spec

from engine.errors import BrokerFull, BrokerUnavailable
from engine_rabbitmq.address import Address
from engine_rabbitmq.catalogue import Catalogue
from engine_rabbitmq.confirms import ConfirmChannel, Publication
from engine_rabbitmq.connection import Connection
from engine_rabbitmq.messages import Outgoing
from engine_rabbitmq.publisher import Publisher


class Server:
    """The other end of a publishing channel, that answers when it is told to. ``sent``: (id, is it marked?)."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bool]] = []
        address = SimpleNamespace(place="amqp://test")
        connection = SimpleNamespace(error=None, blocked_since=None, address=address, post=_at_once)
        self.channel = ConfirmChannel(cast(Connection, connection))
        self.channel._channel.raw = self

    def basic_publish(self, exchange: str, key: str, body: bytes, properties: Any, mandatory: bool) -> None:
        """Takes a message."""
        self.sent.append((properties.message_id, "engine-replayed" in (properties.headers or {})))

    def gives_back(self, id: str) -> None:
        """Has no queue for this message, which it confirms afterwards, as the server does."""
        method = spec.Basic.Return(312, "NO_ROUTE", "", "q")
        self.channel._on_return(self, method, pika.BasicProperties(message_id=id), b"")

    def confirms(self, number: int) -> None:
        """Confirms the message of this number."""
        self.channel._on_confirm(SimpleNamespace(method=spec.Basic.Ack(number)))

    def refuses(self, number: int) -> None:
        """Refuses the message of this number."""
        self.channel._on_confirm(SimpleNamespace(method=spec.Basic.Nack(number)))


def _at_once(call: Callable[[], None]) -> None:
    call()


def _publication(*ids: str) -> Publication:
    return Publication([Outgoing("", "q", b"", pika.BasicProperties(message_id=id), "q", 0) for id in ids])


def test_what_came_back_is_sent_again_when_the_rest_is_refused() -> None:
    """The first message was there before its queue, the second before the queue had a leader. The first was then taken
    for sent: it was lost."""
    server, publication = Server(), _publication("a", "b", "c")
    server.channel.start(publication)
    server.gives_back("a")
    server.confirms(1)
    server.confirms(2)
    server.refuses(3)
    with pytest.raises(BrokerFull):
        server.channel.wait(publication)
    publication.renew()
    server.channel.start(publication)
    assert server.sent == [("a", False), ("b", False), ("c", False), ("a", False), ("c", True)]
    server.confirms(4)
    server.confirms(5)
    assert server.channel.wait(publication) == []


def test_late_answers_to_an_attempt_that_was_given_up_do_not_count() -> None:
    server, publication = Server(), _publication("a", "b")
    server.channel.start(publication)
    server.refuses(1)
    with pytest.raises(BrokerFull):
        server.channel.wait(publication)
    publication.renew()
    server.channel.start(publication)
    server.gives_back("b")
    server.confirms(2)
    server.confirms(3)
    assert not publication.future.done(), "its last message is on its way"
    server.confirms(4)
    assert server.channel.wait(publication) == []


def test_what_came_back_is_sent_again_when_the_connection_is_lost_before_its_queue_is_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = Publisher(cast(Address, None), cast(Any, None), Catalogue())
    publication = _publication("a", "b")

    def one_comes_back(publication: Publication) -> list[int]:
        publication.channel = publication
        publication.confirmed.update((0, 1))
        publication.future.set_result([0])
        monkeypatch.setattr(Publisher, "publish_link", _away)
        return [0]

    link = SimpleNamespace(channel=SimpleNamespace(send=one_comes_back))
    monkeypatch.setattr(Publisher, "publish_link", lambda self: link)
    with pytest.raises(BrokerUnavailable):
        publisher.send(publication)
    assert publication.confirmed == {1}


def _away(publisher: Publisher) -> Any:
    raise BrokerUnavailable("away")
