"""Pictures of products, read and made into vectors: by a network, and by counting colours.

Chapter 15.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ecomkd.extras import needed

with needed("ecomkd.multimodal.pictures", "multimodal"):
    import timm
    import torch
    from PIL import Image, ImageOps, UnidentifiedImageError

from ecomkd import checkpoints
from ecomkd.runtime import ModelError

if TYPE_CHECKING:
    Picture = bytes | Image.Image

RECORDED = Path(__file__).parents[1] / "recorded" / "pictures"
"""Where vectors and thumbnails of real photographs lie, written by `tools/recorded_pictures.py`."""
SIZE = 224
"""Pixels a side of what EfficientNet-Lite0 was trained on."""
WIDTH = 1280
"""Numbers in a vector of EfficientNet-Lite0."""
BINS = (12, 6, 6)
"""Classes of hue, saturation and brightness that `colours` counts."""
MOST_PIXELS = 50_000_000
"""A picture with more is refused: decoded, it would take more than 150 MB."""


def opened(picture: Picture, name: str = "picture") -> Image.Image:
    """The picture in RGB, from the bytes of a file (JPEG, PNG, …) or from an image of Pillow.

    What is transparent becomes white, and a photograph that notes how the camera was held stands
    upright, both as on a shop's page. Raises ValueError, which calls the
    picture `name`, for bytes that are no picture, that are cut short, or for one with more than 50
    million pixels.
    """
    try:
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        told = f"{image.width} × {image.height}"
        if image.width * image.height <= MOST_PIXELS:
            return _upright(image)
    except Image.DecompressionBombError:  # Pillow's own limit, far above this one
        told = "too many"
    # Pillow tells of a damaged part of a PNG by a SyntaxError, and of others by a ValueError.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{name}: no picture that can be read (JPEG, PNG or WebP), or one cut short: "
            "leave it out or get it again."
        ) from error
    raise ValueError(f"{name}: {told} pixels, at most {MOST_PIXELS:,} are read: make it smaller.")


def _upright(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would cut such a grey at 255, and not scale it.
        steps = np.asarray(image)
        grey = (steps >> 8).astype(np.uint8)
        if "transparency" in image.info:
            grey[steps == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def square(picture: Picture, size: int = SIZE, name: str = "picture") -> np.ndarray:
    """The picture (size, size, 3), uint8, in the middle of a white square, nothing cut off.

    Raises as `opened` does.
    """
    image = opened(picture, name)
    if max(image.size) ** 2 > MOST_PIXELS:  # A thin strip would be padded to gigabytes.
        image.thumbnail((4 * size, 4 * size), Image.Resampling.BICUBIC)
    side = max(image.size)
    padded = Image.new("RGB", (side, side), "white")
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(padded.resize((size, size), Image.Resampling.BICUBIC))


def colours(pictures: Sequence[Picture]) -> np.ndarray:
    """How often a picture has each colour, (N, 24), float32: what costs nothing to know of it.

    Shares of 12 hues, each pixel weighed by its saturation, of 6 saturations and of 6 brightnesses,
    over the picture at 32 × 32 pixels. No position and no shape is left. (A colour histogram, Swain
    and Ballard 1991.) Raises ValueError for no picture, and as `opened` does.

    Example:
        >>> red = Image.new("RGB", (60, 80), "red")
        >>> colours([red])[0, :3]
        array([1., 0., 0.], dtype=float32)
    """
    _some(pictures)
    rows = []
    for index, picture in enumerate(pictures):
        small = opened(picture, f"picture {index}").resize((32, 32)).convert("HSV")
        hue, saturation, brightness = np.asarray(small).reshape(-1, 3).T / 255
        counted = [
            np.histogram(hue, BINS[0], (0, 1), weights=saturation)[0],
            np.histogram(saturation, BINS[1], (0, 1))[0],
            np.histogram(brightness, BINS[2], (0, 1))[0],
        ]
        rows.append(np.concatenate(counted) / len(hue))
    return np.array(rows, np.float32)


def encoder() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode: 4.7 million of them.

    (Tan and Le 2019; the Lite variants, Liu 2020.) It takes pictures (B, 3, H, W) scaled to −1 … 1
    and gives, by `forward_features`, a map (B, 1280, H/32, W/32). The weights come with a package
    for another library; they are read without unpickling code, and fit by their order, each of its
    shape.

    Raises ModelError where the package is missing or its file is another one.
    """
    held = torch.load(checkpoints.picture_weights(), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = model.state_dict()
    if [value.shape for value in held.values()] != [value.shape for value in own.values()]:
        raise ModelError(
            "The weights of EfficientNet-Lite0 do not fit timm's network of that name: "
            'pip install "timm==1.0.31"'
        )
    model.load_state_dict(dict(zip(own, held.values(), strict=True)))
    return model.eval()


def vectors(
    pictures: Sequence[Picture], model: Any = None, size: int = SIZE, batch_size: int = 32
) -> np.ndarray:
    """Vectors (N, 1280), float32, of N pictures: the mean of the network's last map.

    `model` is `encoder()` unless given. `size` is that of the square a picture is brought to; a
    smaller one is quicker (its square counts) and coarser. Raises ValueError for no picture, and as
    `opened` and `encoder` do.
    """
    _some(pictures)
    model = encoder() if model is None else model
    place = next(model.parameters()).device
    found = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch_size):
            batch = [
                square(picture, size, f"picture {start + index}")
                for index, picture in enumerate(pictures[start : start + batch_size])
            ]
            pixels = torch.from_numpy(np.stack(batch)).to(place).permute(0, 3, 1, 2)
            seen = model.forward_features(pixels.float() / 127.5 - 1)
            found.append(seen.mean(dim=(2, 3)).cpu().numpy())
    return np.concatenate(found)


def recorded(name: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Real photographs that ship with the package: what is known of each, and its vectors.

    `grocery`: 5,421 photographs in shops, of 81 classes (MIT licence). `grocery_classes`: a text
    and an iconic picture for each class. `clothing`: 3,781 photographs of 10 kinds (CC0). Vectors
    by mode: `network` (N, 128), the first principal components of EfficientNet-Lite0's, in eight
    bits; `colours` (N, 24). Where the frame has a `thumbnail`, it is a JPEG; its `attrs["about"]`
    names source and licence. Raises ValueError for another name.
    """
    path = RECORDED / f"{name}.parquet"
    if not path.exists():
        names = ", ".join(sorted(one.stem for one in RECORDED.glob("*.parquet")))
        raise ValueError(f"No pictures {name!r} are recorded: there are {names}.")
    table = pq.read_table(path)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    scales = {"network": np.array(json.loads(about["scale"])), "colours": 1 / 255}
    held = {}
    for mode, scale in scales.items():
        flat = table[mode].combine_chunks().flatten().to_numpy()
        held[mode] = (flat.reshape(len(table), -1) * scale).astype(np.float32)
    frame = table.drop_columns(["network", "colours"]).to_pandas()
    frame.attrs["about"] = about["about"]
    return frame, held


def _some(pictures: Sequence[Picture]) -> None:
    if not len(pictures):
        raise ValueError("There is no picture to look at.")
