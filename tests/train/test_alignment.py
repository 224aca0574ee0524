"""Image and mask stay together, from the files to the training crop and back from the prediction to the mask.

Every image is a map of its own coordinates (red: twice the column, green: twice the row): it says which id
has to stand where, to half a pixel, and on average without the shift of a wrong half-pixel convention.
"""

import numpy as np
import pytest
import torch
from conftest import write_dataset
from torch import nn

from seglib.data import IGNORE, load_dataset
from seglib.evaluate import predict
from seglib.params import Evaluate, Train
from seglib.train import DevicePlan, ModelSpec, Segmenter, build_cache, scoring_batches
from seglib.train.loader import augmented, crop_size, training_batches

PLAN = DevicePlan()
# No side is an even multiple of another: half of it would have no middle pixel, and the nearest lie half a pixel beside it.
SIZES = [(33, 47), (64, 64), (91, 121), (20, 17), (101, 40), (1, 50), (119, 119)]
STILL = {"color": 0, "blur": 0, "noise": 0, "crop_height": 32, "crop_width": 64}
CELL = 8
EVERYTHING = {"flip_tta": True, "tile": 64, "scale_tta": "0.75 1.5"}


def write(folder, sizes, axis: int, cell: int):
    """A dataset of pictures, and masks of the column (axis 1) or row (axis 0) in cells of so many pixels."""
    pairs = {}
    for k, places in enumerate(map(np.indices, sizes)):
        image = np.stack([2 * places[1], 2 * places[0], 0 * places[0]], axis=-1).astype(np.uint8)
        pairs[str(k)] = image, (places[axis] // cell).astype(np.uint8)
    write_dataset(folder, {"train": pairs}, [f"c{k}" for k in range(128 // cell)])
    return load_dataset(folder)


@pytest.mark.parametrize("long_side", [0, 60], ids=["whole", "shrunk"])
@pytest.mark.parametrize("flip", [0.0, 1.0], ids=["straight", "mirrored"])
def test_from_the_files_to_the_training_crop(tmp_path, monkeypatch, long_side, flip):
    """Decoded, shrunk, cut, padded to the batch, mirrored, scaled, turned, cropped: the mask's id is the picture's coordinate."""
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    params = Train(**STILL, batch_size=3, flip=flip, scale_min=0.5, scale_max=2.0, rotation=20.0)
    for axis, channel in ((1, 0), (0, 1)):
        cached = build_cache(write(tmp_path / f"set{axis}", SIZES, axis, cell=1), "train", long_side)
        assert cached.image_sizes.max(1).tolist() == [min(max(size), long_side or 999) for size in SIZES]
        shrunk = [max(a) / max(b) for a, b in zip(SIZES, cached.image_sizes, strict=True)]
        errors = []
        for epoch in range(4):
            for batch in training_batches(cached, params, PLAN, epoch):
                images, masks = augmented(batch, crop_size(cached, params), PLAN)
                for i, image, mask in zip(batch.index, images[:, channel] / 2, masks, strict=True):
                    inside = mask != IGNORE
                    assert inside.any() or max(cached.image_sizes[i]) < 64
                    error = (image - mask)[inside]
                    # Half a pixel of what was cut; of what was shrunk, half a pixel each of box and of nearest.
                    assert error.abs().max() <= (0.51 if shrunk[i] == 1 else shrunk[i] / 2 + 1)
                    errors.append(error)
        # Shrinking by no whole factor brings up to half a pixel here and its opposite there.
        assert abs(torch.cat(errors).mean()) < (0.15 if long_side else 0.02)


class Sees(nn.Module):
    """A network that answers with what it is shown: in which cell the column lies (channel 0), or the row (1)."""

    def __init__(self, spec: ModelSpec, channel: int) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.cells, self.channel = len(spec.classes), channel
        self.mean, self.std = (torch.tensor(part).view(1, 3, 1, 1) for part in (spec.mean, spec.std))

    def forward(self, images):
        seen = (images * self.std + self.mean) * 255 / 2
        centres = torch.arange(self.cells).view(1, -1, 1, 1) * CELL + (CELL - 1) / 2
        return -((seen[:, self.channel, None] - centres) ** 2)


@pytest.mark.parametrize("options", [{}, {"flip_tta": True}, {"tile": 16}, EVERYTHING], ids=str)
@pytest.mark.parametrize("long_side", [0, 60], ids=["whole", "shrunk"])
def test_predictions_lie_on_the_masks_they_are_scored_with(tmp_path, monkeypatch, long_side, options):
    """What the network sees in the shrunk picture, brought to the mask's own size, is the mask: but for the rims of cells."""
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    sizes = [(47, 71), (96, 120), (33, 64)]
    for axis, channel in ((1, 0), (0, 1)):
        dataset = write(tmp_path / f"set{axis}", sizes, axis, CELL)
        spec = ModelSpec("Unet", "resnet18", dataset.classes)
        model = Segmenter(Sees(spec, channel), spec).eval()
        cached = build_cache(dataset, "train", long_side, original_masks=True)
        errors = []
        for index, images, masks in scoring_batches(cached, 2):
            pred = predict(model, images, masks.shape[1:], PLAN, Evaluate(**options)).argmax(1).numpy()
            for i, ids, mask in zip(index, pred, masks, strict=True):
                assert mask.shape == sizes[int(cached.ids[i])]
                shrunk = max(mask.shape) / max(cached.image_sizes[i])
                place = np.indices(mask.shape)[axis]
                low, high = CELL * ids - 0.5, CELL * ids + CELL - 0.5
                beside = np.maximum(low - place, place - high)  # pixels to the cell that was predicted
                assert beside.max() <= shrunk / 2 + 0.1
                errors.append((ids.astype(int) - mask).ravel())
        assert abs(np.concatenate(errors).mean()) < 0.15 / CELL  # the outlines are right to 0.15 pixels
