"""Execute the notebooks that are stale, write the generated pages, render the book.

`python -m book ACTION`, with `tools/` on the path, as the Makefile calls it.
"""
