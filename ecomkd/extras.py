"""What is said of a package that is not installed: what needs it, and which extra brings it.

All chapters.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(by: str, extra: str) -> Iterator[None]:
    """Around imports: where one finds no package, ModuleNotFoundError names the `extra` to install.

    `by` is what cannot work without them, as in `with needed("ecomkd.losses", "run"):`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A fault of the package itself, or what a module further down has said already.
        if error.name is None or error.name.startswith("ecomkd") or "pip install" in error.msg:
            raise
        raise ModuleNotFoundError(
            f'{error.name} is missing, which {by} needs: pip install "ecomkd[{extra}]"',
            name=error.name,
        ) from error
