"""Look at failed images: live in Jupyter (`FailureBrowser`) and as one HTML file (`write_report`).

`details` gathers what an analysis knows of each image, packs its pictures, lists and words it.
The .js files are one front end, fed by a kernel (`browser`) or by embedded data (`report`).
"""

from seglib.browser.browser import FailureBrowser
from seglib.browser.details import Details
from seglib.browser.report import write_findings, write_report

__all__ = ["Details", "FailureBrowser", "write_findings", "write_report"]
