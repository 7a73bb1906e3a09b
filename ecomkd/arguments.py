"""The arguments of the command line: what each command takes, with an example. Chapter 1."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ecomkd.config import Profile
from ecomkd.data.contract import LEAST_FOLDS, shown

SEEDS = 2**32 - 1  # the largest seed that NumPy, PyTorch and Transformers all take
_LARGEST = 10**18  # no number that is given is larger, infinity least of all

Command = Callable[[argparse.Namespace], None]


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all commands; `commands` are what they call with what was given, by name."""
    whole = argparse.ArgumentParser(
        prog="ecomkd",
        description="Transfer learning and distillation for a shop's search and recommendation.",
    )
    added = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(text: str, example: str, further: str = "") -> argparse.ArgumentParser:
        name = example.split()[0]
        own = added.add_parser(
            name, help=text, description=text + further, epilog=f"Example: ecomkd {example}"
        )
        own.set_defaults(command=commands[name])
        return own

    check = command("Validate a folder or file.", "check my_shop/")
    run = command(
        "Train, distil, evaluate and export on one catalogue; write a report with a verdict.",
        "run my_shop/ --profile book --seeds 3 --out report/",
    )
    index = command(
        "Write a search engine over one catalogue: train what is missing, then put it in a folder.",
        "index my_shop/ --profile book --out search/",
    )
    for made in (check, run, index):
        text = "shop (simulated), esci (from the hub), or the path of a folder, CSV or Parquet file"
        made.add_argument("data", metavar="DATA", help=text)
    recommend = command(
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
        _number(made, "--first-seed", text, 0, SEEDS, default=Profile.seed, metavar="K")
    _number(run, "--unlabelled", "learn from the first N unlabelled pairs (default: all)", 1)
    text = (
        "tokens of a query and a product that teacher and students read at most; longer texts "
        "take more time (default: the profile's, 32 in book)"
    )
    for made in (run, index):
        _number(made, "--max-length", text, 8, 512)
    text = (
        "begin the teacher's head from that of its warm-up, so that it has the warm-up's order "
        "before it sees a label; without it a new head is drawn, which may turn that order round"
    )
    run.add_argument("--spread-head", action="store_true", help=text)
    text = (
        "cross-validation by query, where judged queries are few: each is tested once; over the "
        "folds that the data have, or over N that are drawn; example: ecomkd run my_shop/ --folds "
        "--out report/"
    )
    _number(run, "--folds", text, LEAST_FOLDS, bare=True)
    text = (
        "workers of this Ray cluster, such as 10.0.0.1:6379, or local for one of this machine, "
        "compute "
    )
    outputs = "the teacher's outputs that students learn from"
    run.add_argument("--cluster", metavar="ADDRESS", help=f"{text}{outputs}, but for hidden states")
    vectors = f"{outputs}, and the vectors of the catalogue"
    index.add_argument("--cluster", metavar="ADDRESS", help=text + vectors)
    text = "put the teacher there too, for `serve --shadow`"
    index.add_argument("--with-teacher", action="store_true", help=text)
    text = (
        "what finds products beside words: static, vectors; sparse, weighted pieces of words in "
        "posting lists, for a shop that has an inverted index alone (default: static)"
    )
    index.add_argument("--first-stage", choices=("static", "sparse"), help=text)
    text = "a column of the products that answers can tell, and engines filter by; may be repeated"
    index.add_argument("--field", action="append", default=[], metavar="NAME", help=text)
    text = (
        "the catalogue goes into this store, which `serve` asks then: postgresql://USER@HOST/NAME "
        "with pgvector (password in PGPASSWORD), milvus://HOST:PORT/NAME (USER:PASSWORD or an API "
        "key in MILVUS_TOKEN), or a folder or bucket of LanceDB"
    )
    index.add_argument("--engine", metavar="URI", help=text)
    text = "its table there (default: products); a new name for a new index spares a pause"
    index.add_argument("--table", metavar="NAME", help=text)

    quantize = command(
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
    _number(quantize, "--max-length", text, 8, 100_000)
    text = "where the variant goes, ready to serve; without it the gate only tells"
    quantize.add_argument("--out", type=Path, metavar="DIR", help=text)

    score = command(
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
    _number(score, "--max-length", text, 8, 100_000)
    score.add_argument("--profile", help="smoke, book or gpu (default: book)")

    update = command(
        "Add, change and take out products of an index whose catalogue lies in a store.",
        "update search/ changed.csv --remove sold_out.txt",
        " A service that answers from the store shows it at once.",
    )
    text = "a folder that `index --engine` wrote"
    update.add_argument("folder", metavar="INDEX", type=Path, help=text)
    text = "CSV or Parquet with product_id, product_title, the further texts and the fields"
    update.add_argument("products", metavar="PRODUCTS", type=Path, nargs="?", help=text)
    text = "ids to take out, one a line"
    update.add_argument("--remove", type=Path, metavar="FILE", help=text)

    export = command(
        "Write the same search as files for an engine that the shop has.",
        "export search/ --to opensearch --out opensearch/",
        " Schema, products, query and instructions.",
    )
    export.add_argument("folder", metavar="INDEX", type=Path, help="a folder that `index` wrote")
    names = ("opensearch", "elasticsearch", "vespa")
    export.add_argument("--to", required=True, choices=names, help="the engine")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="where files go")

    serve = command(
        "Answer over HTTP: GET /search and POST /rerank, or GET /recommend; "
        "GET /health, /live, /metrics.",
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
    _number(serve, "--keep", "answers kept for whoever asks the same again (default: 0)", 0)
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

    shop = command("Write the simulated shop.", "shop simulated/ --products 10000")
    shop.add_argument("out", metavar="OUT", type=Path, help="a folder to write")
    _number(shop, "--products", "how many (default: %(default)s)", 1, default=3_000)
    _number(shop, "--seed", "default: %(default)s", 0, SEEDS, default=1, metavar="K")
    return whole


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
