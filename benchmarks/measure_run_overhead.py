"""What share of `ecomkd run` goes into hashing and loading, with cold and with warm artefacts.

    python benchmarks/measure_run_overhead.py

runs profile `smoke` on the simulated shop twice, with an artefact folder that is empty at first, in
a process each, and prints the seconds of each run and the shares. Nothing of the package is
changed for it: functions are wrapped from outside, so that any version of it can be measured, the
one that PYTHONPATH names.

Hashing is what `artifacts.file_digest` and `data_digest` take; loading is what reads a data set, a
model or a tokenizer that is there already, without the hashing in it. The time of what is made
(generated, trained, encoded) is neither.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path

KINDS = {
    "hashing": {"ecomkd.artifacts": ("file_digest", "data_digest")},
    "loading": {
        "ecomkd.data.sources": ("load", "catalogue"),
        "ecomkd.models": ("load", "load_tokenizer"),
        "datasets": ("load_from_disk",),
    },
    "other": {"ecomkd.artifacts": ("stage",)},
}


class Clock:
    """Seconds and calls of each kind of work; what is nested counts for the innermost kind."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.inside = ["other"]
        self.since = time.perf_counter()

    def switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    def timed(self, kind: str, function: Callable) -> Callable:
        """The function, its time and its calls counted as of this kind."""

        @wraps(function)
        def counted(*given, **options):
            self.switch()
            self.calls[kind] += kind != self.inside[-1]
            self.inside.append(kind)
            try:
                return function(*given, **options)
            finally:
                self.switch()
                self.inside.pop()

        return counted

    def staged(self, stage: Callable) -> Callable:
        """`artifacts.stage`, of which what `make` does counts as neither hashing nor loading."""

        @wraps(stage)
        def counted(name, parts, make, *given, **options):
            return stage(name, parts, self.timed("other", make), *given, **options)

        return counted


def watched(clock: Clock) -> None:
    """Replace the functions of KINDS wherever a module of the package has them."""
    for kind, homes in KINDS.items():
        for home, names in homes.items():
            for name in names:
                function = getattr(sys.modules[home], name)
                own = clock.staged(function) if name == "stage" else clock.timed(kind, function)
                for module in list(sys.modules.values()):
                    inside = getattr(module, "__name__", "").startswith("ecomkd")
                    if inside and getattr(module, name, None) is function:
                        setattr(module, name, own)
                setattr(sys.modules[home], name, own)


def measure(folder: Path) -> dict:
    """Seconds of one run in this process, by kind of work."""
    from ecomkd.config import Profile

    try:
        from ecomkd.relevance.run import run
    except ModuleNotFoundError:  # an earlier version, in which it lay elsewhere
        from ecomkd.run import run

    clock = Clock()
    watched(clock)
    profile = Profile.named("smoke", artifacts=folder / "artifacts")
    clock.since = start = time.perf_counter()
    run("shop", profile, [profile.seed], folder / "report", "ecomkd run shop")
    clock.switch()
    return {
        "seconds": time.perf_counter() - start,
        **{kind: clock.seconds[kind] for kind in ("hashing", "loading")},
        "calls": {kind: clock.calls[kind] for kind in ("hashing", "loading")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Hashing and loading in `ecomkd run`.")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for state in ("cold", "warm"):
            call = [sys.executable, __file__, "--one", folder]
            done = subprocess.run(call, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{state}: {found['seconds']:.1f} s")
            for kind in ("hashing", "loading"):
                share = found[kind] / found["seconds"]
                print(f"  {kind}: {found[kind]:.2f} s, {share:.1%}, {found['calls'][kind]} calls")


if __name__ == "__main__":
    main()
