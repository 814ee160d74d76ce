"""What a rival is: its name, its calls, its processes; and what it is told."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import msgspec

from opuspool.bench.loads import Kind, Load

if TYPE_CHECKING:
    from opuspool.bench.window import Window
    from opuspool.pcm import Pcm

__all__ = ["Processes", "Rival", "Setup"]


class Setup(msgspec.Struct, frozen=True):
    """What all rivals are told.

    Attributes:
        libopus: path of the library that all of them decode with.
        workers: decoder processes, or threads where nothing else limits them.
        own_workers: opuspool's processes, where it starts them itself.
        endpoint: a daemon for opuspool; None: a private supervisor.
        config: path of opuspool's settings; None: the defaults.
    """

    libopus: str
    workers: int
    own_workers: int
    endpoint: str | None = None
    config: str | None = None


@dataclass(frozen=True)
class Processes:
    """The processes of a rival by what they do; the client is the process that calls."""

    supervisor: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)

    def by_role(self) -> dict[str, list[int]]:
        """Process ids of "client", "supervisor" and "workers"."""
        return {"client": [os.getpid()], "supervisor": self.supervisor, "workers": self.workers}


class Rival(ABC):
    """One way to decode, opened once and given load after load.

    Attributes:
        name: as `--only` takes it.
        title: as the table shows it.
        kinds: what it can do.
        most: the most calls at once that it is asked for.
        exact: its PCM equals libopus's own; else it is only near.
        pool: a process pool that ratios compare with, among those that are called alike.
        tasks: called from asyncio tasks.
        noisy: its processes cost time even while it has nothing to do.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind)
    most: ClassVar[int] = 500
    exact: ClassVar[bool] = True
    pool: ClassVar[bool] = False
    tasks: ClassVar[bool] = False
    noisy: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here and what to install, or None."""
        return None

    @classmethod
    def takes(cls, load: Load) -> bool:
        """Whether it can do a load."""
        return load.kind in cls.kinds and load.at_once <= cls.most

    @abstractmethod
    def open(self) -> None:
        """Start what it needs."""

    @abstractmethod
    def run(self, load: Load, window: Window) -> None:
        """Do a load, and note its calls, until the window ends."""

    @abstractmethod
    def decode_once(self, kind: Kind) -> Pcm:
        """What it makes of `speech`, by the calls that are measured: for the check."""

    @abstractmethod
    def close(self) -> None:
        """End all that it started."""

    def processes(self) -> Processes:
        """Its processes, the client's left out."""
        return Processes()
