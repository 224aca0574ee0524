"""data."""

from seglib.data.ahead import map_ahead
from seglib.data.classes import ClassMap, IGNORE, default_colors
from seglib.data.config import read_mapping
from seglib.data.dataset import Dataset, check_sizes, explain, load_dataset, read_pair
from seglib.data.demo import make_demo
from seglib.data.download import fetch
from seglib.data.faults import KINDS
from seglib.data.fingerprint import check_record, compare_digests, digests, read_record, read_sealed, since_check, write_sealed
from seglib.data.image_io import DatasetError, FORMATS, read_image, read_mask, read_mask_and_mode, read_picture, read_stored
from seglib.data.init import draft_dataset
from seglib.data.inject import plant
from seglib.data.mask_files import encode_mask
from seglib.data.overlay import AGAIN, ERROR, confidence_map, data_uri, error_map, fitting, overlay, present, stored_picture, top_confusions, wrong_pixels
from seglib.data.pairing import FINDING_COLUMNS
from seglib.data.regions import label_regions

__all__ = ["AGAIN", "ClassMap", "Dataset", "DatasetError", "ERROR", "FINDING_COLUMNS", "FORMATS", "IGNORE", "KINDS", "check_record", "check_sizes", "compare_digests", "confidence_map", "data_uri", "default_colors", "digests", "draft_dataset", "encode_mask", "error_map", "explain", "fetch", "fitting", "label_regions", "load_dataset", "make_demo", "map_ahead", "overlay", "plant", "present", "read_image", "read_mapping", "read_mask", "read_mask_and_mode", "read_pair", "read_picture", "read_record", "read_sealed", "read_stored", "since_check", "stored_picture", "top_confusions", "write_sealed", "wrong_pixels"]
