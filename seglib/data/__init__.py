"""dataset.yaml -> samples, images and masks.

classes (names, ids, colours), values (what masks tell before they are named), config (dataset.yaml), pairing and dataset (the samples, digests of their files),
image_io (image and mask files are decoded here), overlay (drawn images, regions), known (the demo, downloads), draft and class_tables
(a first dataset.yaml), convert (polygons -> masks), inject (recorded faults).
"""

from seglib.data.classes import IGNORE, ClassMap, DatasetError, default_colors, some
from seglib.data.config import DatasetConfig
from seglib.data.convert import convert
from seglib.data.dataset import Dataset, check_sizes, compare_digests, digests, explain, load_dataset
from seglib.data.dataset import map_ahead, read_pair
from seglib.data.draft import draft_dataset, split_flag
from seglib.data.image_io import ImageForm, Stored, encode_mask, georeference, read_image, read_mask
from seglib.data.image_io import read_large, read_mask_and_mode, read_picture, read_stored, read_values
from seglib.data.inject import FAULT_KINDS, LABEL_FAULTS, LabelFaults, inject_faults, planted
from seglib.data.known import download, ensure_demo
from seglib.data.overlay import error_map, fitting, joined, label_regions, overlay
from seglib.data.overlay import present, reduced, top_confusions, wrong_pixels
from seglib.data.pairing import FINDING_COLUMNS, find_images

__all__ = [
    "FAULT_KINDS", "FINDING_COLUMNS", "IGNORE", "LABEL_FAULTS", "ClassMap", "Dataset", "DatasetConfig",
    "DatasetError", "ImageForm", "LabelFaults", "Stored", "check_sizes", "compare_digests", "convert",
    "default_colors", "digests", "download", "draft_dataset", "encode_mask", "ensure_demo",
    "error_map", "explain", "find_images", "fitting", "georeference", "inject_faults", "joined",
    "label_regions", "load_dataset", "map_ahead", "overlay", "planted", "present", "read_image", "read_large",
    "read_mask", "read_mask_and_mode", "read_pair", "read_picture", "read_stored", "read_values", "reduced", "some",
    "split_flag", "top_confusions", "wrong_pixels",
]
