"""dataset.yaml -> samples, images and masks.

classes (names, ids, colours), config (dataset.yaml), pairing and dataset (the table of samples), image_io (files),
overlay (drawn images), regions, fingerprint (digests of files), demo, download, draft (a first dataset.yaml), inject
(recorded faults).
"""

from seglib.data.classes import IGNORE, ClassMap, default_colors, some
from seglib.data.config import DatasetConfig
from seglib.data.dataset import Dataset, check_sizes, explain, load_dataset, map_ahead, read_pair
from seglib.data.demo import ensure_demo, make_broken, planted
from seglib.data.download import download
from seglib.data.draft import draft_dataset
from seglib.data.fingerprint import check_record, compare_digests, digests
from seglib.data.image_io import (
    DatasetError, encode_mask, read_image, read_mask, read_mask_and_mode, read_picture, read_stored,
)
from seglib.data.inject import KINDS, inject_faults
from seglib.data.overlay import data_uri, error_map, fitting, overlay, present, top_confusions, wrong_pixels
from seglib.data.pairing import FINDING_COLUMNS
from seglib.data.regions import label_regions

__all__ = [
    "FINDING_COLUMNS", "IGNORE", "KINDS", "ClassMap", "Dataset", "DatasetConfig", "DatasetError", "check_record",
    "check_sizes", "compare_digests", "data_uri", "default_colors", "digests", "download", "draft_dataset",
    "encode_mask", "ensure_demo", "error_map", "explain", "fitting", "inject_faults", "label_regions",
    "load_dataset", "make_broken", "map_ahead", "overlay", "planted", "present", "read_image", "read_mask",
    "read_mask_and_mode", "read_pair", "read_picture", "read_stored", "some", "top_confusions", "wrong_pixels",
]
