"""A bounded buffer of int16 PCM that forgets the oldest first."""

from __future__ import annotations

from collections import deque


class PCM16RingBuffer:
    """PCM in the chunks in which it came.

    Args:
        capacity_samples: int16 values, of all channels together. Where more comes, whole chunks
            are forgotten, the oldest first.
    """

    def __init__(self, capacity_samples: int) -> None:
        self.capacity_samples = capacity_samples
        self._chunks: deque[bytes] = deque()
        self._bytes = 0

    def write(self, pcm16_bytes: bytes) -> None:
        """Append PCM."""
        if not pcm16_bytes:
            return
        self._chunks.append(pcm16_bytes)
        self._bytes += len(pcm16_bytes)
        while self._bytes > 2 * self.capacity_samples:
            self._bytes -= len(self._chunks.popleft())

    def available_samples(self) -> int:
        """How many int16 values can be read."""
        return self._bytes // 2

    def read(self, samples: int) -> bytes:
        """Take the oldest PCM.

        Args:
            samples: int16 values, at most; fewer are given where there are fewer.
        """
        wanted = 2 * samples
        taken: list[bytes] = []
        while wanted > 0 and self._chunks:
            chunk = self._chunks.popleft()
            if len(chunk) > wanted:
                self._chunks.appendleft(chunk[wanted:])
                chunk = chunk[:wanted]
            taken.append(chunk)
            wanted -= len(chunk)
            self._bytes -= len(chunk)
        return b"".join(taken)

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._bytes = 0
