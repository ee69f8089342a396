"""What takes long before the first step is said, and nothing where it is fast."""

import time

from launcher.track.waiting import Waiting
from tests.wait import wait_for


def test_it_is_said_again_and_again_until_the_next_thing_begins() -> None:
    said: list[str] = []
    waiting = Waiting(said.append, first_s=0.05, again_s=0.05)
    waiting.begin("reading")
    wait_for(lambda: len(said) >= 2)
    waiting.begin("building")
    wait_for(lambda: "building: 0 s so far" in said)
    waiting.end()
    time.sleep(0.1)  # a thread that was about to speak has spoken
    count = len(said)
    time.sleep(0.2)
    assert len(said) == count
    assert said[0] == "reading: 0 s so far"
    assert sorted(said, key=lambda text: text.startswith("building")) == said


def test_a_fast_start_says_nothing() -> None:
    said: list[str] = []
    waiting = Waiting(said.append, first_s=30.0)
    waiting.begin("reading")
    waiting.begin("building")
    waiting.end()
    waiting.end()
    assert said == []
