"""What comes again waits at the gate: each rule of `engine.runtime.dispatcher.gate`. No processes, and no real time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dispatcher_rig import message
from gate_rig import GateRig, death_of, record_of

from engine.contract import Envelope
from engine.contract.liveness import GRACE
from engine.contract.results import RETRY
from engine.contract.transport import Ack, Again, Release
from engine.runtime.dispatcher import marks
from engine.runtime.dispatcher.gate import BEGUN_EVERY, HOLD, LOOKED_UP_AT_ONCE


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., GateRig]]:
    """Makes workers, each with a gate, and ends them."""
    made: list[GateRig] = []

    def one(name: str = "w1", other: GateRig | None = None, **options: bool) -> GateRig:
        made.append(GateRig(tmp_path, name, None if other is None else other.backend, **options))
        return made[-1]

    yield one
    for rig in made:
        rig.die()


@pytest.fixture
def rig(make: Callable[..., GateRig]) -> GateRig:
    """Returns a worker's gate."""
    return make()


class TestWhatItIsFor:
    def test_what_comes_for_the_first_time_is_handed_out(self, rig: GateRig) -> None:
        first, again = rig.delivery("a", gate=False), rig.delivery("b")
        rig.come(first, again)
        assert rig.handed == ["a"]
        assert rig.gate.waiting == 1
        assert rig.gate.claims() == {again.claim}

    def test_brokers_that_keep_claims_need_none(self, make: Callable[..., GateRig]) -> None:
        rig = make(active=False)
        rig.comes("a")
        assert rig.handed == ["a"]

    def test_what_nobody_knows_is_held_and_then_runs(self, rig: GateRig) -> None:
        rig.comes("a")
        rig.later(HOLD - 0.2)
        assert rig.handed == []
        rig.later(0.3)
        assert rig.handed == ["a"]
        assert rig.backend.calls == 2

    def test_another_copy_is_looked_at_as_it_comes(self, rig: GateRig) -> None:
        rig.comes("a", copied=True)
        assert rig.handed == ["a"]

    def test_without_a_result_backend_it_runs_when_nothing_here_says_otherwise(
        self, make: Callable[..., GateRig]
    ) -> None:
        rig = make(keeps_results=False)
        rig.come(rig.delivery("a"), rig.delivery("a"), rig.delivery("b"))
        rig.later(HOLD + 0.1)
        assert rig.handed == ["a", "b"]
        assert rig.backend.records == {}

    def test_while_the_result_backend_is_away_it_waits(self, rig: GateRig) -> None:
        rig.backend.down = True
        rig.comes("a")
        rig.later(3.5)
        assert rig.handed == []
        rig.backend.down = False
        rig.later(HOLD + 0.1)
        assert rig.handed == ["a"]

    def test_it_is_handed_out_when_its_mark_is_stored(self, rig: GateRig) -> None:
        rig.comes("a", copied=True)
        rig.backend.stalled = True
        rig.comes("b", copied=True)
        rig.backend.answer()
        assert rig.handed == ["a", "b"]
        mark = rig.backend.mark("b")
        assert mark is not None
        assert (mark.owner, mark.begun, mark.done) == ("w1", False, False)

    def test_what_is_taken_while_its_mark_is_stored_is_not_handed_out_too(self, rig: GateRig) -> None:
        rig.backend.stalled = True
        waiting = rig.comes("a")
        passing = rig.comes("b", copied=True)
        rig.backend._answers.pop(0)()  # looked up: its mark is on its way now
        assert rig.gate.waiting == 2
        assert rig.gate.take(lambda held: held.message.id == "b") == [passing]
        assert rig.gate.take() == [waiting]
        rig.backend.answer()
        assert rig.handed == []


class TestItRunsHere:
    def test_the_run_takes_over_the_new_claim(self, rig: GateRig) -> None:
        held = rig.come(rig.delivery("a", gate=False))[0]
        run = rig.runs(held)
        rig.lose_connection()
        again = rig.comes("a")
        assert rig.gate.waiting == 0
        assert rig.gate.claims() == {again.claim}
        rig.ends(run)
        assert [settlement.claim for settlement in rig.settle()] == [again.claim]
        assert rig.backend.calls == 0

    def test_a_connection_that_is_lost_again_and_again(self, rig: GateRig) -> None:
        held = rig.come(rig.delivery("a", gate=False))[0]
        run = rig.runs(held)
        for number in range(3):
            rig.lose_connection()
            again = rig.comes("a", deliveries=number + 2)
        rig.ends(run)
        assert [settlement.claim for settlement in rig.settle()] == [again.claim]

    def test_a_run_whose_dispatcher_died_takes_it_over_too(self, rig: GateRig) -> None:
        run = rig.runs(rig.delivery("a", gate=False))
        del rig.handoff.inflight[run.sequence]
        rig.lose_connection()
        again = rig.comes("a")
        rig.ends(run)
        assert [settlement.claim for settlement in rig.settle()] == [again.claim]

    def test_the_same_task_sent_twice_waits_for_the_end(self, rig: GateRig) -> None:
        run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
        again = rig.comes("a", copied=True)
        rig.later(5.0)
        assert rig.gate.claims() == {again.claim}
        rig.ends(run)
        rig.settle()
        rig.gate.update(rig.now)
        assert rig.settle() == [Ack(again.claim)]
        assert rig.handed == []


