"""Runs in the dispatcher: its main lane, from boot to the last settlement.

The dispatcher is the only process with connections to the broker and the result backend. It never runs user code and
never forks, so it may have threads: four lanes (see `engine.runtime.dispatcher.lanes`), of which this one owns what is
in hand.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import queue
import select
import socket
import sys
import time
from collections.abc import Sequence

from engine.app import plugins, wire
from engine.app.config.loader import restore
from engine.app.settings import Settings
from engine.contract.transport import Reconciled
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, EngineError
from engine.runtime import control
from engine.runtime.board import LANES
from engine.runtime.dispatcher import observers
from engine.runtime.dispatcher.crew import Crew, Run
from engine.runtime.dispatcher.desk import Desk
from engine.runtime.dispatcher.fetch import NO_LIMIT, FetchLane
from engine.runtime.dispatcher.gate import Gate
from engine.runtime.dispatcher.gathering import Gathering
from engine.runtime.dispatcher.handout import Handoff
from engine.runtime.dispatcher.lanes import Inbox, Mailbox, die
from engine.runtime.dispatcher.letters import look_through
from engine.runtime.dispatcher.link import Link
from engine.runtime.dispatcher.outcomes import Outcomes
from engine.runtime.dispatcher.publish import Do, PublishLane
from engine.runtime.dispatcher.relay import Children, Clients
from engine.runtime.dispatcher.settle import Item, SettleLane, Settler

log = logging.getLogger("engine.dispatcher")

SWITCH_INTERVAL = 0.001
"""Seconds for which one lane may keep the interpreter from another."""
GIVE_UP_AFTER = 10.0
"""Seconds without any progress after which a dispatcher that ends leaves the rest unsettled."""
UNHEARD = 60.0
"""Seconds that dead letters are looked back for, beyond the last takeover that was answered: a dispatcher needs some
time to be replaced, and the broker's clock may be another."""
LOOK_AGAIN = 2.0
"""Seconds after which dead letters are looked through again that could not be."""
NEVER = float("inf")
CONFIG_STATUS, LATER_STATUS = 78, 75
_INDEX = LANES.index("outcomes")


