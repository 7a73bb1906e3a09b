"""Schemas and queries of OpenSearch, Elasticsearch and Vespa, whose sum is that of our engine.

In all three a product is a candidate if it shares a word with the query or is among the nearest by
vector, and every candidate gets the whole sum, cosine + weight · BM25. A product that is neither
has no BM25, so that as many as were asked for stand before it. With a sparse first stage, what is
found are the products that share a piece, or a word that counts. Chapter 19.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

from ecomkd import words
from ecomkd.search import readmes

TEXT, VECTOR, PIECES, NUMBERS = "{{text}}", "{{vector}}", "{{pieces}}", "{{numbers}}"
"""The places in a query: the last are the numbers of its pieces, with and without their counts."""
OWN = ("id", "title", "text", "vector")
"""What every product has. No other field is called so."""
SPARSE_OWN = ("id", "title", "text", "pieces", "numbers")
"""The same with a sparse first stage."""
K1, B = 1.5, 0.75
LEGACY = K1 + 1
"""A factor of BM25 that the package's has not, nor Lucene's since version 8: Elasticsearch keeps it
(`LegacyBM25Similarity`), and so does Vespa."""
"""Of BM25, the defaults of `bm25s`."""
STOP = tuple(words._STOP.split())
PATTERN = r"[\p{L}\p{N}_]{2,}"
r"""What `\b\w\w+\b` finds in Python, in Java's terms: there, \w is ASCII, or has accents in it."""
HITS = 20
"""Products of an answer: as many as the student reads."""
NEAREST = 200
"""Candidates by vector."""
_LONGEST = 8_000
"""Letters of a word: Lucene refuses a product with one of more than 32,766 bytes."""


@dataclass(frozen=True)
class Shape:
    """What the schema of a catalogue depends on."""

    width: int
    """H, of the vectors; 0 without."""
    weight: float
    """Of BM25 beside the first stage."""
    fields: Mapping[str, str]
    """Further fields by name, "text" or "number"."""


def elasticsearch(shape: Shape) -> dict[str, str]:
    """The files for Elasticsearch 8.12 or newer, by name."""
    graph = {"type": "hnsw", "m": 16, "ef_construction": 100}
    vector = {"type": "dense_vector", "dims": shape.width, "index": True, "similarity": "cosine"}
    nearest = {
        "field": "vector",
        "query_vector": VECTOR,
        "num_candidates": NEAREST,
        "boost": 0.0,
    }
    script = {
        "source": "1.0 + _score + (doc['vector'].size() == 0 ? 0.0 : "
        "cosineSimilarity(params.vector, 'vector'))",
        "params": {"vector": VECTOR},
    }
    return {
        "index.json": _json(_index(shape, {}, {"vector": vector | {"index_options": graph}})),
        "query.json": _json(_query(shape.weight / LEGACY, nearest, script)),
        "README.md": readmes.elasticsearch(shape.weight),
    }


def opensearch(shape: Shape) -> dict[str, str]:
    """The files for OpenSearch 3 or newer, by name: before, its BM25 had the factor `LEGACY`."""
    method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
    method |= {"parameters": {"m": 16, "ef_construction": 100}}
    vector = {"type": "knn_vector", "dimension": shape.width, "method": method}
    nearest = {"vector": {"vector": VECTOR, "k": NEAREST, "boost": 0.0}}
    script = {
        "source": "1.0 + _score + (doc[params.field].size() == 0 ? 0.0 : "
        "cosineSimilarity(params.query_value, doc[params.field]))",
        "params": {"field": "vector", "query_value": VECTOR},
    }
    return {
        "index.json": _json(_index(shape, {"knn": True}, {"vector": vector})),
        "query.json": _json(_query(shape.weight, nearest, script)),
        "README.md": readmes.opensearch(shape.weight),
    }


def sparse_elasticsearch(shape: Shape) -> dict[str, str]:
    """The files for Elasticsearch 8.15 or newer, with a sparse first stage, by name."""
    # Since 9.1 an index leaves out the pieces that it holds for unimportant, unless it is told.
    found = {"sparse_vector": {"field": "pieces", "query_vector": PIECES, "prune": False}}
    return {
        "index.json": _json(_index(shape, {}, {"pieces": {"type": "sparse_vector"}})),
        "query.json": _json(_sum(shape.weight / LEGACY, found)),
        "README.md": readmes.sparse_elasticsearch(shape.weight),
    }


