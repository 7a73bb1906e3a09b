"""The command line: `ecomkd check`, `run`, `quantize`, `score`, `index`, `recommend` and so on.

What a command needs is imported when it runs, so that help and refusals are quick. Chapters 1, 5,
8, 9, 10 and 19.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ecomkd import outputs
from ecomkd.arguments import SEEDS, Command, parser
from ecomkd.config import Profile
from ecomkd.console import drop_output, plain_warnings, say, tell
from ecomkd.data.contract import NAMES, named, shown
from ecomkd.faults import sentences

_PRODUCT = 115  # bytes of the simulated shop for each of its products, in a large one


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status.

    That is 0, or 1 with a sentence on stderr for each thing that is wrong, or 130 after Ctrl+C. A
    command that cannot be understood leaves with SystemExit and status 2. With ECOMKD_DEBUG=1 the
    traceback of what failed is shown, too.
    """
    try:
        options = parser(_commands()).parse_args(arguments)
        with plain_warnings():
            options.command(options)
        say(end="")  # what cannot be written is an error, and no stdout is none
    except KeyboardInterrupt:
        tell("interrupted; what was finished is kept, and the same command goes on from there.")
        return 130
    except BrokenPipeError:  # whoever reads our output, such as `head`, has seen enough
        drop_output()
        return 1
    except Exception as error:
        if os.environ.get("ECOMKD_DEBUG"):
            traceback.print_exc()
        for sentence in sentences(error):
            tell(sentence)
        return 1
    return 0


def _commands() -> dict[str, Command]:
    """What each command calls with its arguments."""
    return {
        "check": _check,
        "run": _run,
        "index": _index,
        "recommend": _recommend,
        "quantize": _quantize,
        "score": _score,
        "update": _update,
        "export": _export,
        "serve": _serve,
        "shop": _shop,
    }


def _source(text: str) -> str | Path:
    """A source by name, or a path. A name goes before a folder that is called so."""
    if text not in NAMES:
        return Path(text)
    if Path(text).exists():
        tell(f"{text} is the {NAMES[text]}; what lies here under that name is ./{text}.")
    return text


def _check(options: argparse.Namespace) -> None:
    source = _source(options.data)
    if isinstance(source, Path):
        from ecomkd.data.schema import check

        found = check(source)
    else:
        from ecomkd.data.sources import report

        found = report(source, Profile.named())
    say(f"{shown(options.data, 2_000)}: keeps the data contract.")
    for name, value in found.items():
        if name != "notes":
            say(f"  {name}: {value}")
    for note in found["notes"]:
        say(f"  note: {shown(note, 2_000)}")


def _reached(address: str) -> Any:
    """The part `scale`, once the cluster at the address has answered."""
    from ecomkd import scale

    scale.reach(address)
    return scale


def _profile(options: argparse.Namespace) -> Profile:
    """That of the name, with the length of a pair that was given, if one was."""
    profile = Profile.named(options.profile)
    if options.max_length is None:
        return profile
    return replace(profile, max_length=options.max_length)


def _run(options: argparse.Namespace) -> None:
    profile, seeds = _profile(options), _seeds(options)
    source = _source(options.data)
    outputs.claim(options.out, "run")
    workers: dict[str, Any] = {}
    if options.cluster is not None:
        outputs_of = _reached(options.cluster).teacher_outputs
        workers["outputs_of"] = partial(outputs_of, options.cluster)

    from ecomkd.relevance.run import run

    name = named(source)
    arguments = f"--profile {profile.name} --seeds {options.seeds} --first-seed {seeds[0]}"
    if options.unlabelled is not None:
        arguments += f" --unlabelled {options.unlabelled}"
    if options.max_length is not None:
        arguments += f" --max-length {options.max_length}"
    if options.spread_head:
        profile = replace(profile, spread_head=True)
        arguments += " --spread-head"
    folds: int | Literal["given"] | None = "given" if options.folds is True else options.folds
    if folds is not None:
        arguments += " --folds" if folds == "given" else f" --folds {folds}"
    command = f"ecomkd run {shlex.quote(name)} {arguments} --out {shlex.quote(named(options.out))}"
    # `command` has no --cluster: the same result comes without, and an address stays private.
    say(run(source, profile, seeds, options.out, command, options.unlabelled, folds, **workers))
    say(f"Report: {options.out / 'report.html'}")


