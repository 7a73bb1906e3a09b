"""The README of an exported search: loading, asking, what differs, what was not run. Chapter 19."""

from __future__ import annotations

from textwrap import dedent


def elasticsearch(weight: float) -> str:
    """For Elasticsearch; `weight` is that of BM25."""
    return _lucene(
        "Elasticsearch",
        "8.12 or newer",
        weight,
        """
        - **The nearest.** Elasticsearch looks at the 200 nearest by vector of each shard in an HNSW
          graph and keeps as many as `size`: for the second page raise `size`, not `from`. Vectors
          are not quantised (`index_options`). With `int8_hnsw` there, the nearest would be rougher,
          and the sum still be that of the whole vectors.
        """,
        """
        A `knn` section beside `query` with `boost` 2 would undo its (1 + cosine) / 2 too, but only
        for what it found: products found by words alone would lack 1 + cosine.
        """,
        _KEPT,
    )


def opensearch(weight: float) -> str:
    """For OpenSearch; `weight` is that of BM25."""
    return _lucene(
        "OpenSearch",
        "3 or newer, with the k-NN plugin that comes with it",
        weight,
        """
        - **The nearest.** OpenSearch takes the 200 nearest by vector of each shard from an HNSW
          graph. Vectors are not quantised.
        """,
        """
        The `hybrid` query with a normalisation pipeline was not taken: it stretches the scores of
        each answer to 0…1, and so adds up other numbers than the package does.
        """,
        _EARLIER,
    )


def _lucene(name: str, versions: str, weight: float, nearest: str, other: str, factor: str) -> str:
    score = f"""\
    The score of a product is 1 + cosine + {weight:g} · BM25, as in the folder that `ecomkd index`
    wrote; the 1 is there because no score may be negative, and changes no order.
    """
    why = """\
    To filter by a further field, put the same `filter` into the `bool` and into the `knn` clause.

    ## Why this query

    A product is a candidate if it shares a word with the query or is among the nearest by vector,
    and the script gives each the whole sum. The clause `knn` only finds, with `boost` 0: its own
    score, (1 + cosine) / 2, would reach only what it found. A product that is neither has no BM25
    and a cosine below that of the nearest, so that it could not be among the first `size`: with an
    exact search for the nearest, these are those of the package.
    """
    return _readme(
        _loaded(name, versions, score), _VECTOR, [why, other, factor], [_COUNTED, nearest]
    )


def sparse_elasticsearch(weight: float) -> str:
    """For Elasticsearch with a sparse first stage; `weight` is that of BM25."""
    other = """\
    `prune` is off, for an index of 9.1 or newer would leave out pieces that it holds for
    unimportant, and add up less.
    """
    return _sparse_lucene("Elasticsearch", "8.15 or newer", weight, [other, _KEPT])


def sparse_opensearch(weight: float) -> str:
    """For OpenSearch with a sparse first stage; `weight` is that of BM25."""
    versions = "3 or newer, with the neural-search plugin that comes with it"
    return _sparse_lucene("OpenSearch", versions, weight, [_EARLIER])


def _sparse_lucene(name: str, versions: str, weight: float, other: list[str]) -> str:
    score = f"""\
    The score of a product is the sum of its pieces + {weight:g} · BM25, as in the folder that
    `ecomkd index` wrote.
    """
    why = """\
    To filter by a further field, put a `filter` into the `bool` clause.

    ## Why this query

    What a piece adds to a product stands with the product, and the query says how often it has the
    piece. Both clauses add up what posting lists give, so every product that shares something with
    the query gets its whole sum, and no network reads the query.
    """
    rounded = """\
    - **Pieces.** Lucene keeps 9 bits of what a piece adds, an error of at most 0.4 in 100, so
      products of nearly equal sums may change places.
    """
    return _readme(_loaded(name, versions, score), _PIECES, [why, *other], [_COUNTED, rounded])


def sparse_vespa(weight: float) -> str:
    """For Vespa with a sparse first stage; `weight` is that of BM25."""
    score = f"""\
    The relevance of a product is the sum of its pieces + {weight:g} · BM25, as in the folder that
    `ecomkd index` wrote.
    """
    why = """\
    To filter by a further field, add it to `yql`: `where (…) and brand contains 'acme'`.

    ## Why this query

    What a piece adds to a product stands in a tensor with the product, and the query says how often
    it has the piece. `numbers` finds the products that have one of the pieces, and the rank profile
    gives each that was found the whole sum. Vespa's BM25 has a factor k1 + 1 that the package's has
    not, and the rank profile divides by it.
    """
    return _readme(_fed(score), _PIECES, [why], [_NODES])


def _loaded(name: str, versions: str, score: str) -> tuple[str, ...]:
    """What a Lucene engine is given, how it is loaded, and how it is asked."""
    head = f"""\
    # The search of ecomkd in {name}

    For {name} {versions}. `index.json` is the schema, `bulk-00000.ndjson` and what follows are the
    products, and `query.json` is the query.
    """
    load = """\
    ## Load

    ```bash
    URL=http://localhost:9200
    curl --fail -X PUT "$URL/products" -H 'Content-Type: application/json' --data-binary @index.json
    for part in bulk-*.ndjson; do
      curl --fail -X POST "$URL/products/_bulk?filter_path=errors" \\
        -H 'Content-Type: application/x-ndjson' --data-binary "@$part"
    done
    curl --fail -X POST "$URL/products/_refresh"
    ```

    Each part has to answer `{"errors":false}`.

    ## Ask
    """
    ask = """
    ```bash
    python ask.py "usb desk lamp" > ask.json
    curl -X POST "$URL/products/_search" -H 'Content-Type: application/json' --data-binary @ask.json
    ```
    """
    return head, score, load, ask


