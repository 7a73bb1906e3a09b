"""What a command says of an error: what is wrong and how to mend it. All chapters."""

from __future__ import annotations

import errno
import os

from ecomkd.data.contract import shown


def sentences(error: Exception) -> list[str]:
    """What is said about an exception: what is wrong, or that the program itself is."""
    words = " ".join(str(error).split())
    if hasattr(error, "sentences"):
        return list(error.sentences)
    if isinstance(error, MemoryError):
        return ["the memory does not suffice; take a smaller profile, or fewer data."]
    if isinstance(error, ImportError) and not (error.name or "").startswith("ecomkd"):
        package = _missing(error)
        if "pip install" in words or package is None:
            return [words]
        needs = f"{package} is missing, which a command needs"
        return [f'{needs}: pip install "ecomkd[run,search,serve]"']
    if isinstance(error, OSError) and error.strerror and words.startswith("[Errno"):
        of_system = os.strerror(error.errno or 0)
        if of_system not in error.strerror:  # a sentence of the package's own
            return [f"{error.strerror.rstrip('.')}."]
        place = shown(str(error.filename or "a file"), 1_000)
        words = f"{place}: {of_system}; {_MENDS.get(error.errno or 0, 'check the path')}."
    ours = isinstance(error, (RecursionError, NotImplementedError)) or not words
    if isinstance(error, (ValueError, OSError, RuntimeError)) and not ours:
        return [words]
    return [
        f"a fault of the program, not of your data ({type(error).__name__}: {words}); please "
        "report it with the command and with what it prints when ECOMKD_DEBUG=1 is set."
    ]


def _missing(error: BaseException | None) -> str | None:
    """The package that was not found. Some libraries name it in the cause of their error alone."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name
        error = error.__cause__
    return None


_MENDS = {
    errno.ENOSPC: "free some space, or choose another disk with --out or ECOMKD_ARTIFACTS",
    errno.EDQUOT: "free some space, or choose another disk with --out or ECOMKD_ARTIFACTS",
    errno.EACCES: "change its rights, or choose another place",
    errno.EPERM: "change its rights, or choose another place",
    errno.EROFS: "choose another place with --out or ECOMKD_ARTIFACTS",
    errno.EMFILE: "allow more open files with `ulimit -n`",
}
