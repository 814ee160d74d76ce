"""A child knows when its parent is gone, and dies with it while it cannot look; real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest
from leaks import alive
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfd, prctl")

PARENT = """
import os, subprocess, sys
out, program, *how = sys.argv[1:]
child = subprocess.Popen(
    [sys.executable, "-c", program, out], stdin=subprocess.PIPE, pass_fds=[int(out)]
)
if "lend" in how:  # a child of its own that holds the other end of the pipe for a while
    lend = child.stdin.fileno()
    subprocess.Popen(["sleep", "600"], pass_fds=[lend])
os.close(int(out))
for line in sys.stdin:
    if line == "let go\\n":
        child.stdin.close()
    elif line == "end\\n":
        os._exit(0)
"""
"""Starts a child; does what it is told, a line a command, or lives until it is killed."""

CHILD = """
import ctypes, os, select, sys, time
from opuspool.parent import DeathSignal, ParentWatch

def say(*words):
    os.write(int(sys.argv[1]), (" ".join(map(str, words)) + "\\n").encode())

def wait(milliseconds=20_000):
    "Which of the descriptors are readable: the standard input, the parent's pidfd."
    poll = select.poll()
    for fd in watch.filenos():
        poll.register(fd, select.POLLIN)
    ready = dict(poll.poll(milliseconds))
    return ["stdin" if fd == 0 else "pidfd" for fd in watch.filenos() if fd in ready]

def wait_for_both():
    "The kernel closes a dying parent's pipes a little before it lets go of its children."
    end = time.monotonic() + 10
    while wait() != ["stdin", "pidfd"] and time.monotonic() < end:
        time.sleep(0.001)

watch = ParentWatch()
death = DeathSignal(watch)
"""

WATCHES = CHILD + "say(os.getpid(), wait(0), watch.gone()); say(wait()); say(watch.gone())"
HANGS = CHILD + "say(os.getpid(), death.arm()); ctypes.PyDLL(None).sleep(600)"
DISARMS = CHILD + "death.arm(); death.disarm(); say(os.getpid()); wait_for_both(); say(1)"
ARMS_LATE = CHILD + "say(os.getpid()); wait_for_both(); say(death.arm())"
SEES_BOTH = CHILD + "say(os.getpid()); wait_for_both(); say(wait(), watch.gone())"


class Family:
    """A parent, and what its child says."""

    def __init__(self, parent: subprocess.Popen[str], heard: int) -> None:
        self.parent = parent
        self._heard = os.fdopen(heard)
        first, *self.words = self.line().split(maxsplit=1)
        self.child = psutil.Process(int(first))

    def line(self) -> str:
        """The child's next line; empty: it has ended."""
        return self._heard.readline().rstrip("\n")

    def tell(self, command: str) -> None:
        assert self.parent.stdin is not None
        self.parent.stdin.write(command + "\n")
        self.parent.stdin.flush()

    def close(self) -> None:
        self._heard.close()


@contextmanager
def family(program: str, *how: str) -> Iterator[Family]:
    """A parent with a child that runs `program`; both are killed at the end."""
    heard, said = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(said), program, *how],
        stdin=subprocess.PIPE,
        pass_fds=[said],
        text=True,
    )
    os.close(said)
    found = Family(parent, heard)
    others = psutil.Process(parent.pid).children()
    try:
        with parent:
            yield found
            parent.kill()
    finally:
        for process in others:
            if process.is_running():
                process.kill()
        found.close()


def kill(family: Family) -> None:
    """End the parent as nothing can be prepared for."""
    family.parent.kill()
    family.parent.wait(10)


def test_while_the_parent_lives_nothing_is_readable() -> None:
    with family(WATCHES) as found:
        assert found.words == ["[] False"]


def test_when_the_parent_is_killed_both_descriptors_are_readable() -> None:
    with family(SEES_BOTH) as found:
        kill(found)
        assert found.line() == "['stdin', 'pidfd'] True"


def test_when_the_parent_exits_both_descriptors_are_readable() -> None:
    with family(SEES_BOTH) as found:
        found.tell("end")
        assert found.line() == "['stdin', 'pidfd'] True"


def test_a_parent_that_lets_go_is_as_good_as_gone() -> None:
    with family(WATCHES) as found:
        found.tell("let go")
        assert found.line() == "['stdin']"
        assert found.line() == "True"


def test_a_parent_that_lent_the_pipe_to_another_child_is_seen_to_die() -> None:
    """The pipe stays open, so only the pidfd tells."""
    with family(WATCHES, "lend") as found:
        kill(found)
        assert found.line() == "['pidfd']"
        assert found.line() == "True"


def test_a_child_that_hangs_in_c_dies_with_its_parent() -> None:
    """It holds the GIL: no thread of its own could see the parent go."""
    with family(HANGS) as found:
        assert found.words == ["True"]
        assert alive(found.child)
        kill(found)
        assert found.line() == ""
        wait_until(lambda: not alive(found.child), what="the child is dead")


def test_once_disarmed_the_child_outlives_its_parent_and_sees_it_go() -> None:
    with family(DISARMS) as found:
        kill(found)
        assert found.line() == "1"


def test_arming_after_the_parents_death_says_so() -> None:
    """The signal would never come."""
    with family(ARMS_LATE) as found:
        kill(found)
        assert found.line() == "False"
