"""What several tests need: a browser, and what the data cards of baskets state."""

import re
from functools import partial
from pathlib import Path

import pytest

import local_postgres
from browser import chromium


@pytest.fixture(scope="module")  # longer, and Playwright's event loop would stand in others' way
def browser():
    try:
        with chromium() as opened:
            yield opened
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def hurried():
    """Runtimes are timed once: no test asks how long anything takes."""
    from ecomkd import bench  # not every test needs what these load
    from ecomkd.relevance import runtimes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "_TIMED", 2)
        patch.setattr(bench, "interleaved", partial(bench.interleaved, repeats=1, warmup=0))
        yield


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL with pgvector that nobody else asks."""
    if local_postgres.programs() is None:
        pytest.skip("PostgreSQL with pgvector is not installed")
    with local_postgres.running() as found:
        yield found


@pytest.fixture
def postgres_uri(server, monkeypatch) -> str:
    """Its URI, with no catalogue in it."""
    monkeypatch.setenv("PGPASSWORD", local_postgres.PASSWORD)
    server.sql("DROP TABLE IF EXISTS products, june, ecomkd_catalogues")
    return server.uri


@pytest.fixture
def milvus_uri(tmp_path, monkeypatch):
    """A file of Milvus Lite with no catalogue in it, whose server is stopped at the end."""
    manager = pytest.importorskip("milvus_lite.server_manager", reason="milvus-lite is missing")
    from pymilvus.client.grpc_handler import GrpcHandler

    # It builds an index at once, and the client would wait half a second for each all the same.
    monkeypatch.setattr(GrpcHandler, "wait_for_creating_index", lambda *_, **__: (True, ""))
    file = tmp_path / "catalogues" / "shop.db"
    yield f"milvus{file.as_uri().removeprefix('file')}"
    manager.server_manager_instance.release_server(str(file))


@pytest.fixture
def card():
    """A function from a section's label to the whole numbers that it states, in order."""
    page = Path(__file__).resolve().parent.parent / "book" / "data_baskets.md"
    sections = re.split(r"^\((card-\w+)\)=$", page.read_text("utf-8"), flags=re.MULTILINE)
    texts = dict(zip(sections[1::2], sections[2::2], strict=True))
    return lambda label: [
        int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*", texts[label])
    ]
