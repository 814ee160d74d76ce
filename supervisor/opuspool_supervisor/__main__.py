"""`python -m opuspool_supervisor`: the same as the command `opuspool-supervise`."""

from opuspool_supervisor.cli import main

if __name__ == "__main__":
    main(prog_name="opuspool-supervise")
