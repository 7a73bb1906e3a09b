"""The command line: `ecomkd check`, `run`, `index`, `serve` and `shop`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ecomkd.config import Profile


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0, or 1 with one sentence on stderr for input it cannot use."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"ecomkd: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecomkd",
        description="Transfer learning and distillation for a shop's search.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = _command(commands, "check", _check, "Validate a folder or file.", "check my_shop/")
    check.add_argument("data", metavar="DATA", help="a folder, or a CSV or Parquet file")

    run = _command(
        commands,
        "run",
        _run,
        "Train, distil, evaluate and export on one catalogue; write a report with a verdict.",
        "run my_shop/ --profile book --seeds 3 --out report/",
    )
    _data_and_profile(run)
    run.add_argument("--seeds", type=_positive, default=1, metavar="N", help="how many seeds")
    run.add_argument(
        "--first-seed",
        type=int,
        default=Profile.seed,
        metavar="K",
        help="seeds run from K (default: %(default)s)",
    )
    run.add_argument(
        "--unlabelled",
        type=_positive,
        metavar="N",
        help="learn from the first N unlabelled pairs (default: all)",
    )
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go")

    index = _command(
        commands,
        "index",
        _index,
        "Write a search engine over one catalogue: train what is missing, then put it in a folder.",
        "index my_shop/ --profile book --out search/",
    )
    _data_and_profile(index)
    index.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")

    serve = _command(
        commands,
        "serve",
        _serve,
        "Answer searches over HTTP: GET /search, POST /rerank, GET /health, GET /metrics.",
        "serve search/ --reference queries.txt",
    )
    serve.add_argument("folder", metavar="DIR", type=Path, help="a folder that `index` wrote")
    serve.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    serve.add_argument("--port", type=_port, default=8000, help="0 takes a free one")
    serve.add_argument("--workers", type=_positive, metavar="N", help="threads (default: cores)")
    serve.add_argument(
        "--timeout", type=float, metavar="S", help="seconds until a request is given up"
    )
    serve.add_argument(
        "--rate", type=float, metavar="N", help="requests a second of one client; 0 for no limit"
    )
    serve.add_argument(
        "--shadow", type=float, metavar="SHARE", help="share of the answers the teacher judges too"
    )
    serve.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="past queries, one a line, that live ones are compared with",
    )

    shop = _command(
        commands, "shop", _shop, "Write the simulated shop.", "shop my_shop/ --products 10000"
    )
    shop.add_argument("out", metavar="OUT", type=Path, help="a folder to write")
    shop.add_argument("--products", type=_positive, default=3_000, metavar="N")
    shop.add_argument("--seed", type=int, default=1)
    return parser


def _command(commands, name: str, function, text: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=f"Example: ecomkd {example}"
    )
    parser.set_defaults(command=function)
    return parser


def _data_and_profile(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", metavar="DATA", help="shop, esci, or a path")
    command.add_argument("--profile", default=None, help="smoke, book or gpu (default: book)")


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of at least 1")
    return number


def _port(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 0 to 65535")
    return number


def _source(text: str) -> str | Path:
    return text if text in ("shop", "esci") else Path(text)


def _check(options: argparse.Namespace) -> None:
    from ecomkd.data.schema import read

    tables = read(options.data)
    print(f"{options.data}: keeps the data contract.")
    for name, value in tables.report.items():
        print(f"  {name}: {value}")


def _run(options: argparse.Namespace) -> None:
    from ecomkd.run import run

    profile = Profile.named(options.profile)
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    source = _source(options.data)
    name = source.name if isinstance(source, Path) else source
    arguments = f"--profile {profile.name} --seeds {options.seeds} --first-seed {seeds[0]}"
    if options.unlabelled is not None:
        arguments += f" --unlabelled {options.unlabelled}"
    command = f"ecomkd run {shlex.quote(name)} {arguments} --out {shlex.quote(options.out.name)}"
    print(run(source, profile, seeds, options.out, command, options.unlabelled))
    print(f"Report: {options.out / 'report.html'}")


def _index(options: argparse.Namespace) -> None:
    from ecomkd import search

    profile = Profile.named(options.profile)
    print(f"Search engine: {search.build(_source(options.data), profile, options.out)}")


def _serve(options: argparse.Namespace) -> None:
    try:
        from ecomkd import serve
    except ModuleNotFoundError as error:
        raise RuntimeError(str(error)) from error
    from ecomkd import search

    given = {
        "workers": options.workers,
        "timeout": options.timeout,
        "rate": options.rate,
        "shadow_share": options.shadow,
    }
    settings = serve.Settings(**{key: value for key, value in given.items() if value is not None})
    reference = None if options.reference is None else serve.read_queries(options.reference)
    engine = search.load(options.folder)
    if options.shadow and getattr(engine, "shadow", None) is None:
        raise ValueError(f"{options.folder} holds no teacher to compare with: leave out --shadow.")
    name = options.folder.resolve().name
    app = serve.create_app(engine, settings, name=name, reference=reference)
    serve.run(app, options.host, options.port)


def _shop(options: argparse.Namespace) -> None:
    from ecomkd.data import shop

    shop.write(options.out, options.products, options.seed)
    print(f"Wrote {options.products:,} products to {options.out}.")


if __name__ == "__main__":
    sys.exit(main())
