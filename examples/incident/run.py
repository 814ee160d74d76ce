"""Reproduces the causes of the incident that docs/incident.md tells, one after the other.

    python examples/incident/run.py                  # all of them
    python examples/incident/run.py wrong_destroy    # one

Each runs in a throw-away process, and what that process wrote and how it ended is printed.
before_after.py beside this file measures what became of requests.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import caught_and_continued
import lock_does_not_help
import self_deadlock
import wrong_destroy

REPRODUCTIONS = {
    module.__name__: module
    for module in (wrong_destroy, lock_does_not_help, caught_and_continued, self_deadlock)
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REPRODUCTIONS))
    names = parser.parse_args().names or list(REPRODUCTIONS)
    if unknown := set(names) - set(REPRODUCTIONS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    for name in names:
        REPRODUCTIONS[name].reproduce()


if __name__ == "__main__":
    main()