def main(wiring: control.Wiring) -> int:
    """Runs the dispatcher until it has finished; returns its exit status. Called in the process forked for it, with
    signals, descriptors and the log set up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        dispatcher = Dispatcher(wiring)
        notes = dispatcher.boot()
    except (ConfigError, BrokerUnavailable, BrokerFull) as error:
        status = CONFIG_STATUS if isinstance(error, ConfigError) else LATER_STATUS
        control.tell(wiring.control, control.Failed(status, str(error)))
        return status
    control.tell(wiring.control, control.Ready([], list(notes)))
    try:
        return dispatcher.run()
    except Exception:  # noqa: BLE001 - the main lane is gone: another dispatcher goes on with what the sockets hold
        die("the main lane failed")


class Dispatcher:
    """The main lane: what it waits for, and whom it wakes."""

    def __init__(self, wiring: control.Wiring) -> None:
        settings = wiring.settings
        self._wiring = wiring
        self._board = wiring.board
        self._worker = wiring.worker.id
        self._link = self._open(settings)
        self._mailbox = Mailbox()
        self._poller = select.epoll()
        self._publisher = PublishLane(self._board, self._link, self._mailbox)
        inbox: Inbox[Item] = Inbox()
        self._settler = Settler(inbox)
        self._settle_lane = SettleLane(self._board, self._link, self._mailbox, self._settler, inbox)
        self._settle_lane.on_records = self._publisher.stored
        crew = Crew(self._board)
        handoff = Handoff(crew, wiring.start, preload=settings.worker.preload)
        producer = f"{self._worker}.{wiring.start}"
        gate = Gate(crew, handoff, self._settler, wiring.worker)
        self._desk = Desk(crew, handoff, gate, self._settler, self._publisher, settings, producer)
        self._gathering = Gathering()
        self._children = Children(self._publisher, self._worker, self._gathering)
        self._clients = Clients(self._publisher, self._poller, self._worker, self._gathering)
        self._outcomes = Outcomes(wiring.outcomes, self._desk, self._children, self._worker)
        self._fetcher = FetchLane(self._board, self._link, self._mailbox, self._desk, settings.worker)
        self._observers = self._load_observers(settings)
        self._finishing = False
        self._look_at = self._look_since = NEVER
        self._connect_parts()

    def boot(self) -> Sequence[str]:
        """Looks whether broker and backend can be used, at the first start of an incarnation; returns notes for the
        log. Raises ConfigError, and BrokerUnavailable when it may pass later."""
        self._publisher.start()
        if self._wiring.start > 1:
            return ()
        answer: queue.SimpleQueue[Sequence[str] | EngineError] = queue.SimpleQueue()
        self._publisher.inbox.put([Do(lambda: answer.put(self._check()))])
        checked = answer.get()
        if isinstance(checked, (ConfigError, BrokerUnavailable, BrokerFull)):
            raise checked
        if isinstance(checked, EngineError):
            raise ConfigError(str(checked))
        return checked

    def run(self) -> int:
        """Works until `Finish`; returns the exit status."""
        self._begin()
        while not self._finishing:
            self._board.stamp_lane(_INDEX, working=False)
            self._let_gather()
            events = self._poller.poll(min(self._timeout(), self._desk.gate.rest(time.monotonic())), 256)
            self._board.stamp_lane(_INDEX, working=True)
            self._turn(events)
        return self._finish()

    # Boot.

    def _open(self, settings: Settings) -> Link:
        transport = plugins.open_transport(settings.broker, settings.plugins)
        results = plugins.open_results(settings.results, settings.plugins)
        return Link(transport, results, settings.worker.queues, self._wiring.worker)

    def _check(self) -> Sequence[str] | EngineError:
        """Runs in the publish lane, whose connections these are."""
        notes: list[str] = []
        section = "[broker]"
        try:
            notes += self._link.transport.check()
            if self._link.results is not None:
                section = "[results]"
                notes += self._link.results.check()
        except BrokerUnavailable as error:
            return BrokerUnavailable(f"{section} {error} (an engine starts once its servers answer)")
        except EngineError as error:
            return error
        return notes

    def _load_observers(self, settings: Settings) -> observers.Observers | None:
        section = settings.plugins
        if not (section.enable or section.load):
            return None
        found = plugins.load_observers(section)
        if not observers.Observers.wanted(found):
            return None
        return observers.Observers(found, settings.engine.name, self._worker)

    def _connect_parts(self) -> None:
        desk, outcomes = self._desk, self._outcomes
        desk.read_sockets = outcomes.read_all
        desk.unknown_claims = outcomes.unknown_claims
        desk.on_reconciled = self._reconciled
        desk.interrupt = self._interrupt
        desk.is_revoked = self._fetcher.filter.is_revoked
        desk.draining = self._wiring.draining
        desk.knows_all = self._wiring.start == 1
        outcomes.on_registry = self._learn
        self._publisher.record = desk.record
        gate, capabilities = desk.gate, self._link.transport.capabilities
        gate.active = not capabilities.keeps_claims and not capabilities.in_process
        gate.crashed = desk.crashed
        gate.judge_death = outcomes.judge
        self._settler.claims_end_with_connection = gate.active
        if gate.active:
            self._fetcher.most_deliveries = NO_LIMIT
        if self._link.results is not None:
            gate.use_results(self._publisher.look_up, desk.record)
        self._settler.translate = gate.translate
        self._settler.on_ended = gate.settled
        if self._observers is not None:
            told = observers.Told(self._observers)
            desk.on_received = told.received
            self._settler.on_settled = told.settled

    def _begin(self) -> None:
        log.info("dispatcher started (start %d of worker %s)", self._wiring.start, self._worker)
        for generation in self._wiring.generations:
            self._desk.handoff.add_generation(generation)
        for journal in self._outcomes.journals:
            self._poller.register(journal.sock.fileno(), select.EPOLLIN | select.EPOLLET)
        self._poller.register(self._wiring.control.fileno(), select.EPOLLIN)
        self._poller.register(self._mailbox.fileno(), select.EPOLLIN)
        self._journals = {journal.sock.fileno(): journal for journal in self._outcomes.journals}
        if self._observers is not None:
            self._observers.start()
        self._settle_lane.start()
        if self._wiring.start > 1:
            self._outcomes.inherit()
        if self._wiring.draining:
            self._desk.drain()
        self._fetcher.start()

    # One turn.

    def _timeout(self) -> float:
        if self._outcomes.searching:
            return 0.002
        if self._desk.handoff.unstarted() or self._fetcher.parked:
            # Children that come up, or have become idle, are seen on the board only.
            return 0.02 if self._desk.crew.expected(self._desk.concurrency) or self._desk.handoff.waits else 0.25
        return 1.0

    def _let_gather(self) -> None:
        now = time.monotonic()
        pause = self._gathering.pause(self._desk.prefetch.rate(now), self._desk.handoff.in_socket(), now)
        if pause:
            time.sleep(pause)

    def _turn(self, events: Sequence[tuple[int, int]]) -> None:
        mail = False
        for fd, event in events:
            journal = self._journals.get(fd)
            if journal is not None:
                self._outcomes.read(journal)
            elif fd == self._mailbox.fileno():
                mail = True
            elif fd == self._wiring.control.fileno():
                self._hear()
            elif fd in self._clients:
                self._clients.read(fd, event)
        self._outcomes.read_unread()
        self._outcomes.flush()
        if mail:
            self._mailbox.run()
        if self._outcomes.searching:
            self._outcomes.search()
        now = time.monotonic()
        self._desk.update(now)
        if self._fetcher.parked and self._fetcher.limit():
            self._fetcher.wake()
        if now >= self._look_at:
            self._look_through_letters()

    def _hear(self) -> None:
        """Hears the supervisor."""
        while True:
            try:
                heard = control.hear_all(self._wiring.control, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                heard = None
            if heard is None:
                # Nobody would reap the children any more. Other workers take the claims over at once.
                log.error("the supervisor is gone: the dispatcher ends")
                logging.shutdown()
                os._exit(1)
            message, fds = heard
            self._obey(message, fds)

    def _obey(self, message: object, fds: Sequence[int]) -> None:
        if isinstance(message, control.AddGeneration):
            self._add_generation(message, fds)
        elif isinstance(message, control.RetireGeneration):
            self._desk.handoff.retire(message.generation)
        elif isinstance(message, control.Client):
            self._add_client(fds)
        elif isinstance(message, control.Drain):
            self._desk.drain()
            self._fetcher.wake()
        elif isinstance(message, control.Finish):
            self._finishing = True
        elif isinstance(message, control.Reconfigure):
            self._reconfigure(restore(message.settings))

    def _add_client(self, fds: Sequence[int]) -> None:
        if fds:
            self._clients.add(fds[0])
        else:
            log.error("a client's connection was lost on its way here: raise the limit of open files (ulimit -n)")

    def _add_generation(self, message: control.AddGeneration, fds: Sequence[int]) -> None:
        if len(fds) != 2:
            # Without them no task would ever reach its children. The next dispatcher is born with them.
            raise OSError(errno.EMFILE, "a generation's sockets were lost: raise the limit of open files (ulimit -n)")
        handoff, takeback = (socket.socket(fileno=fd) for fd in fds)
        self._desk.handoff.take_back()  # what the generation before was given too early
        self._desk.handoff.add_generation(control.Generation(message.generation, handoff, message.tasks, takeback))
        self._look_through_letters()

    def _reconfigure(self, settings: Settings) -> None:
        self._desk.configure(settings)
        self._fetcher.configure(settings.worker)
        self._link.change_queues(settings.worker.queues)

    def _reconciled(self, result: Reconciled) -> None:
        self._outcomes.reconciled(result)
        self._look_through_letters()

    def _look_through_letters(self) -> None:
        registry = self._desk.registry
        since, self._look_at = min(self._look_since, self._fetcher.heard_takeover - UNHEARD), NEVER
        if registry is None or self._desk.draining:
            return

        def look() -> None:
            found = look_through(self._link, registry, since)
            if found is None:
                self._mailbox.post(self._look_later, since)
            elif found:
                self._mailbox.post(self._desk.unrecorded, found)

        self._look_since = NEVER
        self._publisher.inbox.put([Do(look)])

    def _look_later(self, since: float) -> None:
        self._look_since, self._look_at = since, time.monotonic() + LOOK_AGAIN

    def _learn(self, packet: wire.Registry) -> None:
        self._desk.handoff.learn(packet.generation, packet.tasks)
        control.tell(self._wiring.control, control.Tasks(packet.generation, packet.tasks))
        self._look_through_letters()

    def _interrupt(self, run: Run) -> None:
        control.tell(self._wiring.control, control.Interrupt(run.slot, run.generation))

    # The end.

    def _finish(self) -> int:
        """Settles the rest, says goodbye to the broker; 1 if something had to be left unsettled."""
        self._desk.drain()
        self._fetcher.wake()
        self._outcomes.read_all()
        # The fetch lane goes on meanwhile: it compares claims, and only then the deaths of runs that an earlier
        # dispatcher handed out can be settled.
        left = self._settle_rest()
        self._fetcher.stop()
        self._fetcher.wake()
        self._clients.close()
        self._settle_lane.stop()
        self._publisher.stop()
        for lane in (self._fetcher, self._settle_lane, self._publisher):
            lane.join(GIVE_UP_AFTER / 2)
        if left:
            for item in self._settler.unsettled():
                log.error("not settled, as the broker cannot be reached", extra=item.fields)
            for death in self._outcomes.deferred():
                log.error("its child died (%s): not settled", death.cause, extra={"task_id": death.id})
        else:
            self._say_goodbye()
        if self._observers is not None:
            self._observers.stop()
        log.info("dispatcher ends")
        return 1 if left else 0

    def _settle_rest(self) -> int:
        """Goes on settling until nothing is left or nothing moves; returns how many items are left."""
        moved, before = time.monotonic(), -1
        while True:
            left = len(self._settler) + (not self._publisher.idle) + len(self._outcomes.deferred())
            if left != before:
                moved, before = time.monotonic(), left
            if not (left or self._outcomes.unclear) or time.monotonic() - moved > GIVE_UP_AFTER:
                return left
            self._turn(self._poller.poll(0.05, 256))
            self._board.stamp_lane(_INDEX, working=True)

    def _say_goodbye(self) -> None:
        try:
            self._link.consumer.close()
        except EngineError as error:
            log.warning("the broker did not hear this worker's goodbye: %s", error)
        self._link.close()
