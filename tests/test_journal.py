"""Checkpoint and log: what a stream's rebuild is made of."""

from __future__ import annotations

import pytest
from opuspool_supervisor.journal import Journal, Trust
from opuspool_supervisor.records import Client, Stream

from opuspool.streamformat import StreamFormat
from opuspool.wire import Action, Step

FORMAT = StreamFormat(48000, 2, "int16")
KEY = 9

NO_LIMIT = 1000


def journal(log: str = "", checkpoint: bytes | None = None) -> Journal:
    """A journal with a checkpoint, then one entry for each word of `log`, an operation a letter."""
    made = Journal()
    if checkpoint is not None:
        made.save(checkpoint)
    for word in log.split():
        made.settle(word.encode(), len(word), NO_LIMIT)
    return made


def words(made: Journal) -> str:
    return " ".join(blob.decode() for blob, _ in made.entries)


def rebuilt(made: Journal, trust: Trust) -> list[str]:
    """The steps of a rebuild, in short."""
    stream = Stream(KEY, Client(b"anna", 0.0), 1, FORMAT, made)
    steps = made.rebuild(stream, trust)
    for step, payload in steps:
        count = len(payload) if step.action == Action.REPLAY else 0
        assert step == Step(KEY, len(payload), count, FORMAT.code, step.action)
    return [f"{Action(step.action).name} {payload.decode()}".strip() for step, payload in steps]


def test_a_new_journal_is_a_fresh_decoder() -> None:
    """Nothing has been settled: the rebuild only opens, and that is exact."""
    made = journal()
    assert (made.checkpoint, made.entries, made.packets, made.exact) == (None, [], 0, True)
    assert rebuilt(made, Trust.ALL) == ["OPEN"]


def test_settled_operations_are_kept_in_order() -> None:
    """What came first is replayed first, request by request."""
    made = journal("ab c def")
    assert (words(made), made.packets, made.exact) == ("ab c def", 6, True)
    assert rebuilt(made, Trust.ALL) == ["OPEN", "REPLAY ab", "REPLAY c", "REPLAY def"]


def test_a_checkpoint_takes_the_place_of_the_log() -> None:
    """All that was settled lies before it; what comes later lies behind it."""
    made = journal("ab c")
    made.save(b"one")
    assert (made.checkpoint, made.entries, made.packets) == (b"one", [], 0)
    made.settle(b"d", 1, NO_LIMIT)
    assert rebuilt(made, Trust.ALL) == ["RESTORE one", "REPLAY d"]


@pytest.mark.parametrize(
    ("trust", "steps"),
    [
        (Trust.ALL, ["RESTORE one", "REPLAY ab", "REPLAY c"]),
        (Trust.LOG, ["OPEN", "REPLAY ab", "REPLAY c"]),
        (Trust.NOTHING, ["OPEN"]),
    ],
)
def test_less_trust_rebuilds_from_less(trust: Trust, steps: list[str]) -> None:
    """First the checkpoint is left out, then the log; nothing of them is thrown away by that."""
    made = journal("ab c", checkpoint=b"one")
    assert rebuilt(made, trust) == steps
    assert (made.checkpoint, words(made), made.exact) == (b"one", "ab c", True)


@pytest.mark.parametrize(
    ("trust", "checkpoint", "log", "exact"),
    [
        (Trust.ALL, b"one", "ab c", True),
        (Trust.LOG, None, "ab c", False),
        (Trust.NOTHING, None, "", False),
    ],
)
def test_commit_forgets_what_the_decoder_was_rebuilt_without(
    trust: Trust, checkpoint: bytes | None, log: str, exact: bool
) -> None:
    """The next rebuild gives the decoder that lives now, not the one that was lost."""
    made = journal("ab c", checkpoint=b"one")
    made.commit(trust)
    assert (made.checkpoint, words(made), made.exact) == (checkpoint, log, exact)
    assert made.packets == sum(count for _, count in made.entries)


@pytest.mark.parametrize(
    ("checkpoint", "limit", "log", "packets", "left", "exact"),
    [
        (None, 6, "ab c def", 6, "ab c def", True),
        (None, 5, "ab c def", 4, "c def", False),
        (None, 3, "ab c def", 3, "def", False),
        (b"one", 6, "ab c def", 6, "ab c def", True),
        (b"one", 5, "ab c def", 4, "c def", False),
        (b"one", 2, "abcdef", 6, "abcdef", True),
        (b"one", 2, "a bcdef", 5, "bcdef", False),
    ],
)
def test_the_limit_drops_the_oldest(
    checkpoint: bytes | None, limit: int, log: str, packets: int, left: str, exact: bool
) -> None:
    """Over the limit the oldest go, and a checkpoint before them; the newest always stays."""
    made = Journal(checkpoint)
    for word in log.split():
        made.settle(word.encode(), len(word), limit)
    assert (words(made), made.packets, made.exact) == (left, packets, exact)
    assert made.checkpoint == (checkpoint if exact else None)


def test_a_new_checkpoint_makes_an_inexact_journal_exact() -> None:
    """It holds all of the decoder that lives now, whatever was forgotten before."""
    made = journal("ab c", checkpoint=b"one")
    made.commit(Trust.NOTHING)
    made.save(b"two")
    assert made.exact
    assert rebuilt(made, Trust.ALL) == ["RESTORE two"]