def sparse_opensearch(shape: Shape) -> dict[str, str]:
    """The files for OpenSearch 3 or newer, with a sparse first stage, by name."""
    found = {"neural_sparse": {"pieces": {"query_tokens": PIECES}}}
    return {
        "index.json": _json(_index(shape, {}, {"pieces": {"type": "rank_features"}})),
        "query.json": _json(_sum(shape.weight, found)),
        "README.md": readmes.sparse_opensearch(shape.weight),
    }


def _boost(weight: float) -> dict:
    """The clause of a Lucene engine that scores by so many times its own BM25."""
    return {"match": {"text": {"query": TEXT, "boost": weight}}}


def _sum(weight: float, pieces: dict) -> dict:
    """The query of a Lucene engine that adds up what posting lists of pieces and of words give."""
    should = [_boost(weight), pieces] if weight else [pieces]
    return {
        "size": HITS,
        "_source": ["id", "title", "text"],
        "query": {"bool": {"should": should, "minimum_should_match": 1}},
    }


def _index(shape: Shape, settings: dict, own: dict) -> dict:
    """Settings and mappings of the index of a Lucene engine; `own` are those of the first stage."""
    kinds = {
        "text": {"type": "keyword", "ignore_above": _LONGEST},
        "number": {"type": "double"},
    }
    bm25 = {"type": "BM25", "k1": K1, "b": B, "discount_overlaps": True}
    analysis = {
        "tokenizer": {"words": {"type": "pattern", "pattern": PATTERN, "group": 0}},
        "filter": {
            "not_too_long": {"type": "length", "max": _LONGEST},
            "stop_words": {"type": "stop", "stopwords": list(STOP)},
            "stems": {"type": "snowball", "language": "English"},
        },
        "analyzer": {
            "words": {
                "type": "custom",
                "tokenizer": "words",
                "filter": ["not_too_long", "lowercase", "stop_words", "stems"],
            }
        },
    }
    return {
        "settings": {
            "index": {
                "number_of_shards": 1,
                "similarity": {"bm25": bm25},
                **settings,
            },
            "analysis": analysis,
        },
        "mappings": {
            "dynamic": "strict",
            "properties": {
                "id": {"type": "keyword"},
                "title": {"type": "text", "index": False},
                "text": {"type": "text", "analyzer": "words", "similarity": "bm25"},
                **own,
                **{field: kinds[kind] for field, kind in shape.fields.items()},
            },
        },
    }


def _query(weight: float, nearest: dict, script: dict) -> dict:
    """The hybrid query of a Lucene engine.

    The nearest by vector are candidates and no more. Their own score, (1 + cosine) / 2, would reach
    only what is found by vector, so it is boosted to 0, and the script adds the cosine to all.
    """
    candidates = {"bool": {"should": [_boost(weight), {"knn": nearest}], "minimum_should_match": 1}}
    return {
        "size": HITS,
        "_source": ["id", "title", "text"],
        "query": {"script_score": {"query": candidates, "script": script}},
    }


_WORDS = (
    "({defaultIndex: 'text', grammar.composite: 'or', grammar.tokenization: 'linguistics', "
    "grammar.syntax: 'none', allowEmpty: true}userInput(@text))"
)
"""What finds the products that have a word of the query, in Vespa's YQL."""


def vespa(shape: Shape) -> dict[str, str]:
    """The files for Vespa 8, an application package among them, by name."""
    field = f"""
        field vector type tensor<float>(x[{shape.width}]) {{
            indexing: attribute | index
            attribute {{
                distance-metric: angular
            }}
            index {{
                hnsw {{
                    max-links-per-node: 16
                    neighbors-to-explore-at-insert: 100
                }}
            }}
        }}"""
    signal = """
        # Of vectors of length 1, and 0 of a product without one. Unlike closeness, it is known
        # of products that were found by their words alone.
        function cosine() {
            expression: sum(query(vector) * attribute(vector))
        }"""
    nearest = f"({{targetHits: {NEAREST}}}nearestNeighbor(vector, vector))"
    return _package(
        _schema(shape, field, "cosine", f"query(vector) tensor<float>(x[{shape.width}])", signal),
        f"{nearest} or {_WORDS}",
        {"input.query(vector)": VECTOR, "ranking": "cosine_and_words"},
        readmes.vespa(shape.weight),
    )


