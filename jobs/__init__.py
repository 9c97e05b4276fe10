"""The stages of a retrain cycle, and the `refrain` command that runs them."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("refrain")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