class TestItIsInHandHere:
    def test_of_two_copies_one_runs(self, rig: GateRig) -> None:
        first, second = rig.come(rig.delivery("a", copied=True), rig.delivery("a", copied=True))
        assert rig.handed == ["a"]
        run = rig.runs(first)
        rig.later(5.0)
        rig.ends(run, final=False)
        rig.settle()
        rig.gate.update(rig.now)
        assert rig.settle() == [Ack(second.claim)]
        assert rig.handed == []

    def test_a_second_copy_waits_for_one_that_passed_no_gate(self, rig: GateRig) -> None:
        """Somebody published it twice: only the second says so."""
        first, second = rig.come(rig.delivery("a", gate=False, deliveries=1), rig.delivery("a", deliveries=1))
        assert rig.handed == ["a"]
        rig.later(3.0)
        assert rig.gate.claims() == {second.claim}
        rig.ends(rig.runs(first))
        rig.settle()
        rig.gate.update(rig.now)
        assert rig.settle() == [Ack(second.claim)]

    def test_it_waits_while_an_end_is_on_its_way(self, rig: GateRig) -> None:
        run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
        rig.ends(run, Again(run.claim, Envelope("a", b"")), final=False)
        rig.lose_connection()
        again = rig.comes("a")
        rig.later(5.0)
        assert rig.gate.claims() == {again.claim}
        assert rig.backend.calls == 0

    def test_what_had_not_begun_when_the_connection_was_lost_needs_no_hold(self, rig: GateRig) -> None:
        rig.come(rig.delivery("a", gate=False, deliveries=1))
        rig.lose_connection()
        assert rig.handed == []
        rig.comes("a", deliveries=2)
        assert rig.handed == ["a"]

    def test_it_does_when_it_was_delivered_in_between(self, rig: GateRig) -> None:
        rig.come(rig.delivery("a", gate=False, deliveries=1))
        rig.lose_connection()
        rig.comes("a", deliveries=3)
        assert rig.handed == []

    def test_what_waited_here_is_held_again(self, rig: GateRig) -> None:
        rig.comes("a", deliveries=2)
        rig.lose_connection()
        rig.comes("a", deliveries=3)
        assert rig.handed == []

    def test_its_mark_goes_with_it_so_that_others_need_not_wait(self, rig: GateRig) -> None:
        rig.comes("a", copied=True)
        assert rig.backend.mark("a") is not None
        rig.lose_connection()
        assert rig.backend.mark("a") is None


class TestItEndedHere:
    def test_the_settlement_that_came_too_late_is_made_again(self, rig: GateRig) -> None:
        run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
        rig.lose_connection()
        again = rig.comes("b")
        rig.ends(run, Release(run.claim, counts="crash"), final=False)
        rig.settle(run.claim)
        again = rig.comes("a")
        assert rig.settle() == [Release(again.claim, counts="crash")]

    def test_what_was_given_back_because_of_it_runs(self, rig: GateRig) -> None:
        """Or it would be given back each time that it comes, for ever."""
        run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
        rig.lose_connection()
        rig.ends(run, Release(run.claim, counts="crash"), final=False)
        rig.settle(run.claim)
        rig.comes("a")
        rig.settle()
        rig.comes("a", copied=True)
        assert rig.settle() == []
        assert rig.handed == ["a"]

    def test_also_for_what_waits_already(self, rig: GateRig) -> None:
        run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
        retry = Again(run.claim, Envelope("a", b"next"))
        rig.ends(run, retry, final=False)
        rig.lose_connection()
        again = rig.comes("a")
        rig.settle(run.claim)
        rig.gate.update(rig.now)
        assert rig.settle() == [Again(again.claim, retry.envelope)]

    def test_an_acknowledgement_that_the_broker_forgot(self, rig: GateRig) -> None:
        run = rig.runs(rig.come(rig.delivery("a", gate=False))[0])
        rig.ends(run, final=False)
        rig.settle()
        rig.lose_connection()
        again = rig.comes("a")
        assert rig.settle() == [Ack(again.claim)]
        mark = rig.backend.mark("a")
        assert mark is not None
        assert mark.done

    def test_its_next_retry_is_another_run(self, rig: GateRig) -> None:
        run = rig.runs(rig.comes("a", copied=True))
        rig.ends(run, Again(run.claim, Envelope("a", b"")), final=False)
        rig.settle()
        rig.comes("a", copied=True, retries=1)
        assert rig.handed == ["a"]


