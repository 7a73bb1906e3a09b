"""The command line: `ecomkd check`, `run`, `quantize`, `score`, `index`, `recommend` and so on.

What a command needs is imported when it runs, so that help and refusals are quick. Chapters 1, 5,
8, 9 and 10.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ecomkd import outputs
from ecomkd.config import Profile
from ecomkd.console import drop_output, plain_warnings, say, tell
from ecomkd.data.contract import LEAST_FOLDS, NAMES, shown
from ecomkd.faults import sentences

_SEEDS = 2**32 - 1  # the largest seed that NumPy, PyTorch and Transformers all take
_PRODUCT = 115  # bytes of the simulated shop for each of its products, in a large one
_LARGEST = 10**18  # no number that is given is larger, infinity least of all


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status.

    That is 0, or 1 with a sentence on stderr for each thing that is wrong, or 130 after Ctrl+C. A
    command that cannot be understood leaves with SystemExit and status 2. With ECOMKD_DEBUG=1 the
    traceback of what failed is shown, too.
    """
    try:
        options = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecomkd",
        description="Transfer learning and distillation for a shop's search and recommendation.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        function: Callable[[argparse.Namespace], None], text: str, example: str, further: str = ""
    ):
        name = example.split()[0]
        made = commands.add_parser(
            name, help=text, description=text + further, epilog=f"Example: ecomkd {example}"
        )
        made.set_defaults(command=function)
        return made

    check = command(_check, "Validate a folder or file.", "check my_shop/")
    run = command(
        _run,
        "Train, distil, evaluate and export on one catalogue; write a report with a verdict.",
        "run my_shop/ --profile book --seeds 3 --out report/",
    )
    index = command(
        _index,
        "Write a search engine over one catalogue: train what is missing, then put it in a folder.",
        "index my_shop/ --profile book --out search/",
    )
    for made in (check, run, index):
        text = "shop (simulated), esci (from the hub), or the path of a folder, CSV or Parquet file"
        made.add_argument("data", metavar="DATA", help=text)
    recommend = command(
        _recommend,
        "Compare rankings on purchases; write a report with a verdict, and what serves it.",
        "recommend purchases.csv --out recommender/",
        " The last four weeks are foreseen from those before.",
    )
    text = (
        "a CSV or Parquet file with the columns user_id, item_id and time, and, where they are "
        "known, basket_id, quantity, value and text; or a folder with purchases.csv and items.csv"
    )
    recommend.add_argument("data", metavar="PURCHASES", type=Path, help=text)
    for made in (run, index, recommend):
        made.add_argument("--profile", help="smoke, book or gpu (default: book)")
        made.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go")
    for made in (run, recommend):
        _number(made, "--seeds", "how many", 1, 1_000, default=1)
        text = "seeds run from K (default: %(default)s)"
        _number(made, "--first-seed", text, 0, _SEEDS, default=Profile.seed, metavar="K")
    _number(run, "--unlabelled", "learn from the first N unlabelled pairs (default: all)", 1)
    text = (
        "cross-validation by query, where judged queries are few: each is tested once; over the "
        "folds that the data have, or over N that are drawn; example: ecomkd run my_shop/ --folds "
        "--out report/"
    )
    _number(run, "--folds", text, LEAST_FOLDS, bare=True)
    text = "put the teacher there too, for `serve --shadow`"
    index.add_argument("--with-teacher", action="store_true", help=text)
    text = "a column of the products that answers can tell, and engines filter by; may be repeated"
    index.add_argument("--field", action="append", default=[], metavar="NAME", help=text)

    quantize = command(
        _quantize,
        "Write the quickest quantised variant of a classifier that loses little, or fail.",
        "quantize report/student --on my_shop/ --max-loss 0.5 --out serving/",
        " ONNX Runtime and OpenVINO run it in fp32 and quantised (int8, and bf16 where the "
        "processor has it), on one thread. It is a gate for CI: the exit status is 1 where every "
        "quantised variant loses more than --max-loss, however quick fp32 is. Run it on the kind "
        "of machine that serves.",
    )
    text = "a folder with model.safetensors or model.onnx, or the student/ that `run` deployed"
    quantize.add_argument("model", metavar="MODEL", type=Path, help=text)
    text = "judged pairs: shop, esci, or the path of a folder, CSV or Parquet file"
    quantize.add_argument("--on", required=True, metavar="DATA", help=text)
    text = "points (hundredths) of nDCG@10 and of macro-F1 that may be lost (default: %(default)s)"
    _number(quantize, "--max-loss", text, 0, 100, kind=float, metavar="P", default=0.5)
    text = "pairs to measure on; no model was chosen on test (default: %(default)s)"
    quantize.add_argument("--split", choices=("test", "validation"), default="test", help=text)
    text = "tokens at which a pair is cut (default: what labels.json in MODEL says)"
    _number(quantize, "--max-length", text, 4, 100_000)
    text = "where the variant goes, ready to serve; without it the gate only tells"
    quantize.add_argument("--out", type=Path, metavar="DIR", help=text)

    score = command(
        _score,
        "Write a model's scores of any number of pairs, part by part.",
        "score pairs/ --model report/student --out scores/",
        " Parquet in, Parquet out. A run that was stopped goes on where it was.",
    )
    text = "a Parquet file, or a folder of them, with the columns query and product_title"
    score.add_argument("data", metavar="PAIRS", type=Path, help=text)
    text = "a folder with model.safetensors, or the student/ that `run` deployed"
    score.add_argument("--model", required=True, metavar="DIR", type=Path, help=text)
    score.add_argument("--out", type=Path, required=True, metavar="DIR", help="where scores go")
    text = "local: this process; ray: the workers of a Ray cluster (default: %(default)s)"
    score.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "of the cluster, such as 10.0.0.1:6379; without it Ray starts on this machine"
    score.add_argument("--address", help=text)
    text = "pairs that are scored and written at a time (default: %(default)s)"
    _number(score, "--rows", text, 1, default=4_096)
    text = "tokens at which a pair is cut (default: what labels.json in the model says)"
    _number(score, "--max-length", text, 4, 100_000)
    score.add_argument("--profile", help="smoke, book or gpu (default: book)")

    serve = command(
        _serve,
        "Answer over HTTP: GET /search and POST /rerank, or GET /recommend; GET /health, /metrics.",
        "serve search/ --reference queries.txt",
    )
    text = "a folder that `index` or `recommend` wrote"
    serve.add_argument("folder", metavar="DIR", type=Path, help=text)
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    _number(serve, "--port", "0 takes a free one", 0, 65_535, default=8000, metavar="PORT")
    _number(serve, "--workers", "threads (default: cores)", 1)
    text = "products that the student reads; 0 for none (default: 20)"
    _number(serve, "--depth", text, 0)
    text = "seconds until a request is given up"
    _number(serve, "--timeout", text, 0.001, kind=float, metavar="S")
    _number(serve, "--rate", "requests a second of one client; 0 for no limit", 0, kind=float)
    text = "share of the answers the teacher judges too"
    _number(serve, "--shadow", text, 0, 1, kind=float, metavar="SHARE")
    for option, metavar, text in (
        ("--proxy", "ADDRESS", "a proxy, or a network of them, believed about clients' addresses"),
        ("--allowed-host", "NAME", "a name by which clients ask for this service"),
    ):
        text += "; may be repeated"
        serve.add_argument(option, action="append", default=[], metavar=metavar, help=text)
    text = "past queries, one a line, that live ones are compared with"
    serve.add_argument("--reference", type=Path, metavar="FILE", help=text)

    shop = command(_shop, "Write the simulated shop.", "shop simulated/ --products 10000")
    shop.add_argument("out", metavar="OUT", type=Path, help="a folder to write")
    _number(shop, "--products", "how many (default: %(default)s)", 1, default=3_000)
    _number(shop, "--seed", "default: %(default)s", 0, _SEEDS, default=1, metavar="K")
    return parser


