"""Stop requests."""

import os
import signal
from collections.abc import Iterator

import pytest

from launcher.ending import StopRequested
from launcher.guard.stop import STOP_SIGNALS, StopRequests


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    numbers = (*STOP_SIGNALS, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_asks_for_a_stop_and_interrupts_nothing(number: signal.Signals) -> None:
    stop = StopRequests()
    stop.listen()
    assert not stop.asked
    os.kill(os.getpid(), number)
    assert stop.asked
    assert stop.agree(True)
    with pytest.raises(StopRequested, match=f"{number.name} after step 7") as raised:
        stop.finish(7, 10)
    assert raised.value.ending == "stopped by signal"


def test_a_closed_terminal_is_not_a_stop_request() -> None:
    stop = StopRequests()
    stop.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.asked


def test_a_second_interrupt_ends_it_now_unless_an_agent_does_that() -> None:
    stop = StopRequests()
    stop.listen()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    patient = StopRequests(now_on_second_sigint=False)
    patient.listen()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
    assert patient.asked


def test_a_request_at_the_last_step_still_ends_as_done() -> None:
    stop = StopRequests()
    assert stop.agree(True)
    stop.finish(10, 10)


def test_a_time_limit_is_its_own_class() -> None:
    stop = StopRequests()
    stop.limit_to(1e9)
    assert not stop.asked
    stop.limit_to(-1.0)
    assert stop.asked
    assert stop.agree(True)
    with pytest.raises(StopRequested) as raised:
        stop.finish(3, 10)
    assert raised.value.ending == "time limit"


def test_what_one_rank_was_asked_all_ranks_remember() -> None:
    stop = StopRequests()
    assert not stop.agree(False)
    assert stop.agree(True)
    assert stop.agree(False)
    with pytest.raises(StopRequested, match="another rank was asked to stop after step 4"):
        stop.finish(4, 10)