def sparse_vespa(shape: Shape) -> dict[str, str]:
    """The files for Vespa 8, with a sparse first stage, by name."""
    field = """
        # The pieces of a product and what each adds, and the same pieces to find it by.
        field pieces type tensor<float>(piece{}) {
            indexing: attribute
        }
        field numbers type array<int> {
            indexing: attribute
            attribute: fast-search
            rank: filter
        }"""
    signal = """
        function pieces() {
            expression: sum(query(pieces) * attribute(pieces))
        }"""
    return _package(
        _schema(shape, field, "pieces", "query(pieces) tensor<float>(piece{})", signal),
        "numbers in (@numbers)" + (f" or {_WORDS}" if shape.weight else ""),
        {
            "numbers": NUMBERS,
            "input.query(pieces)": PIECES,
            "ranking": "pieces_and_words",
        },
        readmes.sparse_vespa(shape.weight),
    )


def _package(schema: str, where: str, further: Mapping[str, str], readme: str) -> dict[str, str]:
    return {
        "services.xml": _services(),
        "lucene-linguistics/stopwords.txt": "".join(f"{word}\n" for word in STOP),
        "schemas/product.sd": schema,
        "query.json": _json(
            {
                "yql": f"select id, title, text from product where {where}",
                "text": TEXT,
                **further,
                "hits": HITS,
            }
        ),
        "README.md": readme,
    }


def _schema(shape: Shape, own: str, signal: str, place: str, function: str) -> str:
    """Vespa's schema of products; the rest are the parts of it that the first stage has."""
    types = {"text": "string", "number": "double"}
    more = "".join(
        f"""
        field {field} type {types[kind]} {{
            indexing: summary | attribute
            attribute: fast-search
        }}"""
        for field, kind in shape.fields.items()
    )
    return f"""schema product {{

    document product {{

        field id type string {{
            indexing: summary | attribute
        }}
        field title type string {{
            indexing: summary
        }}
        field text type string {{
            indexing: summary | index
            index: enable-bm25
            linguistics {{
                profile: words
            }}
        }}{own}{more}
    }}

    rank-profile {signal}_and_words {{
        inputs {{
            {place}
        }}
        rank-properties {{
            bm25(text).k1: {K1}
            bm25(text).b: {B}
        }}{function}
        function words() {{
            expression: bm25(text) / {LEGACY}
        }}
        first-phase {{
            expression: {signal} + {np.format_float_positional(shape.weight, trim="0")} * words
        }}
        match-features: {signal} words
    }}
}}
"""


def _services() -> str:
    filters: list[tuple[str, dict[str, str]]] = [
        ("length", {"min": "1", "max": str(_LONGEST)}),
        ("lowercase", {}),
        ("stop", {"words": "stopwords.txt"}),
        ("snowballPorter", {"language": "English"}),
    ]
    chain = "".join(
        f"""
              <item>
                <name>{name}</name>{_settings(settings, 16)}
              </item>"""
        for name, settings in filters
    )
    return f"""<?xml version="1.0" encoding="utf-8"?>
<services version="1.0">
  <container id="container" version="1.0">
    <component id="linguistics" class="com.yahoo.language.lucene.LuceneLinguistics"
               bundle="lucene-linguistics">
      <config name="com.yahoo.language.lucene.lucene-analysis">
        <configDir>lucene-linguistics</configDir>
        <analysis>
          <item key="profile=words">
            <tokenizer>
              <name>pattern</name>{_settings({"pattern": PATTERN, "group": "0"}, 14)}
            </tokenizer>
            <tokenFilters>{chain}
            </tokenFilters>
          </item>
        </analysis>
      </config>
    </component>
    <document-processing/>
    <document-api/>
    <search/>
  </container>
  <content id="content" version="1.0">
    <min-redundancy>1</min-redundancy>
    <documents>
      <document type="product" mode="index"/>
    </documents>
  </content>
</services>
"""


def _settings(settings: Mapping[str, str], indent: int) -> str:
    if not settings:
        return ""
    margin = "\n" + indent * " "
    items = "".join(
        f'{margin}  <item key="{key}">{escape(value)}</item>' for key, value in settings.items()
    )
    return f"{margin}<conf>{items}{margin}</conf>"


def _json(content: dict) -> str:
    return json.dumps(content, indent=2) + "\n"


FILES: Mapping[str, Callable[[Shape], dict[str, str]]] = {
    "opensearch": opensearch,
    "elasticsearch": elasticsearch,
    "vespa": vespa,
}
SPARSE_FILES: Mapping[str, Callable[[Shape], dict[str, str]]] = {
    "opensearch": sparse_opensearch,
    "elasticsearch": sparse_elasticsearch,
    "vespa": sparse_vespa,
}