def _number(
    command: argparse.ArgumentParser,
    option: str,
    text: str,
    low: float,
    high: float | None = None,
    kind: Callable[[str], float] = int,
    metavar: str = "N",
    default: float | None = None,
    bare: bool = False,
) -> None:
    """Add an option that takes a number within limits; one that may be `bare` is True without."""
    wanted = "a whole number" if kind is int else "a number"
    wanted += f" of at least {low}" if high is None else f" from {low} to {high}"

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not low <= number <= (high or _LARGEST):
            raise argparse.ArgumentTypeError(f"{shown(text, 40)}: give {wanted}")
        return number

    alone: dict[str, Any] = {"nargs": "?", "const": True} if bare else {}
    command.add_argument(option, type=read, metavar=metavar, default=default, help=text, **alone)


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


def _run(options: argparse.Namespace) -> None:
    profile, seeds = Profile.named(options.profile), _seeds(options)
    source = _source(options.data)
    outputs.claim(options.out, "run")

    from ecomkd.relevance.run import run

    name = source.name if isinstance(source, Path) else source
    arguments = f"--profile {profile.name} --seeds {options.seeds} --first-seed {seeds[0]}"
    if options.unlabelled is not None:
        arguments += f" --unlabelled {options.unlabelled}"
    folds: int | Literal["given"] | None = "given" if options.folds is True else options.folds
    if folds is not None:
        arguments += " --folds" if folds == "given" else f" --folds {folds}"
    command = f"ecomkd run {shlex.quote(name)} {arguments} --out {shlex.quote(options.out.name)}"
    say(run(source, profile, seeds, options.out, command, options.unlabelled, folds))
    say(f"Report: {options.out / 'report.html'}")