def _seeds(options: argparse.Namespace) -> list[int]:
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    if seeds[-1] > SEEDS:
        raise ValueError(f"the last seed would be {seeds[-1]}; give a smaller --first-seed.")
    return seeds


def _recommend(options: argparse.Namespace) -> None:
    profile, seeds = Profile.named(options.profile), _seeds(options)
    outputs.claim(options.out, "recommend")

    from ecomkd.recommend.run import run

    words = ["ecomkd", "recommend", named(options.data), "--profile", profile.name]
    words += ["--seeds", str(options.seeds), "--first-seed", str(seeds[0])]
    command = shlex.join([*words, "--out", named(options.out)])
    say(run(options.data, profile, seeds, options.out, command))
    say(f"Report: {options.out / 'report.html'}")


def _quantize(options: argparse.Namespace) -> None:
    source = _source(options.on)
    if options.out is not None:
        outputs.claim(options.out, "quantize")

    from ecomkd.relevance.gate import gate

    name = named(source)
    words = ["ecomkd", "quantize", named(options.model), "--on", name, "--split", options.split]
    words += ["--max-loss", f"{options.max_loss:g}"]
    if options.max_length is not None:
        words += ["--max-length", str(options.max_length)]
    if options.out is not None:
        words += ["--out", named(options.out)]
    found = gate(
        options.model,
        source,
        Profile.named(),
        options.max_loss,
        options.out,
        options.max_length,
        options.split,
        shlex.join(words),
    )
    say(str(found.shown()))
    for note in found.notes:
        say(f"  note: {note}")
    if found.taken is None:
        raise RuntimeError(found.sentence)
    say(found.sentence)
    if options.out is not None:
        say(f"Written: {options.out}")


def _score(options: argparse.Namespace) -> None:
    if options.address is not None and options.engine != "ray":
        raise ValueError("--address is that of a Ray cluster: add --engine ray, or leave it out.")
    profile = Profile.named(options.profile)
    outputs.claim(options.out, "score")

    from ecomkd.scale import score

    found = score(
        options.data,
        options.model,
        options.out,
        profile,
        options.engine,
        options.address,
        options.rows,
        options.max_length,
    )
    say(f"Scored {found.new:,} of {found.pairs:,} pairs; the rest was there. In {options.out}.")


def _index(options: argparse.Namespace) -> None:
    profile = _profile(options)
    source = _source(options.data)
    outputs.claim(options.out, "index")

    from ecomkd import search
    from ecomkd.search.folder import quality, settings

    if options.table is not None and options.engine is None:
        raise ValueError("--table names one of a store: give --engine, too, or leave it out.")
    place = {} if options.engine is None else {"store": options.engine}
    place |= {} if options.table is None else {"table": options.table}
    place |= {} if options.first_stage is None else {"first_stage": options.first_stage}
    workers: dict[str, Any] = {}
    if options.cluster is not None:
        scale = _reached(options.cluster)
        workers["vectors_of"] = partial(scale.vectors, options.cluster, profile)
        workers["outputs_of"] = partial(scale.teacher_outputs, options.cluster)
    folder = search.build(
        source, profile, options.out, options.with_teacher, options.field, **place, **workers
    )
    say(f"Search engine: {folder}")
    if options.field:
        for name, kind in settings(folder).fields.items():
            say(f"  Field {name}: {'numbers' if kind == 'number' else 'texts'}.")
    for line in quality(folder):
        say(line)


