"""The page that `ecomkd run` leaves: verdict, comparisons, systems and their speed. Chapter 5."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd

from ecomkd.relevance.verdict import WORDS


def html(
    rows: pd.DataFrame,
    clock: pd.DataFrame,
    compared: pd.DataFrame,
    said: str,
    notes: Sequence[str],
    command: str,
) -> str:
    """A self-contained page: the verdict, what it cannot say, comparisons, systems, their speed."""
    columns = ["ndcg@10", "ndcg@10 low", "ndcg@10 high", "lift@10", "mrr"]
    columns += ["accuracy", "macro_precision", "macro_recall", "macro_f1"]
    shown = rows[[column for column in columns if column in rows]]
    parts = [
        f"<p><strong>{escape(said)}</strong></p>",
        *(f"<p>{escape(sentence)}</p>" for sentence in notes),
        "<h2>What beats what</h2>",
        compared.to_html(
            float_format="{:+.3f}".format, na_rep="", border=0, index=False, classes="compared"
        ),
        f"<p>{escape(WORDS)}</p>",
        "<h2>Quality on held-out queries</h2>",
        shown.to_html(float_format="{:.3f}".format, border=0),
        "<h2>Speed and size</h2>",
        clock.drop(columns="role").to_html(float_format="{:.2f}".format, na_rep="", border=0),
        f"<p>Made by <code>{escape(command)}</code>.</p>",
    ]
    return page("Distillation report", parts)


def page(title: str, parts: Sequence[str]) -> str:
    """A self-contained page of these parts, each HTML."""
    return _PAGE.replace("TITLE", escape(title)).replace("BODY", "\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, .compared th, .compared td { text-align: left; }
</style></head><body><h1>TITLE</h1>
BODY
</body></html>
"""
