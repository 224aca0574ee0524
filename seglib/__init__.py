"""seglib: the package behind the four notebooks. Notebooks tell, seglib does.

`import seglib` alone imports nothing heavy; import the module that you need (`from seglib import metrics`).
"""

import os
from importlib.metadata import PackageNotFoundError, version

# Large pages for large tensors on Linux: fewer page faults a step. torch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

try:
    __version__ = version("seglib")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"
