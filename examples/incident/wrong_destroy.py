"""One thread, no race: destroying what was only initialized ends the process."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import throwaway

DECODERS = 400
SECONDS = 60.0


def reproduce(decoders: int = DECODERS) -> throwaway.End:
    """Use decoders one after the other, in a throw-away process.

    Args:
        decoders: how many, each for one utterance.
    """
    print(f"wrong_destroy: {decoders} decoders, one after the other, in one thread", flush=True)
    return throwaway.run("wrong_destroy.py", "here", str(decoders), silence=SECONDS)


def _here(decoders: int) -> None:
    throwaway.quietly()
    import pattern
    import speech

    requests = speech.utterances(decoders)
    expected = [pattern.decoded(pattern.CorrectDecoder(), packets) for packets in requests]
    seen: Counter[str] = Counter()
    for number, packets in enumerate(requests):
        try:
            right = pattern.decoded(pattern.IncidentDecoder(), packets) == expected[number]
            outcome = "right" if right else "wrong PCM, and no error"
        except OSError as error:  # Windows
            outcome = f"OSError: {error}"
        seen[outcome] += 1
        if seen[outcome] == 1:
            print(f"decoder {number + 1}: {outcome}")
    print("all:", ", ".join(f"{count} x {outcome}" for outcome, count in seen.most_common()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["here"]:
        _here(int(sys.argv[2]))
    else:
        reproduce()