def _update(options: argparse.Namespace) -> None:
    if options.products is None and options.remove is None:
        raise ValueError(
            "nothing to do: give a file of products, --remove with one of ids, or both."
        )

    from ecomkd.search.update import update

    put, removed = update(options.folder, options.products, options.remove)
    say(f"{options.folder}: put {put:,} products, took out what was there of {removed:,} ids.")


def _export(options: argparse.Namespace) -> None:
    outputs.claim(options.out, "export")

    from ecomkd.search import elsewhere, load

    engine = load(options.folder)
    if not hasattr(engine, "products"):
        raise ValueError(
            f"{options.folder}: its catalogue lies in a store: write an index without --engine, "
            "and export that."
        )
    say(f"Written: {elsewhere.write(engine, options.to, options.out)}")


def _serve(options: argparse.Namespace) -> None:
    if not options.folder.is_dir():
        raise FileNotFoundError(
            f"{options.folder}: no such folder; write it with `ecomkd index` or `ecomkd recommend` "
            "first."
        )
    if options.reference is not None and not options.reference.is_file():
        raise FileNotFoundError(f"{options.reference}: no such file; check --reference.")

    from ecomkd import service

    given = {
        "workers": options.workers,
        "timeout": options.timeout,
        "rate": options.rate,
        "shadow_share": options.shadow,
        "keep": options.keep,
        "trusted_proxies": tuple(options.proxy),
        "allowed_hosts": tuple(options.allowed_host),
    }
    settings = service.Settings(**{key: value for key, value in given.items() if value is not None})
    reference = None if options.reference is None else service.read_queries(options.reference)

    name = options.folder.resolve().name
    if (options.folder / "recommender.json").is_file():
        for option in ("reference", "shadow", "depth", "keep"):
            if getattr(options, option) is not None:
                raise ValueError(
                    f"--{option} is about searches, and {options.folder} recommends: leave it out."
                )

        from ecomkd.recommend import answers

        changed = outputs.Changes(options.folder)
        app = service.create_app(
            answers.load(options.folder),
            settings,
            name=name,
            newer=lambda: _newer(changed, lambda: answers.load(options.folder)),
        )
        service.run(app, options.host, options.port)
        return

    from ecomkd import search

    changed = outputs.Changes(options.folder)

    def load():
        engine = search.load(options.folder)
        if options.depth is not None:
            engine.depth = options.depth
        return engine

    engine = load()
    if options.shadow and engine.shadow is None:
        raise ValueError(
            f"{options.folder} holds no teacher to compare with: leave out --shadow, or write the "
            "folder with `ecomkd index --with-teacher`."
        )
    if options.keep and not hasattr(engine, "products"):
        raise ValueError(
            f"{options.folder}: its catalogue lies in a store and changes under the service, so no "
            "answer can be kept: leave out --keep."
        )
    app = service.create_app(
        engine, settings, name=name, reference=reference, newer=lambda: _newer(changed, load)
    )
    service.run(app, options.host, options.port)


def _newer(changed: outputs.Changes, load: Callable[[], Any]) -> Any:
    """What is loaded of a folder that was written anew, or None; tried again where that fails."""
    if not changed():
        return None
    found = load()
    changed.taken()
    return found


def _shop(options: argparse.Namespace) -> None:
    from ecomkd.data import shop

    with outputs.replaced(options.out, "shop") as folder:
        needed, free = options.products * _PRODUCT, shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(
                f"{options.out}: {options.products:,} products need about {needed / 1e9:,.1f} GB "
                f"of disk, and {free / 1e9:,.1f} GB are free: give at most "
                f"{free // _PRODUCT:,}, or a folder on a larger disk."
            )
        shop.write(folder, options.products, options.seed)
    say(f"Wrote {options.products:,} products to {options.out}.")


if __name__ == "__main__":
    sys.exit(main())
