"""Play Colab: the zip in a new environment with the versions of Colab's image. `make test-colab`.

The first cell of each notebook meets a stub of `google.colab` and installs the wheel from beside
it, with the real pip. Four chapters must run in profile `smoke`, the first of them in the kernel
that has just installed the package, and torch, NumPy, pandas and protobuf must be as before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from book.common import BUILD, ROOT, say, tags
from book.execute import clear

CHAPTERS = ("01_concepts", "03_kd_loss", "08_search", "10_recommendation")
KEPT = ("torch", "numpy", "pandas", "protobuf")
STUB = '"""Stands in for the module that Colab loads into each kernel."""\n'
CELL_TIMEOUT_S = 3600


def environment(folder: Path) -> Path:
    """A virtual environment as Colab's, with the stub in it. Returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "-r", str(ROOT / "tools/colab_image.txt")]
    subprocess.run(install, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").write_text(STUB, "utf-8")
    # Lines of such a file that begin with `import` are run whenever this Python starts.
    (packages / "colab.pth").write_text("import google.colab\n", "utf-8")
    return python


def kernel(folder: Path, python: Path) -> None:
    """A kernel of that environment by the name `colab`, with nothing of this checkout in it."""
    place = folder / "kernels" / "colab"
    place.mkdir(parents=True)
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Colab",
        "language": "python",
        "env": {
            "ECOMKD_PROFILE": "smoke",
            "ECOMKD_ARTIFACTS": "artifacts",
            "PYTHONPATH": "",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning of the debugger at each start
        },
    }
    (place / "kernel.json").write_text(json.dumps(spec), "utf-8")
    os.environ["JUPYTER_PATH"] = str(folder)


def versions(python: Path) -> dict[str, str]:
    # Isolated, or a package that lies in the working folder is listed too.
    command = [str(python), "-I", "-m", "pip", "list", "--format=json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {package["name"]: package["version"] for package in listed}


def run(path: Path) -> None:
    """Run a chapter as Colab's "Run all" does, and stop at the first cell that fails."""
    notebook = clear(nbformat.read(path, as_version=4))
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT_S, kernel_name="colab", resources=where)
    begin = time.monotonic()
    try:
        client.execute()
    finally:
        setup = next(cell for cell in notebook.cells if "setup" in tags(cell))
        for output in setup.outputs:
            say(output.get("text", "").rstrip())
    say(f"{path.stem}: {time.monotonic() - begin:.0f} s")


def main(packed: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="colab-") as name:
        folder = Path(name)
        python = environment(folder / "python")
        kernel(folder, python)
        with zipfile.ZipFile(packed) as content:
            content.extractall(folder)
        before = versions(python)
        assert "ecomkd" not in before
        for chapter in CHAPTERS:
            run(folder / "ecomkd" / f"{chapter}.ipynb")
        after = versions(python)
    assert "ecomkd" in after
    for package in sorted(after.keys() | before.keys(), key=str.lower):
        old, new = before.get(package, "new"), after.get(package, "gone")
        if old != new:
            say(f"{package}: {old} -> {new}")
    changed = [package for package in KEPT if after[package] != before[package]]
    if changed:
        sys.exit(f"The first cell changed what Colab has of {', '.join(changed)}.")
    say(f"{len(CHAPTERS)} chapters ran; {', '.join(KEPT)} are as they were.")


if __name__ == "__main__":
    main(BUILD / "ecomkd-colab.zip")
