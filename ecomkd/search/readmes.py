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
    )


def opensearch(weight: float) -> str:
    """For OpenSearch; `weight` is that of BM25."""
    return _lucene(
        "OpenSearch",
        "2.12 or newer, and 3, with the k-NN plugin that comes with it",
        weight,
        """
        - **The nearest.** OpenSearch takes the 200 nearest by vector of each shard from an HNSW
          graph. Vectors are not quantised.
        """,
        """
        The `hybrid` query with a normalisation pipeline was not taken: it stretches the scores of
        each answer to 0…1, and so adds up other numbers than the package does.
        """,
    )


def _lucene(name: str, versions: str, weight: float, nearest: str, other: str) -> str:
    head = f"""\
    # The search of ecomkd in {name}

    For {name} {versions}. `index.json` is the schema, `bulk-00000.ndjson` and what follows are the
    products, and `query.json` is the query. The score of a product is 1 + cosine + {weight:g} ·
    BM25, as in the folder that `ecomkd index` wrote; the 1 is there because no score may be
    negative, and changes no order.

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

    Each part has to answer `{{"errors":false}}`.

    ## Ask
    """
    ask = """
    ```bash
    python ask.py "usb desk lamp" > ask.json
    curl -X POST "$URL/products/_search" -H 'Content-Type: application/json' --data-binary @ask.json
    ```
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
    differs = """\
    - **Lengths.** Lucene stores the number of words of a text in one byte. It is exact below 40
      words and rounded down by at most an eighth above, which changes BM25 a little.
    - **Rare words.** How rare a word is, is counted in each shard, deleted products included.
      `index.json` has one shard; with more, add `?search_type=dfs_query_then_fetch` to the search.
      Products without any word are not counted.
    """
    return _readme(head, ask, [why, other], [differs, nearest])


def vespa(weight: float) -> str:
    """For Vespa; `weight` is that of BM25."""
    head = f"""\
    # The search of ecomkd in Vespa

    For a Vespa 8 whose Lucene linguistics has profiles. `services.xml`, `schemas/` and
    `lucene-linguistics/` are the application package, `feed-00000.jsonl` and what follows are the
    products, and `query.json` is the query. The relevance of a product is cosine + {weight:g} ·
    BM25, as in the folder that `ecomkd index` wrote.

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
    differs = """\
    - **Rare words.** How rare a word is, and the mean length of a text, are counted on each content
      node and index, so they vary a little with more than one node and while products are fed.
    - **The nearest.** They are looked for in an HNSW graph, 200 on each node. Vectors are not
      quantised.
    """
    return _readme(head, ask, [why], [differs])


def _readme(head: str, ask: str, why: list[str], differs: list[str]) -> str:
    vector = """
    The vector of a query is the mean of its tokens' vectors in the static student, so it comes from
    the package. Save this as `ask.py`, in Python where `pip install "ecomkd[serve]"` was done:

    ```python
    import json, sys
    from ecomkd import search
    from ecomkd.search import elsewhere

    engine = search.load("search/")  # the folder that `ecomkd index` wrote; load it once
    text = sys.argv[1]
    query = json.load(open("query.json"))
    print(json.dumps(elsewhere.fill(query, text, engine.embed([text])[0])))
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
    - **Queries without a token** have a vector of zeros, and no cosine: ask for their words alone.

    ## What was not run

    No such server was run when this exporter was written. The files were held against published
    schemas, and the sums were computed from them by a test: see "The same search in OpenSearch,
    Elasticsearch and Vespa" in the book.
    """
    parts = [head, vector, ask, rerank, *why, "## What differs from the package's own engine"]
    paragraphs = [dedent(part).strip("\n") + "\n" for part in parts]
    points = "".join(dedent(part).strip("\n") + "\n" for part in (*differs, common))
    return "\n".join([*paragraphs, points])
