"""Where and how a model computes: device, number format, seeds, and what the library prints.

All chapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ecomkd.extras import needed

with needed("ecomkd.runtime", "run"):
    import torch
    import transformers

from ecomkd.config import Profile


class ModelError(ValueError):
    """A checkpoint that is missing, damaged, or made for another task."""


def device(profile: Profile) -> torch.device:
    """The device that the profile asks for.

    `auto` takes a card that speaks CUDA where there is one, and the processor otherwise. It never
    takes Apple's `mps`, on which no number of the book was checked: that is asked for by name.

    Raises ModelError when the profile names a device that this machine lacks.
    """
    has = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if profile.device == "auto":
        return torch.device("cuda" if has["cuda"] else "cpu")
    if not has.get(profile.device, False):
        raise ModelError(
            f"device={profile.device!r}: this machine has no such device; "
            f"choose one of {', '.join(name for name, there in has.items() if there)}, or auto."
        )
    return torch.device(profile.device)


def precision(profile: Profile) -> str:
    """The number format of matrix products: `fp32`, `bf16` or `fp16`.

    `auto` means bf16 on a card that computes in it and on a processor with units for it (AMX), fp16
    on an older card, and fp32 otherwise.
    """
    if profile.precision != "auto":
        if profile.precision not in ("fp32", "bf16", "fp16"):
            raise ModelError(f"precision={profile.precision!r}: choose auto, fp32, bf16 or fp16.")
        return profile.precision
    kind = device(profile).type
    if kind == "cuda":
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if kind == "cpu" and _is_fast_in_bf16() else "fp32"


def _is_fast_in_bf16() -> bool:
    """Whether the processor has AMX. AVX-512's own instructions for bf16 do not say enough: with
    them alone, MiniLM took 1.4 times as long as in fp32 on a Xeon, and less than half as long on an
    EPYC."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("amx_tile"))
    return torch.cpu._is_amx_tile_supported()  # older versions of PyTorch have no public name


def autocast(profile: Profile) -> torch.autocast:
    """The context in which a forward pass runs in the profile's precision."""
    name = precision(profile)
    dtype = torch.float16 if name == "fp16" else torch.bfloat16
    return torch.autocast(device(profile).type, dtype=dtype, enabled=name != "fp32")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn inside comes from `seed`; the generators of processor and cards are left as
    they were."""
    cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices=list(cards)):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if apple is not None:
                torch.mps.set_rng_state(apple)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the library reports no new head and no tied weight: both are expected."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
