"""The package of the four notebooks; import the room that you need (`from seglib import metrics`)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("seglib")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
