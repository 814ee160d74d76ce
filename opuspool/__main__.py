"""`python -m opuspool`: the same as the command `opuspool`."""

from opuspool.cli import main

if __name__ == "__main__":
    main(prog_name="opuspool")
