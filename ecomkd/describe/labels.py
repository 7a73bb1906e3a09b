"""Sentences of models about products, read and labelled by hand: what a checker is held against.

Each was read beside the record of its product, by this guideline:

- **supported**: whatever the sentence claims is in the record, or follows from the product's name
  or kind. Praise, moods and occasions ("perfect for any room") claim nothing. A value of the record
  may stand on a part that products of the kind have.
- **unsupported**: it claims what somebody could check and what the record does not hold: a further
  part, a material, a size, or that something is durable, comfortable, adjustable.
- **denied**: the record, the name or the kind says something else: another colour where colours are
  recorded, boots where the product is shoes, the name of something that does not exist.

A sentence with several claims has the worst label of them. Chapter 12.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

LABELS = ("supported", "unsupported", "denied")


def labelled(later: bool = False) -> pd.DataFrame:
    """The sentences that checkers are held against, or with `later` those of further writers.

    The columns are `writer`, `product_id`, `record`, `sentence`, `label`, and `second`. Products
    are those of the demo store (see its data card), and records are as `facts.Product.record` has
    them. `second` is the label of another reading, made apart and by the same guideline; it is
    there for some sentences, and "" for the others. The `later` ones were labelled afterwards and
    by a second reader, who knew their writer; the guideline was the same.
    """
    found = pd.read_csv(Path(__file__).with_name("sentences.csv"), keep_default_na=False)
    own = found[found["reading"] == ("later" if later else "first")]
    return own.drop(columns="reading").reset_index(drop=True)
