"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed

try:
    VERSION = _installed("opuspool")
except PackageNotFoundError:  # run from a tree that was never installed
    VERSION = "0+unknown"
