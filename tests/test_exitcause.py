"""The ends of Windows processes by name, wherever they are read (row W2)."""

from __future__ import annotations

import pytest

from opuspool.exitcause import caught, is_fault, name_exit
from opuspool.exitcodes import ExitCode

CODES = [
    (0xC0000005, "access_violation", "access violation (0xC0000005)"),
    (0xC0000374, "heap_corruption", "heap corruption (0xC0000374)"),
    (0xC0000409, "abort", "fail-fast (0xC0000409)"),
    (0xC00000FD, "stack_overflow", "stack overflow (0xC00000FD)"),
    (0xC000001D, "ill", "illegal instruction (0xC000001D)"),
    (0xC0000094, "fpe", "integer divide by zero (0xC0000094)"),
]


@pytest.mark.parametrize(("code", "reason", "words"), CODES)
def test_an_ntstatus_as_exit_code_is_named(code: int, reason: str, words: str) -> None:
    assert name_exit(code) == (reason, words)


@pytest.mark.parametrize(("code", "reason", "words"), CODES)
def test_what_ctypes_has_caught_is_named_by_its_status(code: int, reason: str, words: str) -> None:
    error = OSError(22, "Windows Error")
    error.winerror = code - 2**32  # type: ignore[attr-defined,unused-ignore]  # Windows' own
    assert is_fault(error)
    said = caught(error)
    assert words in said
    assert name_exit(ExitCode.FAULT, f"opuspool-worker: {said}\n") == (reason, said)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("exception: access violation writing 0x000000208F210000", "access_violation"),
        ("exception: stack overflow", "stack_overflow"),
        ("exception: integer divide by zero", "fpe"),
    ],
)
def test_what_ctypes_has_words_for_is_named_by_them(words: str, reason: str) -> None:
    error = OSError(words)
    assert is_fault(error)
    said = caught(error)
    assert name_exit(ExitCode.FAULT, f"opuspool-worker: {said}\n") == (reason, words)


def test_an_error_of_the_system_is_no_fault() -> None:
    assert not is_fault(FileNotFoundError(2, "No such file or directory"))