def vespa(weight: float) -> str:
    """For Vespa; `weight` is that of BM25."""
    score = f"""\
    The relevance of a product is cosine + {weight:g} · BM25, as in the folder that `ecomkd index`
    wrote.
    """
    why = """\
    To filter by a further field, add it to `yql`: `where (…) and brand contains 'acme'`.

    ## Why this query

    A product is a candidate if it shares a word with the query or is among the nearest by vector,
    and the rank profile gives each the whole sum. The cosine is the product of two vectors of
    length 1, and not `closeness`, which belongs to products that were found by their vectors. A
    product that is neither has no BM25 and a cosine below that of the nearest, so that it could not
    be among the first `hits`: with an exact search for the nearest, these are those of the package.
    Vespa's BM25 has a factor k1 + 1 that the package's has not, and the rank profile divides by it.
    """
    nearest = """\
    - **The nearest.** They are looked for in an HNSW graph, 200 on each node. Vectors are not
      quantised.
    """
    return _readme(_fed(score), _VECTOR, [why], [_NODES, nearest])


def _fed(score: str) -> tuple[str, ...]:
    """What Vespa is given, how it is loaded, and how it is asked."""
    head = """\
    # The search of ecomkd in Vespa

    For a Vespa 8 whose Lucene linguistics has profiles. `services.xml`, `schemas/` and
    `lucene-linguistics/` are the application package, `feed-00000.jsonl` and what follows are the
    products, and `query.json` is the query.
    """
    load = """\
    ## Load

    ```bash
    zip -r application.zip services.xml schemas lucene-linguistics
    curl --fail --header Content-Type:application/zip --data-binary @application.zip \\
      localhost:19071/application/v2/tenant/default/prepareandactivate
    cat feed-*.jsonl | vespa feed -        # Vespa's own command line
    ```

    ## Ask
    """
    ask = """
    ```bash
    python ask.py "usb desk lamp" > ask.json
    curl -X POST localhost:8080/search/ -H 'Content-Type: application/json' --data-binary @ask.json
    ```
    """
    return head, score, load, ask


_COUNTED = """\
    - **Lengths.** Lucene stores the number of words of a text in one byte. It is exact below 40
      words and rounded down by at most an eighth above, which changes BM25 a little.
    - **Rare words.** How rare a word is, is counted in each shard, deleted products included.
      `index.json` has one shard; with more, add `?search_type=dfs_query_then_fetch` to the search.
      Products without any word are not counted.
    """
_NODES = """\
    - **Rare words.** How rare a word is, and the mean length of a text, are counted on each content
      node and index, so they vary a little with more than one node and while products are fed.
    """
_KEPT = """\
    Elasticsearch's BM25 has a factor k1 + 1 that the package's has not, and the `boost` of the
    words is divided by it.
    """
_EARLIER = """\
    Before OpenSearch 3 its BM25 had a factor k1 + 1, so that there the `boost` of the words would
    have to be divided by 2.5.
    """
_VECTOR = (
    """
    The vector of a query is the mean of its tokens' vectors in the static student, so it comes from
    the package.""",
    "engine.embed([text])[0]",
    """\
    - **Queries without a token** have a vector of zeros, and no cosine: ask for their words alone.
    """,
)
"""Where what a query is filled with comes from, how, and what differs where there is none."""
_PIECES = (
    """
    The package cuts a query into pieces and counts them.""",
    "engine.asked(text)",
    """\
    - **Queries without a piece** that a product has: ask for their words alone.
    """,
)


def _readme(
    start: tuple[str, ...], found: tuple[str, str, str], why: list[str], differs: list[str]
) -> str:
    *head, ask = start
    told, call, without = found
    script = f"""{told} Save this as `ask.py`,
    in Python where `pip install "ecomkd[serve]"` was done:

    ```python
    import json, sys
    from ecomkd import search
    from ecomkd.search import elsewhere

    engine = search.load("search/")  # the folder that `ecomkd index` wrote; load it once
    text = sys.argv[1]
    query = json.load(open("query.json"))
    print(json.dumps(elsewhere.fill(query, text, {call})))
    ```
    """
    rerank = """
    A student re-ranks the answers: give the query and their texts to POST /rerank of `ecomkd serve
    search/`.
    """
    common = """\
    - **Words.** The analyzer finds the same words (two letters, digits or _ and more), drops the
      same stop words, and stems with Snowball's English. Lucene's Snowball is an older one than
      PyStemmer's: by version 2.0 in place of 3.1, 1 to 2 in 1,000 words of three real catalogues
      get another stem, such as "organic". Words of more than 8,000 letters are left out.
    - **Equal scores** keep the order of the catalogue in the package, and another one here.
    """
    last = """\
    ## What was not run

    No such server was run when this exporter was written. The files were held against published
    schemas, and the sums were computed from them by a test: see "The same search in OpenSearch,
    Elasticsearch and Vespa" in the book.
    """
    parts = [*head, script, ask, rerank, *why, "## What differs from the package's own engine"]
    points = "".join(dedent(part).strip("\n") + "\n" for part in (*differs, common, without))
    return "\n".join(dedent(part).strip("\n") + "\n" for part in (*parts, points, last))
