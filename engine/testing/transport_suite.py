"""The conformance suite of transports: it owns what the contract means.

A transport's test file is a subclass with a fixture::

    class TestMine(TransportSuite):
        @pytest.fixture
        def transport(self):
            transport = MyTransport("mine://localhost/test", options={})
            yield transport
            transport.close()

The broker must be empty and the test's own. Where the transport says `stores_results`, override the fixture ``results``
too: a result backend at the same server. Override ``unreachable`` to have the errors of a broker that is not there
tested. A test whose name ends in "or the flag says no" fails a capability that says True without the behaviour, and one
that says False though the behaviour is there.
"""

from __future__ import annotations

from engine.testing.transport_suite_connecting import ConnectingTests
from engine.testing.transport_suite_operating import OperatingTests
from engine.testing.transport_suite_owners import OwnersTests
from engine.testing.transport_suite_sending import SendingTests
from engine.testing.transport_suite_settling import SettlingTests


# pytest takes the tests of the last class first: they come in the order in which a transport is best written.
class TransportSuite(ConnectingTests, OperatingTests, OwnersTests, SettlingTests, SendingTests):
    """All tests. Override the fixture ``transport``. ``pytest -x`` stops at what is to be written next."""
