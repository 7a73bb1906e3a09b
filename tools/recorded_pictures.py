"""Write the recorded pictures of chapter 15: vectors of reduced size, and small thumbnails.

    PYTHONPATH=tools python tools/recorded_pictures.py

needs ECOMKD_REAL_DATA and the extra `multimodal`; it takes some ten minutes of one core. Of each
photograph: the first 128 principal components of the network's vector, fitted on the training
photographs and rounded to eight bits, and the counted colours. Of some photographs of groceries,
and of the iconic pictures, a thumbnail. The licences, which stand in each file, allow it.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

from ecomkd.multimodal import pictures

WIDTH = 128
SHOWN = 8
"""Test photographs of a class of groceries that have a thumbnail."""
SIDES = {"photograph": 48, "iconic": 64}
ABOUT = {
    "grocery": "GroceryStoreDataset, github.com/marcusklasson/GroceryStoreDataset (Klasson, Zhang "
    "and Kjellström, WACV 2019). MIT License, Copyright (c) 2019 Marcus Klasson.",
    "clothing": "clothing-dataset-small, github.com/alexeygrigorev/clothing-dataset-small "
    "(Grigorev 2020). CC0 1.0: public domain.",
}


def main() -> None:
    root = Path(os.environ["ECOMKD_REAL_DATA"])
    model = pictures.encoder()
    photos = _read(root / "grocery/images112.parquet", "image")
    icons = _read(root / "grocery/classes_text_iconic.parquet", "iconic_image")
    held = [pictures.vectors(list(one["picture"]), model) for one in (photos, icons)]
    first = PCA(WIDTH, random_state=0).fit(held[0][photos["split"] == "train"])
    nth = photos.groupby(["split", "class_id"]).cumcount()
    shown = (photos["split"] == "test") & (nth < SHOWN)
    photos["thumbnail"] = [
        _small(one, SIDES["photograph"]) if wanted else None
        for one, wanted in zip(photos["picture"], shown, strict=True)
    ]
    icons["thumbnail"] = [_small(one, SIDES["iconic"]) for one in icons["picture"]]
    _write("grocery", photos, first.transform(held[0]), "grocery")
    _write("grocery_classes", icons, first.transform(held[1]), "grocery")
    clothes = _read(root / "clothing_small/images128.parquet", "image")
    vectors = pictures.vectors(list(clothes["picture"]), model)
    first = PCA(WIDTH, random_state=0).fit(vectors[clothes["split"] == "train"])
    _write("clothing", clothes.drop(columns="file"), first.transform(vectors), "clothing")


def _read(path: Path, column: str) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    held = [one["bytes"] if isinstance(one, dict) else one for one in frame[column]]
    return frame.drop(columns=column).assign(picture=held)


def _small(picture: bytes, side: int) -> bytes:
    image = pictures.opened(picture)
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return file.getvalue()


def _write(name: str, frame: pd.DataFrame, vectors: np.ndarray, source: str) -> None:
    scale = np.abs(vectors).max(axis=0) / 127
    colours = pictures.colours(list(frame["picture"]))
    table = pa.Table.from_pandas(frame.drop(columns="picture"), preserve_index=False)
    for column, values, kind in (
        ("network", np.rint(vectors / scale), pa.int8()),
        ("colours", np.rint(255 * colours), pa.uint8()),
    ):
        flat = pa.array(values.ravel().astype(kind.to_pandas_dtype()), kind)
        table = table.append_column(
            column, pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        )
    about = {"about": ABOUT[source], "scale": json.dumps([float(f"{one:.6g}") for one in scale])}
    path = pictures.RECORDED / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata(about), path, compression="zstd")
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
