"""Image -> the tensor mPLUG-Owl2 sees: padded to a square, 448 px, CLIP's mean and deviation.

Source: getFeature.py and mm_utils.py (`expand2square`), CLIPImageProcessor of the released
checkpoint. Kept from there: the padding colour is the mean cut to integers, an odd rest of
padding goes to the right and to the bottom.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ma_agiqa.errors import ImageError
from ma_agiqa.types import RGB

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING = (122, 116, 104)
MAX_SIDE = 16384  # a padded square of this side takes 0.8 GB

# Every channel has 256 possible values: normalise those, then look them up.
_GREY = (np.arange(256) * (1 / 255)).astype(np.float32)
_LEVELS = np.stack(
    [(_GREY - np.float32(m)) / np.float32(s) for m, s in zip(MEAN, STD, strict=True)]
)


def preprocess(image: RGB, *, side: int) -> NDArray[np.float32]:
    """Return the normalised image, (H, W, 3) uint8 -> (3, side, side) float32.

    Raises:
        ImageError: the array is no RGB image, is empty, or is too long to be padded.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ImageError(f"expected a uint8 array (H, W, 3), got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels exceed {MAX_SIDE} on the longer side")
    square = Image.fromarray(image)
    if height != width:
        canvas = Image.new("RGB", (longer, longer), PADDING)
        canvas.paste(square, ((longer - width) // 2, (longer - height) // 2))
        square = canvas
    resized = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
    return np.stack([_LEVELS[c][resized[:, :, c]] for c in range(3)])
