"""The service asked at random by schemathesis, which reads the service's own description."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from serving import Stub, service


class Told(Stub):
    """An engine whose hits have fields, of the same names as parts of a hit."""

    def search(self, query, k):
        found = super().search(query, k)
        return [SimpleNamespace(**hit._asdict(), fields=hit._asdict()) for hit in found]


@pytest.mark.parametrize("fields", [(), ("product_id", "title")])
def test_answers_are_as_described(tmp_path, fields):
    """No server error; status, kind, form and headers as stated; what breaks a limit is refused."""
    engine = Told()
    engine.version = "fuzzed"
    engine.fields = fields
    with service(engine, max_query=40, max_products=5, max_text=60) as one:
        command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run"]
        command += [f"http://127.0.0.1:{one.port}/openapi.json", "--max-examples", "100"]
        command += ["--phases", "examples,coverage,fuzzing"]
        command += ["--seed", "1", "--generation-database", "none"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        asked = sum(
            count for (name, *_), count in one.metrics().items() if name == "ecomkd_requests_total"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked > 100
