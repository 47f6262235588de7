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

import msgspec

from engine.app import plugins, wire
from engine.app.config.loader import restore
from engine.app.plugins import entries
from engine.app.settings import Settings
from engine.contract.transport import Worker
from engine.errors import BrokerFull, BrokerUnavailable, ConfigError, EngineError
from engine.runtime import control, spawn
from engine.runtime.board import LANES
from engine.runtime.dispatcher import observers
from engine.runtime.dispatcher.crew import Crew, Run
from engine.runtime.dispatcher.desk import Desk
from engine.runtime.dispatcher.fetch import MAX_DELIVERIES, NO_LIMIT, FetchLane
from engine.runtime.dispatcher.filters import Filter
from engine.runtime.dispatcher.gate import Gate
from engine.runtime.dispatcher.gathering import Gathering
from engine.runtime.dispatcher.handout import Handoff
from engine.runtime.dispatcher.intake import Intake
from engine.runtime.dispatcher.lanes import INTERNAL_ERROR, Inbox, Mailbox, NoThread, die
from engine.runtime.dispatcher.letters import Letters
from engine.runtime.dispatcher.link import Link
from engine.runtime.dispatcher.lost_runs import LostRuns
from engine.runtime.dispatcher.outcomes import Outcomes
from engine.runtime.dispatcher.prefetch import Prefetch
from engine.runtime.dispatcher.publish import PublishLane
from engine.runtime.dispatcher.publisher import Publisher
from engine.runtime.dispatcher.relay import Children, Clients
from engine.runtime.dispatcher.revocations import Revocations
from engine.runtime.dispatcher.settle import Item, SettleLane, Settler

log = logging.getLogger("engine.dispatcher")

SWITCH_INTERVAL = 0.001
"""Seconds for which one lane may keep the interpreter from another."""
GIVE_UP_AFTER = 10.0
"""Seconds without any progress after which a dispatcher that ends leaves the rest unsettled."""
CONFIG_STATUS, LATER_STATUS = 78, 75
_INDEX = LANES.index("outcomes")


