"""What a command prints: findings on stdout, faults on stderr, one line each. All chapters."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

from ecomkd.data.contract import shown


def say(text: str = "", end: str = "\n") -> None:
    """Print a line of what a command has found, at once.

    Raises RuntimeError with one sentence where standard output takes nothing, as of a full disk.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise RuntimeError(
            f"standard output: {error.strerror or error}; send it to another place, such as a file "
            "on another disk."
        ) from error


def drop_output() -> None:
    """Let nothing that is still to be printed fail once more when the program ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(sentence: str) -> None:
    print(f"ecomkd: {shown(sentence, 2_000)}", file=sys.stderr)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings in one line each, without the place in the program."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"ecomkd: {shown(str(message), 2_000)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
