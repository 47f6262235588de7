"""When a service that died is started again, and when it is given up: with made-up launches and a made-up clock."""

import os
import socket

import pytest

from engine.app.wire import TaskInfo
from engine.runtime import control
from engine.runtime.processes import Exit
from engine.runtime.supervisor.services import CRASH_LIMIT, STEADY, Service

KILLED = Exit(None, 9, "SIGKILL")
ABORTED = Exit(None, 6, "SIGABRT")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Launches:
    def __init__(self) -> None:
        self.ends: list[socket.socket] = []

    def __call__(self, link: socket.socket) -> int:
        self.ends.append(link.dup())
        return 100 + len(self.ends)

    def ready(self, service: Service) -> None:
        control.tell(self.ends[-1], control.Ready())
        service.hear()

    def close(self) -> None:
        for end in self.ends:
            end.close()


def started() -> tuple[Service, Launches]:
    launches = Launches()
    service = Service("test", launches)
    assert service.start_if_due(0.0)
    return service, launches


def test_the_first_restart_is_at_once():
    service, launches = started()
    service.died(Exit(70, None, "exit status 70"), 1.0)
    assert service.start_if_due(1.0)
    assert service.starts == 2
    launches.close()
    service.died(KILLED, 2.0)


def test_one_that_ends_itself_again_and_again_is_started_later_and_later_and_then_given_up():
    service, launches = started()
    now = 0.0
    for _ in range(CRASH_LIMIT - 1):
        launches.ready(service)
        service.died(Exit(70, None, "exit status 70"), now)
        now += 60.0
        assert service.start_if_due(now)
    launches.ready(service)
    service.died(Exit(70, None, "exit status 70"), now)
    assert service.backoff.hopeless
    assert not service.start_if_due(now + 1e6)
    launches.close()


def test_one_that_crashes_again_and_again_is_given_up_too():
    service, launches = started()
    now = 0.0
    for _ in range(CRASH_LIMIT):
        assert not service.backoff.hopeless
        launches.ready(service)
        service.died(ABORTED, now)
        now += 60.0
        service.start_if_due(now)
    assert service.backoff.hopeless
    launches.close()


def test_one_that_says_what_cannot_be_read_is_killed(monkeypatch):
    service, launches = started()
    killed = []
    monkeypatch.setattr("engine.runtime.supervisor.services.os.kill", lambda pid, number: killed.append((pid, number)))
    launches.ends[-1].send(b"\x93\x01\x02")
    assert service.hear() == []
    assert killed == [(101, 9)]
    launches.close()
    service.died(KILLED, 0.0)


def test_what_is_too_large_for_a_packet_arrives_all_the_same():
    service, launches = started()
    tasks = [TaskInfo(f"package.module.a_task_with_a_rather_long_name_{number}") for number in range(5000)]
    control.tell(launches.ends[-1], control.Ready(tasks))
    (heard,) = service.hear()
    assert heard.tasks == tasks
    service.tell(control.AddGeneration(1, tasks), [launches.ends[0].fileno(), launches.ends[0].fileno()])
    message = control.hear(launches.ends[-1])
    assert message is not None
    assert message[0].tasks == tasks
    assert len(message[1]) == 2
    for fd in message[1]:
        os.close(fd)
    launches.close()
    service.died(KILLED, 0.0)


def test_one_that_is_killed_again_and_again_is_started_at_once_each_time():
    service, launches = started()
    for _ in range(10 * CRASH_LIMIT):
        launches.ready(service)
        service.died(KILLED, 5.0)
        assert service.start_if_due(5.0)
    launches.close()
    service.died(KILLED, 5.0)


def test_one_that_is_killed_before_it_is_ready_is_given_up():
    service, launches = started()
    now = 0.0
    for _ in range(CRASH_LIMIT):
        assert not service.backoff.hopeless
        now += STEADY + 1
        service.died(KILLED, now)
        now += 60.0
        service.start_if_due(now)
    assert service.backoff.hopeless
    launches.close()


def test_one_that_worked_for_a_while_starts_with_a_clean_slate():
    service, launches = started()
    now = 0.0
    for _ in range(10 * CRASH_LIMIT):
        launches.ready(service)
        now += STEADY + 1
        service.died(Exit(70, None, "exit status 70"), now)
        assert service.start_if_due(now)
    launches.close()
    service.died(KILLED, now)


def test_what_it_says_of_its_failure_is_kept_for_the_report():
    service, launches = started()
    control.tell(launches.ends[-1], control.Failed(78, "no module 'nowhere'"))
    service.hear()
    assert service.failure == control.Failed(78, "no module 'nowhere'")
    service.died(Exit(78, None, "exit status 78"), 0.1)
    launches.close()


def test_what_is_told_while_there_is_no_room_is_sent_later_with_its_descriptors():
    service, launches = started()
    for number in range(20_000):
        service.tell(control.RetireGeneration(number))
    assert service.has_mail
    service.tell(control.Client(), [launches.ends[0].fileno()])
    heard: list[object] = []
    while len(heard) < 20_001:
        message = control.hear(launches.ends[-1])
        assert message is not None
        heard.append(message[0])
        for fd in message[1]:
            socket.socket(fileno=fd).close()
        service.flush()
    assert isinstance(heard[-1], control.Client)
    assert not service.has_mail
    launches.close()
    service.died(KILLED, 0.0)


def test_a_dismissed_service_is_killed_and_not_started_again(monkeypatch):
    service, launches = started()
    killed = []
    monkeypatch.setattr("engine.runtime.supervisor.services.os.kill", lambda pid, number: killed.append((pid, number)))
    service.dismiss()
    assert killed == [(101, 9)]
    service.died(KILLED, 0.0)
    assert not service.start_if_due(100.0)
    assert service.backoff.failures == 0, "its end is no failure"
    service.dismiss()
    assert killed == [(101, 9)], "nobody is there: its pid may be somebody else's"
    launches.close()


def test_one_that_is_there_is_not_started():
    service, launches = started()
    assert not service.start_if_due(100.0)
    assert service.starts == 1
    launches.close()
    service.died(KILLED, 0.0)


def test_one_that_cannot_be_forked_is_tried_again_and_leaves_no_descriptor():
    before = open_descriptors()

    def launch(link: socket.socket) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    service = Service("test", launch)
    assert not service.start_if_due(0.0)
    assert not service.start_if_due(0.0)
    assert service.starts == 2, "the first restart is at once"
    assert not service.start_if_due(0.0)
    assert service.starts == 2, "the next one waits"
    assert (service.pid, service.fd) == (0, -1)
    assert open_descriptors() == before


@pytest.mark.parametrize("how", ["sent", "unsent", "not copied"])
def test_no_copy_of_a_descriptor_stays_open(how):
    before = open_descriptors()
    service, launches = started()
    ends = [socket.socketpair() for _ in range(2)]
    if how == "unsent":  # there is no room any more, and then nobody to send it to
        while not service.has_mail:
            service.tell(control.Drain())
    if how == "not copied":
        with pytest.raises(OSError, match="Bad file descriptor"):
            service.tell(control.Client(), [ends[0][0].fileno(), 1 << 20])
    else:
        service.tell(control.Client(), [end.fileno() for pair in ends for end in pair])
    launches.close()
    service.died(KILLED, 0.0)
    for pair in ends:
        for end in pair:
            end.close()
    assert open_descriptors() == before
