"""The service, asked over a real socket: answers and refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
from serving import TITLES, Stub, service, value

import ecomkd


class Told(Stub):
    """An engine whose hits have fields."""

    fields = ("price", "brand")

    def search(self, query, k):
        rows = enumerate(super().search(query, k))
        return [SimpleNamespace(**hit._asdict(), fields={"price": 9.5 + row, "brand": None})
                for row, hit in rows]  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with service() as one:
        yield one


# Answers ------------------------------------------------------------------------------------------


def test_search_gives_the_engines_hits(client):
    status, content, _ = client.ask("/search?q=red+shoe&k=2")
    wanted = [
        {"product_id": hit.product_id, "title": hit.title, "score": hit.score}
        for hit in Stub().search("red shoe", 2)
    ]
    assert (status, content) == (200, {"query": "red shoe", "hits": wanted})
    assert len(client.ask("/search?q=red").content["hits"]) == len(TITLES)


def test_a_later_page_goes_on_where_the_one_before_ended(client):
    whole = client.ask("/search?q=red+shoe&k=4").content["hits"]
    pages = [client.ask(f"/search?q=red+shoe&k=2&offset={at}").content["hits"] for at in (0, 2)]
    assert pages == [whole[:2], whole[2:]]
    assert client.ask("/search?q=red+shoe&offset=4").content["hits"] == []
    for wrong in ("-1", "1001"):
        status, content, _ = client.ask(f"/search?q=red&offset={wrong}")
        assert (status, content["error"][-18:]) == (422, ": give 0 to 1,000.")


def test_fields_are_told_where_somebody_asks():
    with service(Told()) as one:
        first = one.ask("/search?q=red&fields=price&fields=brand").content["hits"][0]
        assert first["fields"] == {"price": 9.5, "brand": None}
        assert one.ask("/search?q=red&fields=price").content["hits"][1]["fields"] == {"price": 10.5}
        assert "fields" not in one.ask("/search?q=red").content["hits"][0]
        status, content, _ = one.ask("/search?q=red&fields=colour")
        assert (status, content) == (
            422,
            {"error": "There is no field 'colour': this index has price, brand."},
        )


def test_an_index_without_fields_says_so(client):
    content = client.ask("/search?q=red&fields=price").content
    assert content == {"error": "There is no field 'price': this index has none."}


def test_an_index_without_filters_says_so(client):
    content = client.ask("/search?q=red&filter=price%3C20").content
    assert content == {"error": "This index takes no filter: `ecomkd index --engine` does."}


@pytest.mark.parametrize("kind", [ConnectionRefusedError, PermissionError])
def test_a_catalogue_out_of_reach_is_told_with_when_to_ask_again(kind, caplog):
    class Away(Stub):
        def search(self, query, k):
            raise kind("postgresql://127.0.0.1: nobody answers; start it.")

    with service(Away()) as one:
        status, content, headers = one.ask("/search?q=red")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert content["error"].startswith("The catalogue is out of reach")
    told = f"Request {headers['X-Request-Id']}: postgresql://127.0.0.1: nobody answers; start it."
    assert caplog.messages == [told]


def test_rerank_gives_scores_and_order(client):
    status, content, _ = client.rerank("mug")
    scores = [value("mug", title) for title in TITLES]
    assert status == 200
    assert content["scores"] == scores
    assert content["order"] == sorted(range(len(TITLES)), key=lambda i: -scores[i])


def test_equal_scores_keep_the_order_of_the_request():
    engine = Stub()
    engine.score = lambda queries, texts: np.zeros(len(texts))
    with service(engine) as one:
        assert one.rerank().content["order"] == [0, 1, 2, 3]


def test_health_says_what_is_loaded(client):
    status, content, _ = client.ask("/health")
    assert status == 200
    seconds = content.pop("seconds")
    assert seconds >= 0
    assert content == {
        "live": True,
        "ready": True,
        "loaded": "stub",
        "index": None,
        "version": ecomkd.__version__,
        "waiting": 0,
        "shadow": False,
        "drift": "no reference",
        "drifting": [],
    }


def test_metrics_count_what_was_asked():
    with service() as one, service() as other:
        one.ask("/search?q=red")
        one.ask("/search?q=red&k=0")
        one.ask("/nowhere")
        one.ask("/elsewhere")
        one.rerank()
        found = one.metrics()
        assert found["ecomkd_requests_total", "/search", "200"] == 1
        assert found["ecomkd_requests_total", "/search", "422"] == 1
        assert found["ecomkd_requests_total", "other", "404"] == 2
        assert found["ecomkd_request_seconds_count", "/search"] == 2
        assert found["ecomkd_waiting",] == 0
        assert ("ecomkd_requests_total", "/search", "200") not in other.metrics()


# Refusals -----------------------------------------------------------------------------------------

LIKE_SEARCH = "ask like this: GET /search?q=red+sofa&k=10"
LIKE_RERANK = (
    'ask like this: POST /rerank {"query": "red sofa", '
    '"products": ["Couch, crimson", "Floor lamp"]}'
)
REFUSED = {
    "no query": ("/search", None, 422, f"q is missing; {LIKE_SEARCH}"),
    "empty query": (
        "/search?q=%20",
        None,
        422,
        "The query is empty: give what a shopper would type.",
    ),
    "long query": (
        "/search?q=" + "a" * 1_257,
        None,
        422,
        "The query has 1,257 characters: give at most 256.",
    ),
    "k of words": (
        "/search?q=red&k=many",
        None,
        422,
        "k: input should be a valid integer, unable to parse string as an integer; " + LIKE_SEARCH,
    ),
    "k of nothing": ("/search?q=red&k=0", None, 422, "k is 0: give 1 to 100."),
    "k too large": ("/search?q=red&k=5000", None, 422, "k is 5,000: give 1 to 100."),
    "no JSON": (
        "/rerank",
        b'{"query": "red", ',
        400,
        f"The body is not valid JSON at character 17; {LIKE_RERANK}",
    ),
    "other bytes": (
        "/rerank",
        b'{"query": "J\xe4ger", "products": ["mug"]}',
        400,
        f"The body is not JSON in UTF-8; {LIKE_RERANK}",
    ),
    "no body": ("/rerank", b"", 422, f"the body is missing; {LIKE_RERANK}"),
    "no products": ("/rerank", {"query": "red"}, 422, f"products is missing; {LIKE_RERANK}"),
    "zero products": (
        "/rerank",
        {"query": "red", "products": []},
        422,
        "The request has 0 products: give 1 to 100.",
    ),
    "too many products": (
        "/rerank",
        {"query": "red", "products": ["mug"] * 101},
        422,
        "The request has 101 products: give 1 to 100.",
    ),
    "an empty product": (
        "/rerank",
        {"query": "red", "products": ["mug", " "]},
        422,
        "products[1] is empty: give its text.",
    ),
    "a number": (
        "/rerank",
        {"query": "red", "products": ["mug", 3]},
        422,
        f"products.1: input should be a valid string; {LIKE_RERANK}",
    ),
    "a stranger": (
        "/rerank",
        {"query": "red", "products": ["mug"], "k": 3},
        422,
        f"k: extra inputs are not permitted; {LIKE_RERANK}",
    ),
    "nothing there": (
        "/",
        None,
        404,
        "There is nothing at this path: ask /search, /rerank, /health, /live, /metrics.",
    ),
    "large body": (
        "/rerank",
        {"query": "red", "products": ["mug" * 100_000]},
        413,
        "The body has more than 262,144 bytes: send fewer or shorter products.",
    ),
}


@pytest.mark.parametrize(("path", "body", "status", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_gets_one_sentence(client, path, body, status, sentence):
    headers = {"Content-Type": "application/json"}
    found = client.ask(path, body, headers=headers)
    assert (found.status, found.content) == (status, {"error": sentence})
    assert client.rerank().status == 200


def test_another_method_is_refused(client):
    found = client.ask("/rerank")
    assert found.status == 405
    assert found.content == {"error": "This path does not take GET: see /openapi.json."}
    assert client.ask("/openapi.json").status == 200


def test_a_lone_surrogate_is_refused(client):
    for query, product, name in (
        ("red \\ud800", "mug", "The query"),
        ("a", "mug \\udfff", "products[0]"),
    ):
        body = f'{{"query": "{query}", "products": ["{product}"]}}'.encode()
        found = client.ask("/rerank", body, headers={"Content-Type": "application/json"})
        assert found.status == 422
        assert found.content["error"] == (
            f"{name} has half a character at 4 (a lone surrogate): send it whole."
        )


def test_a_body_without_length_is_counted_as_it_comes(client):
    pieces = (b"x" * 10_000 for _ in range(40))
    found = client.ask("/rerank", pieces, encode_chunked=True, headers={
        "Transfer-Encoding": "chunked", "Content-Type": "application/json"
    })  # fmt: skip
    assert (found.status, found.content["error"][:13]) == (413, "The body has ")
    assert client.rerank().status == 200


def test_no_page_loads_anything_from_elsewhere(client):
    assert client.ask("/docs").status == client.ask("/redoc").status == 404


@pytest.mark.parametrize(
    "scores",
    [[np.nan], [np.inf], [], [1.0, 1.0], [[1.0]]],
    ids=["NaN", "inf", "few", "many", "2-D"],
)
def test_scores_that_are_none_are_an_error_of_the_service(scores):
    wrong, right = Stub(), Stub()
    wrong.score = lambda queries, texts: (
        np.array(scores) if texts[0] == TITLES[2] else right.score(queries, texts)
    )
    with service(wrong) as one:
        found = one.rerank()
        assert found.status == 500
        assert found.content == {"error": "The service failed on this request: its log says why."}
        assert one.rerank("red", ["mug"]).status == 200
        assert one.metrics()["ecomkd_requests_total", "/rerank", "500"] == 1


def test_an_engine_that_fails_once_answers_the_next():
    engine, faults = Stub(), [KeyError("lost")]

    def search(query, k):
        if faults:
            raise faults.pop()
        return Stub().search(query, k)

    engine.search = search
    with service(engine) as one:
        assert one.ask("/search?q=red").status == 500
        assert one.ask("/search?q=red").status == 200


def test_an_engine_that_cannot_score_is_not_served():
    engine = Stub()
    engine.score = lambda queries, texts: np.array([np.nan])
    with pytest.raises(RuntimeError, match="did not start"), service(engine):
        pass


# What a client has to know ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"[" * 100_000, "The body has lists or objects nested too deep"),
        (b'{"query": ' + b"9" * 5_000 + b"}", "The body has a number of too many digits"),
        (b"\xff", "The body is not JSON in UTF-8"),
    ],
    ids=["deep", "long number", "bytes"],
)
def test_why_a_body_cannot_be_read_is_told_truthfully(client, body, sentence):
    found = client.ask("/rerank", body, headers={"Content-Type": "application/json"})
    assert (found.status, found.content) == (400, {"error": f"{sentence}; {LIKE_RERANK}"})


def test_an_address_that_is_not_utf_8_is_refused(client):
    found = client.ask("/search?q=J%e4ger")
    assert (found.status, found.content) == (
        400,
        {"error": "The address is not UTF-8 at byte 3 after the question mark: write it in UTF-8."},
    )
    assert client.ask("/search?q=J%C3%A4ger").content["query"] == "Jäger"


def test_the_length_of_a_products_text_is_limited():
    with service(max_text=10) as one:
        assert one.rerank("red", ["ten chars!"]).status == 200
        found = one.rerank("red", ["mug", "eleven char"])
    assert (found.status, found.content) == (
        422,
        {"error": "products[1] has 11 characters: give at most 10."},
    )


def test_k_is_given_in_full_or_refused():
    with service(max_products=3) as one:
        assert len(one.ask("/search?q=red").content["hits"]) == 3  # the usual ten are too many
        assert len(one.ask("/search?q=red&k=2").content["hits"]) == 2
        found = one.ask("/search?q=red&k=4")
    assert (found.status, found.content) == (422, {"error": "k is 4: give 1 to 3."})


def test_a_head_is_answered_without_a_body(client):
    for path in ("/health", "/live", "/metrics", "/search?q=red"):
        found = client.ask(path, method="HEAD")
        assert found.status == 200
        assert found.content == b"" and int(found.headers["Content-Length"]) > 0
    assert client.ask("/rerank", method="HEAD").status == 405


def test_a_slash_too_many_leads_nowhere(client):
    found = client.ask("/search/?q=red", headers={"Host": "localhost"})
    assert (found.status, found.headers["Location"]) == (404, None)


def test_answers_name_the_index_they_come_from(client):
    assert client.ask("/health").headers["X-Ecomkd-Index"] is None
    engine = Stub()
    engine.version = "möbel, format 2, 3f9a"
    with service(engine) as one:
        assert one.ask("/health").content["index"] == "möbel, format 2, 3f9a"
        for found in (one.ask("/search?q=red"), one.ask("/search"), one.rerank()):
            assert found.headers["X-Ecomkd-Index"] == "m%C3%B6bel, format 2, 3f9a"


def test_a_request_and_its_answer_have_one_name(client, caplog):
    given = {"X-Request-Id": "basket-7/3"}
    for found in (client.ask("/search?q=red", headers=given), client.ask("/away", headers=given)):
        assert found.headers["X-Request-Id"] == "basket-7/3"
    names = {client.ask("/live").headers["X-Request-Id"] for _ in range(3)}
    assert len(names) == 3 and all(len(name) == 32 for name in names)
    longest = {"X-Request-Id": "n" * 128}
    assert client.ask("/live", headers=longest).headers["X-Request-Id"] == "n" * 128
    for unfit in ("two words", "", "n" * 129, "möbel"):
        shown = client.ask("/search", headers={"X-Request-Id": unfit}).headers["X-Request-Id"]
        assert len(shown) == 32
    rebound = {"Host": "rebound.example", **given}
    assert client.ask("/live", headers=rebound).headers["X-Request-Id"] == "basket-7/3"
    broken = Stub()
    broken.search = lambda query, k: [][k]
    with service(broken) as one:
        found = one.ask("/search?q=red", headers=given)
    assert (found.status, found.headers["X-Request-Id"]) == (500, "basket-7/3")
    assert "Request basket-7/3 failed." in caplog.messages


def test_the_description_states_limits_errors_and_kinds():
    with service(max_query=50, max_products=40, max_text=60) as one:
        described = one.ask("/openapi.json").content
    paths, schemas = described["paths"], described["components"]["schemas"]
    text = {"type": "string", "minLength": 1, "pattern": r"[^\s\u001c-\u001f\u0085]"}
    asked = [parameter["schema"] for parameter in paths["/search"]["get"]["parameters"]]
    q, k, offset, fields, conditions = asked
    assert fields["maxItems"] == conditions["maxItems"] == 0  # the stub has neither
    assert {**text, "maxLength": 50}.items() <= q.items()
    assert {"minimum": 1, "maximum": 40, "default": 10}.items() <= k.items()
    assert "Fewer come where the catalogue has no more that fit" in k["description"]
    assert {"minimum": 0, "maximum": 1_000, "default": 0}.items() <= offset.items()
    body = schemas["Rerank"]["properties"]
    assert {**text, "maxLength": 50}.items() <= body["query"].items()
    assert {"minItems": 1, "maxItems": 40}.items() <= body["products"].items()
    assert {**text, "maxLength": 60} == body["products"]["items"]
    assert list(schemas["Failure"]["properties"]) == ["error"]
    for path, method in (("/search", "get"), ("/rerank", "post")):
        refused = {"400", "408", "413", "422", "429", "500", "503", "504"}
        answers = paths[path][method]["responses"]
        assert set(answers) == {"200"} | refused
        for status in refused:
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Failure"}
    assert list(paths["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]


def test_the_part_gives_what_chapter_9_uses_by_name():
    from ecomkd import service

    for name in ("Drift", "RateLimit", "Settings", "agreement", "background", "create_app"):
        assert getattr(service, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        service.nothing  # noqa: B018


def test_a_field_is_told_by_its_name_and_not_at_length(client):
    kind = {"Content-Type": "application/json"}
    body = b'{"query": "a", "products": ["b"], "%s": 1}'
    half = client.ask("/rerank", body % rb"\ud800", headers=kind)
    assert half.content["error"].startswith("The name of a field has half a character at 0")
    long = client.ask("/rerank", body % (b"x" * 2_000), headers=kind)
    assert long.status == 422 and len(long.content["error"]) < 300
