"""Write `_build/ecomkd-colab.zip`: the wheel, the notebooks and a page of instructions, for Colab.

Everything is in one folder `ecomkd`. Put into a Google Drive as it is, it is the folder in which
the first cell of a notebook looks for the wheel.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import smoke
from book.common import BUILD, chapters, write

README = """\
The book "Transfer learning for e-commerce search" on Google Colab
==================================================================

In this folder are the chapters as notebooks (*.ipynb) and the package that they use
({wheel}). You need a Google account.

With your Google Drive, to come back later:

  1. Open https://drive.google.com and drag this whole folder, `ecomkd`, into "My Drive".
  2. There, double-click a chapter, such as {first}. If it does not open in Colab:
     right-click it, then "Open with", then "Google Colaboratory".
  3. In Colab, click the folder icon on the left, then the Drive icon ("Mount Drive"), and allow it.
  4. Choose "Runtime", then "Run all". The first cell installs the package.

Without a drive, for one sitting:

  1. Open https://colab.research.google.com, choose "Upload", and give it one chapter.
  2. Click the folder icon on the left, and drag {wheel} into the list.
  3. Choose "Runtime", then "Run all". The first cell installs the package.

Good to know:

  - The first cell keeps Colab's own PyTorch, NumPy and pandas. Red lines that begin with "ERROR:
    pip's dependency resolver" are about other programs on that machine; the chapters do not use
    them. You need not restart the session.
  - Each notebook has a machine of its own and asks for the package again; a machine is deleted
    when you leave it for long, with what it has trained.
  - For a GPU choose "Runtime", then "Change runtime type", then "T4 GPU"; put a new cell above all
    others with the line %env ECOMKD_PROFILE=gpu and run it first. Profile gpu is larger, and its
    time and memory were not measured. With %env ECOMKD_PROFILE=smoke a chapter takes about a
    minute; its numbers then mean nothing.
"""


def pack(wheel: Path, notebooks: list[Path]) -> bytes:
    """The zip. Equal content makes equal bytes: no time of day is in it."""
    page = README.format(wheel=wheel.name, first=notebooks[0].name)
    files = {"README.txt": page.encode(), wheel.name: wheel.read_bytes()}
    files |= {path.name: path.read_bytes() for path in notebooks}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(f"ecomkd/{name}")
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, data)
    return content.getvalue()


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = pack(smoke.built(Path(folder)), chapters())
    write(target, content)
    print(f"{target}: {len(content) / 2**20:.1f} MiB; its README.txt says how to go on.")


if __name__ == "__main__":
    main(BUILD / "ecomkd-colab.zip")