class TestRecordsAndMarks:
    def test_a_task_that_has_ended_is_dropped(self, rig: GateRig) -> None:
        rig.backend.records["a"] = record_of(message("a"))
        again = rig.comes("a", copied=True)
        assert rig.settle() == [Ack(again.claim)]

    def test_a_task_that_was_retried_further_is_dropped(self, rig: GateRig) -> None:
        rig.backend.records["a"] = record_of(message("a", retries=1), RETRY, final=False)
        again = rig.comes("a", copied=True)
        assert rig.settle() == [Ack(again.claim)]

    def test_a_run_that_only_told_of_its_progress_may_have_been_lost(self, rig: GateRig) -> None:
        rig.backend.records["a"] = record_of(message("a"), "STARTED", final=False)
        rig.comes("a", copied=True)
        assert rig.handed == ["a"]

    def test_what_ended_elsewhere_and_left_no_record_is_dropped(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.ends(one.runs(one.comes("a", copied=True)), final=False)
        one.settle()
        again = two.comes("a", copied=True)
        assert two.settle() == [Ack(again.claim)]

    def test_such_a_mark_goes_after_a_while(self, rig: GateRig) -> None:
        rig.ends(rig.runs(rig.comes("a", copied=True)), final=False)
        rig.settle()
        rig.later(marks.REMEMBERED - 10)
        assert rig.backend.mark("a") is not None
        rig.later(20)
        assert rig.backend.mark("a") is None

    def test_where_a_record_tells_of_the_end_the_mark_goes_at_once(self, rig: GateRig) -> None:
        rig.ends(rig.runs(rig.comes("a", copied=True)))
        rig.settle()
        assert rig.backend.mark("a") is None

    def test_the_mark_of_an_earlier_retry_says_nothing_of_this_one(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.runs(one.comes("a", copied=True))
        two.comes("a", copied=True, retries=1)
        assert two.handed == ["a"]

    def test_what_was_retried_further_by_its_mark_is_dropped(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.comes("a", copied=True, retries=1)
        again = two.comes("a", copied=True)
        assert two.settle() == [Ack(again.claim)]


class TestAnotherWorkerHasIt:
    def test_while_its_mark_moves_it_waits(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.runs(one.comes("a", copied=True))
        two.comes("a", copied=True)
        for _ in range(20):
            one.later(0.5)
            two.later(0.5)
        assert two.gate.waiting == 1
        assert two.handed == []

    def test_a_mark_that_stands_still_is_of_a_dead_worker(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.comes("a", copied=True)
        two.comes("a", copied=True)
        two.later(two.worker.dead_after - HOLD)
        assert two.handed == []
        two.later(2 * HOLD + 0.1)
        assert two.handed == ["a"]

    def test_a_free_lock_says_so_at_once(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.comes("a", copied=True)
        two.comes("a", copied=True)
        two.later(HOLD + 0.1)
        assert two.handed == []
        one.die()
        two.later(HOLD + GRACE + 0.1)
        assert two.handed == ["a"]

    def test_it_is_not_held_first(self, make: Callable[..., GateRig]) -> None:
        """Who had it is known by its mark, and is dead: nobody else can be about to mark it."""
        one = make("w1")
        two = make("w2", one)
        one.comes("a", copied=True)
        one.die()
        two.comes("a")
        two.later(2 * GRACE + 0.1)
        assert two.handed == ["a"]

    @pytest.mark.parametrize("is_begun", [False, True])
    def test_only_what_had_begun_counts_a_crash(self, make: Callable[..., GateRig], is_begun: bool) -> None:
        one = make("w1")
        two = make("w2", one)
        held = one.comes("a", copied=True)
        if is_begun:
            one.runs(held)
        one.later(BEGUN_EVERY + 0.1)
        mark = one.backend.mark("a")
        assert mark is not None
        assert mark.begun == is_begun
        one.die()
        two.comes("a")
        two.later(2 * HOLD)
        assert two.crashes == ([("a", "its worker died")] if is_begun else [])
        assert two.handed == ([] if is_begun else ["a"])
        if is_begun:
            assert two.backend.mark("a") is None  # it counts once

    def test_what_never_began_is_run_however_often_it_came(self, make: Callable[..., GateRig]) -> None:
        owner = make("w0")
        for number in range(1, 60):
            owner.comes("a", copied=True, deliveries=number)
            owner.later(0.5)
            owner.die()
            owner = make(f"w{number}", owner)
        owner.comes("a", deliveries=60)
        owner.later(2 * HOLD)
        assert owner.handed == ["a"]
        assert owner.crashes == []

    def test_long_runs_are_marked_before_anything_happens(self, make: Callable[..., GateRig]) -> None:
        """As `Consumer.renew` tells a broker that keeps claims."""
        one = make("w1")
        two = make("w2", one)
        one.runs(one.come(one.delivery("a", gate=False))[0])
        one.later(one.worker.dead_after / 10 + 0.1)
        one.die()
        two.comes("a")
        two.later(2 * HOLD)
        assert two.crashes == [("a", "its worker died")]

    def test_its_mark_is_taken_over_also_from_a_clock_that_is_ahead(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.comes("a", copied=True)
        ahead = one.backend.records[marks.mark_id("a")]
        one.backend.records[marks.mark_id("a")] = type(ahead)(
            ahead.id, ahead.state, ahead.sent + 3600, 0, 0, ahead.body
        )
        one.die()
        two.comes("a", copied=True)
        two.later(2 * GRACE + 0.1)
        assert two.handed == ["a"]
        mark = two.backend.mark("a")
        assert mark is not None
        assert mark.owner == "w2"


class TestDeathsThatNobodySettled:
    def test_the_child_died_with_the_dispatcher(self, rig: GateRig) -> None:
        run = rig.runs(rig.delivery("a", gate=False))
        told: list[bool] = []
        rig.gate.marks.bury(death_of(run), lambda: told.append(True))
        assert told == [True]
        rig.board.runs.clear()
        rig.handoff.inflight.clear()
        rig.comes("a", copied=True)
        assert rig.deaths == [("a", "SIGKILL")]
        assert rig.backend.mark("a") is None  # it counts once
        assert rig.handed == []

    def test_another_worker_that_gets_it_judges_at_once(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        run = one.runs(one.delivery("a", gate=False))
        one.gate.marks.bury(death_of(run), lambda: None)
        two.comes("a", copied=True)
        assert two.deaths == [("a", "SIGKILL")]


class TestHowMuchItCosts:
    COUNT = 20_000  # forty calls to look them up, twice

    def test_each_is_looked_up_twice_however_many_wait(self, rig: GateRig) -> None:
        rig.come(*(rig.delivery(f"t{number}") for number in range(self.COUNT)))
        assert rig.gate.waiting == self.COUNT
        assert len(rig.backend.looked_up) == self.COUNT
        rig.later(HOLD - 0.2)
        assert len(rig.backend.looked_up) == self.COUNT
        rig.later(0.3)
        assert len(rig.handed) == self.COUNT
        assert len(rig.backend.looked_up) == 2 * self.COUNT
        assert rig.backend.calls == 2 * self.COUNT / LOOKED_UP_AT_ONCE

    def test_a_turn_and_an_end_look_at_none_of_those_that_wait(
        self, rig: GateRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = rig.runs(rig.come(rig.delivery("mine", gate=False))[0])
        rig.come(*(rig.delivery(f"t{number}") for number in range(self.COUNT)))
        again = rig.comes("mine", copied=True)
        looks: list[str] = []
        decide = rig.gate._decide

        def counted(candidate: object, *args: object) -> bool:
            looks.append(candidate.held.message.id)  # type: ignore[attr-defined]
            return decide(candidate, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(rig.gate, "_decide", counted)
        for _ in range(1000):
            rig.gate.update(rig.now)
        rig.ends(run)
        rig.settle()
        rig.gate.update(rig.now)
        assert looks == ["mine"]
        assert rig.settle() == [Ack(again.claim)]

    def test_one_that_waits_long_is_looked_up_once_a_second(self, make: Callable[..., GateRig]) -> None:
        one = make("w1")
        two = make("w2", one)
        one.runs(one.comes("a", copied=True))
        before = len(one.backend.looked_up)
        two.comes("a", copied=True)
        for _ in range(100):
            one.later(0.1)
            two.later(0.1)
        assert len(one.backend.looked_up) - before == pytest.approx(10 / HOLD, abs=2)

    def test_the_main_loop_rests_until_something_is_due(self, rig: GateRig) -> None:
        assert rig.gate.rest(rig.now) == float("inf")
        rig.comes("a")
        assert rig.gate.rest(rig.now) == pytest.approx(HOLD)
        rig.gate.take()
        rig.comes("b", copied=True)
        assert rig.gate.rest(rig.now) == pytest.approx(BEGUN_EVERY)
