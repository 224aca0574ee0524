"""failures."""

from seglib.failures.annotation import export_cvat, export_label_studio
from seglib.failures.confidence import EarlyWarning
from seglib.failures.corrections import import_cvat, import_label_studio
from seglib.failures.exports import to_relabel
from seglib.failures.label_errors import SURE
from seglib.failures.verdicts import VERDICTS, VerdictBook

__all__ = [
    "SURE",
    "VERDICTS",
    "EarlyWarning",
    "VerdictBook",
    "export_cvat",
    "export_label_studio",
    "import_cvat",
    "import_label_studio",
    "to_relabel",
]
