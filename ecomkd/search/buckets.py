"""Object storage under LanceDB: whether it can be reached, and what is wrong in one sentence.

The library's own words name requests and answers, which may hold a token: they are never shown, not
in a traceback either.
Chapter 19.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

QUICK = {"timeout": "5s", "connect_timeout": "5s", "client_max_retries": "0"}
"""For the first question, so that where nobody answers it is told in half a minute: LanceDB asks
some six times."""
PATIENT = {"client_max_retries": "3", "client_retry_timeout": "30"}
"""For all others: a request may take 30 s, and is tried again as long as that has not passed."""
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# Errors are told in two forms, that of programs and that of people.
_REFUSED = re.compile(
    r"status: 40[13]|Unauthenticated \{|PermissionDenied \{|get \w+ credentials"
    r"|status code: 40[13]|operation lacked (valid|the necessary)"
)
_AWAY = re.compile(r"RetryError|HttpError|Generic \{ store|Generic \w+ error")


def reached(connect: Callable[..., Any], place: str) -> Any:
    """The connection of LanceDB to object storage that has answered once.

    Raises ConnectionError where nobody answers, or where there is no such bucket, and
    PermissionError where credentials are missing or refused.
    """
    for name in _ENDPOINTS:
        if not re.match(r"https?://[^/]", os.environ.get(name) or "https://none"):
            raise ConnectionError(f"{place}: {name} is no address such as https://HOST:PORT.")
    try:
        connect(place, storage_options=QUICK).list_tables(limit=1)
    except (ValueError, RuntimeError, OSError) as error:
        raise refused(place, str(error)) from None
    return connect(place, storage_options=PATIENT)


def of_storage(said: str) -> bool:
    """Whether words of LanceDB are about the storage beneath it."""
    return any(one.search(said) for one in (_REFUSED, _AWAY))


def refused(place: str, said: str) -> OSError:
    """What is raised where LanceDB says so of the storage."""
    if "NoSuchBucket" in said:
        return ConnectionError(
            f"{place}: there is no such bucket: make it first, or check its name and, where the "
            "storage is not Amazon's, AWS_ENDPOINT_URL."
        )
    if "BadScheme" in said:
        return ConnectionError(
            f"{place}: the endpoint begins with http://, where everybody can read along: give "
            "https://, or allow it by AWS_ALLOW_HTTP=true."
        )
    if _REFUSED.search(said):
        return PermissionError(
            f"{place}: the object storage refuses: check the credentials in the environment, such "
            "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do."
        )
    return ConnectionError(
        f"{place}: the object storage does not answer as it should: check the network, the name "
        "and, where the storage is not Amazon's, AWS_ENDPOINT_URL."
    )
