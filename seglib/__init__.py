"""The package of the four notebooks: import the room that you need (`from seglib import metrics`)."""

from importlib import import_module, metadata
from types import ModuleType

__version__ = metadata.version("seglib")


def __getattr__(name: str) -> ModuleType:
    """Import a room when it is first named: `seglib.data` after `import seglib` alone (PEP 562)."""
    if name in ("data", "metrics", "checks", "train", "evaluate", "failures", "browser", "plots"):
        return import_module(f"seglib.{name}")
    raise AttributeError(f"module 'seglib' has no attribute {name!r}")
