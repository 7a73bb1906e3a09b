"""A browser for the tests of the pages."""

import pytest

from browser import chromium


@pytest.fixture(scope="module")  # longer, and Playwright's event loop would stand in others' way
def browser():
    try:
        with chromium() as opened:
            yield opened
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
