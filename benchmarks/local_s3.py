"""An S3 server of one's own, in the memory of a process and on a free port of this machine.

It is moto's. moto does not stand beside the tested pins (botocore takes no python-dateutil 4), so
that it has an environment of its own, and its program `moto_server` is found on the PATH:

    python3.11 -m venv MOTO
    MOTO/bin/pip install "moto[server]==5.2.5"
    ln -s "$PWD/MOTO/bin/moto_server" ~/.local/bin/
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

SECRET = "s3cret/of+tests=alone"


def program() -> str | None:
    """Where moto's server stands, or None."""
    return shutil.which("moto_server")


@contextmanager
def running(*buckets: str) -> Iterator[str]:
    """A new server with these buckets, until the block ends; gives its address, `http://…`.

    Raises RuntimeError where moto is not installed, or does not start.
    """
    there = program()
    if there is None:
        raise RuntimeError("moto is not installed.")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [there, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(process, address)
        for bucket in buckets:
            made = urllib.request.Request(f"{address}/{bucket}", method="PUT")
            urllib.request.urlopen(made, timeout=30).close()
        yield address
    finally:
        process.kill()  # what it holds is in its memory alone
        process.wait()


def environment(address: str) -> dict[str, str]:
    """What LanceDB reads of the environment to use a server at an address."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _wait(process: subprocess.Popen, address: str) -> None:
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except OSError:  # nobody listens yet, or it is too busy to answer
            time.sleep(0.1)
    raise RuntimeError("moto did not start.")