def _seeds(options: argparse.Namespace) -> list[int]:
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    if seeds[-1] > _SEEDS:
        raise ValueError(f"the last seed would be {seeds[-1]}; give a smaller --first-seed.")
    return seeds


def _recommend(options: argparse.Namespace) -> None:
    profile, seeds = Profile.named(options.profile), _seeds(options)
    outputs.claim(options.out, "recommend")

    from ecomkd.recommend.run import run

    words = ["ecomkd", "recommend", options.data.name, "--profile", profile.name]
    words += ["--seeds", str(options.seeds), "--first-seed", str(seeds[0])]
    command = shlex.join([*words, "--out", options.out.name])
    say(run(options.data, profile, seeds, options.out, command))
    say(f"Report: {options.out / 'report.html'}")


def _quantize(options: argparse.Namespace) -> None:
    source = _source(options.on)
    if options.out is not None:
        outputs.claim(options.out, "quantize")

    from ecomkd.relevance.gate import gate

    name = source.name if isinstance(source, Path) else source
    words = ["ecomkd", "quantize", options.model.name, "--on", name, "--split", options.split]
    words += ["--max-loss", f"{options.max_loss:g}"]
    if options.max_length is not None:
        words += ["--max-length", str(options.max_length)]
    if options.out is not None:
        words += ["--out", options.out.name]
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
    profile = Profile.named(options.profile)
    source = _source(options.data)
    outputs.claim(options.out, "index")

    from ecomkd import search

    folder = search.build(source, profile, options.out, options.with_teacher, options.field)
    say(f"Search engine: {folder}")


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
        "trusted_proxies": tuple(options.proxy),
        "allowed_hosts": tuple(options.allowed_host),
    }
    settings = service.Settings(**{key: value for key, value in given.items() if value is not None})
    reference = None if options.reference is None else service.read_queries(options.reference)

    name = options.folder.resolve().name
    if (options.folder / "recommender.json").is_file():
        for option in ("reference", "shadow", "depth"):
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
            newer=lambda: answers.load(options.folder) if changed() else None,
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
    newer = lambda: load() if changed() else None  # noqa: E731
    app = service.create_app(engine, settings, name=name, reference=reference, newer=newer)
    service.run(app, options.host, options.port)


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