def main(wiring: control.Wiring) -> int:
    """Runs the dispatcher until it has finished; returns its exit status. Called in the process forked for it, with
    signals, descriptors and the log set up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(SWITCH_INTERVAL)
    _look_for_plugins()
    try:
        dispatcher = Dispatcher(wiring)
        notes = dispatcher.boot()
    except (ConfigError, BrokerUnavailable, BrokerFull) as error:
        status = CONFIG_STATUS if isinstance(error, ConfigError) else LATER_STATUS
        control.tell(wiring.control, control.Failed(status, str(error)))
        return status
    except NoThread as error:
        return _without(error)
    control.tell(wiring.control, control.Ready([], list(notes)))
    try:
        return dispatcher.run()
    except NoThread as error:
        return _without(error)
    except Exception:  # noqa: BLE001 - the main lane is gone: another dispatcher goes on with what the sockets hold
        die("the main lane failed")


def _without(thread: NoThread) -> int:
    log.critical("%s; the dispatcher ends and is started again", thread)
    return INTERNAL_ERROR


class Dispatcher:
    """The main lane: what it waits for, and whom it wakes."""

    def __init__(self, wiring: control.Wiring) -> None:
        settings, worker = wiring.settings, wiring.worker
        self._wiring = wiring
        self._board = board = wiring.board
        self._link = link = _open(settings, worker)
        self._mailbox = mailbox = Mailbox()
        self._poller = select.epoll()
        self._finishing = False
        self._observers = _load_observers(settings, worker.id)
        told = None if self._observers is None else observers.Told(self._observers)
        # Do the broker's claims end with the connection?
        gated = not link.transport.capabilities.keeps_claims and not link.transport.capabilities.in_process

        # The places, and what moves between them.
        self._publisher = publisher = Publisher(Inbox(), worker.id, wiring.start)
        inbox: Inbox[Item] = Inbox()
        self._settler = settler = Settler(inbox, publisher, claims_end_with_connection=gated)
        crew = Crew(board)
        handoff = Handoff(crew, wiring.start, preload=settings.worker.preload, draining=wiring.draining)
        self._lost_runs = lost = LostRuns(handoff, settler, worker.id, settings.worker)
        look = None if link.results is None else publisher.look_up
        gate = Gate(crew, handoff, settler, lost, worker, active=gated, look=look)
        self._desk = desk = Desk(gate, handoff, crew, publisher, settler)

        # What children and clients say.
        self._gathering = Gathering()
        self._prefetch = Prefetch(settings.worker.prefetch_max, settings.worker.prefetch)
        self._filter = Filter(settings.worker)
        self._clients = Clients(publisher, self._poller, worker.id, self._gathering)
        self._outcomes = Outcomes(
            wiring.outcomes,
            desk,
            lost,
            Children(publisher, worker.id, self._gathering),
            self._prefetch,
            knows_all=wiring.start == 1,
            is_revoked=self._filter.is_revoked,
            on_registry=self._learn,
        )

        # The other lanes, and what they say.
        self._letters = Letters(desk, lost, link, mailbox)
        revocations = Revocations(desk, self._interrupt)
        on_received = None if told is None else told.received
        self._intake = Intake(
            desk, self._outcomes, revocations, self._letters, self._prefetch, settings.worker, on_received
        )
        self._fetcher = FetchLane(
            board,
            link,
            mailbox,
            self._filter,
            self._intake,
            settings.worker,
            max_deliveries=NO_LIMIT if gated else MAX_DELIVERIES,
        )
        self._publish_lane = PublishLane(board, link, mailbox, publisher, settler.store)
        hearers = [settler.settled, gate.settled] if told is None else [settler.settled, gate.settled, told.settled]
        self._settle_lane = SettleLane(board, link, mailbox, inbox, hearers, self._publish_lane.stored)

    def boot(self) -> Sequence[str]:
        """Looks whether broker and backend can be used, at the first start of an incarnation; returns notes for the
        log. Raises ConfigError, and BrokerUnavailable when it may pass later."""
        self._publish_lane.start()
        if self._wiring.start > 1:
            return ()
        answer: queue.SimpleQueue[Sequence[str] | EngineError] = queue.SimpleQueue()
        self._publisher.do(lambda: answer.put(self._check()))
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

    def _begin(self) -> None:
        log.info("dispatcher started (start %d of worker %s)", self._wiring.start, self._wiring.worker.id)
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
            self._intake.drain()
        self._fetcher.start()

    # One turn.

    def _timeout(self) -> float:
        if self._outcomes.searching:
            return 0.002
        if self._desk.handoff.unstarted() or self._fetcher.parked:
            # Children that come up, or have become idle, are seen on the board only.
            return 0.02 if self._desk.crew.expected(self._intake.concurrency) or self._desk.handoff.waits else 0.25
        return 1.0

    def _let_gather(self) -> None:
        now = time.monotonic()
        pause = self._gathering.pause(self._prefetch.rate(now), self._desk.handoff.in_socket(), now)
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
        self._intake.update(now)
        if self._fetcher.parked and self._fetcher.limit():
            self._fetcher.wake()
        self._letters.update(now)

    def _hear(self) -> None:
        """Hears the supervisor."""
        while True:
            try:
                heard = control.hear(self._wiring.control, socket.MSG_DONTWAIT)
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
            self._intake.drain()
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
        self._letters.look_through()

    def _reconfigure(self, settings: Settings) -> None:
        for part in (self._filter, self._lost_runs, self._intake, self._fetcher):
            part.configure(settings.worker)
        self._link.change_queues(settings.worker.queues)

    def _learn(self, packet: wire.Registry) -> None:
        self._desk.handoff.learn(packet.generation, packet.tasks)
        control.tell(self._wiring.control, control.Tasks(packet.generation, packet.tasks))
        self._letters.look_through()

    def _interrupt(self, run: Run) -> None:
        control.tell(self._wiring.control, control.Interrupt(run.slot, run.number))

    # The end.

    def _finish(self) -> int:
        """Settles the rest, says goodbye to the broker; 1 if something had to be left unsettled."""
        self._intake.drain()
        self._fetcher.wake()
        self._outcomes.read_all()
        # The fetch lane goes on meanwhile: it compares claims, and only then the deaths of runs that an earlier
        # dispatcher handed out can be settled.
        left = self._settle_rest()
        self._fetcher.stop()
        self._fetcher.wake()
        self._clients.close()
        self._settle_lane.stop()
        self._publish_lane.stop()
        for lane in (self._fetcher, self._settle_lane, self._publish_lane):
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


def _look_for_plugins() -> None:
    """Has another process find what is installed: see `engine.app.plugins.entries`. This one has one thread still."""
    try:
        found = spawn.apart(lambda: msgspec.msgpack.encode(plugins.installed()))
    except OSError as error:
        log.debug("no process can look for plugins, so this one does: %s", error)
    else:
        entries.remember(msgspec.msgpack.decode(found, type=list[entries.Installed]))


def _open(settings: Settings, worker: Worker) -> Link:
    transport = plugins.open_transport(settings.broker, settings.plugins)
    results = plugins.open_results(settings.results, settings.plugins)
    return Link(transport, results, settings.worker.queues, worker)


def _load_observers(settings: Settings, worker: str) -> observers.Observers | None:
    section = settings.plugins
    if not (section.enable or section.load):
        return None
    found = plugins.load_observers(section)
    return observers.Observers(found, settings.engine.name, worker) if observers.Observers.wanted(found) else None
