"""Settings, the socket, signals, kills, and the command line."""

import http.client
import inspect
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
from serving import ROOT, TITLES, Client, Stub, service, until, value, with_shadow

import ecomkd
from ecomkd import cli
from ecomkd.arguments import parser
from ecomkd.service.app import create_app
from ecomkd.service.contract import Settings
from ecomkd.service.server import read_queries, run


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"workers": 0}, "workers is 0: give 1 to 256."),
        ({"workers": 1_000_000}, "workers is 1000000: give 1 to 256."),
        ({"max_text": 0}, "max_text is 0: give 1 or more."),
        ({"read_timeout": 0}, "read_timeout is 0: give 0.001 or more."),
        ({"timeout": 0}, "timeout is 0: give 0.001 or more."),
        ({"rate": -1}, "rate is -1: give 0 or more."),
        ({"shadow_share": 1.5}, "shadow_share is 1.5: give 0 to 1."),
        ({"timeout": float("nan")}, "timeout is nan: give 0.001 or more."),
        ({"workers": 1.5}, "workers is 1.5: give a whole number."),
        ({"drift_window": float("inf")}, "drift_window is inf: give a whole number."),
        ({"read_timeout": float("inf")}, "read_timeout is inf: give a finite number."),
    ],
)
def test_settings_without_sense_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Settings(**setting)


def test_loopback_is_the_default():
    assert inspect.signature(run).parameters["host"].default == "127.0.0.1"
    options = parser(cli._commands()).parse_args(["serve", "folder"])
    assert (options.host, options.port) == ("127.0.0.1", 8000)


def test_a_port_in_use_is_named():
    with (
        service() as one,
        pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1, port {one.port} "),
    ):
        run(create_app(Stub()), port=one.port)


def test_a_file_of_queries(tmp_path):
    file = tmp_path / "queries.txt"
    file.write_text("red mug\n\n  \nJäger\n" * 50, "utf-8")
    assert read_queries(file) == ["red mug", "Jäger"] * 50
    file.write_text("red mug\n", "utf-8")
    with pytest.raises(ValueError, match=r"queries\.txt: the file has 1 queries, .* least 100"):
        read_queries(file)
    file.write_bytes("Jäger".encode("latin-1"))
    with pytest.raises(ValueError, match=r"queries\.txt is not UTF-8 at byte 1: save it as UTF-8"):
        read_queries(file)


def test_the_command_hands_over_folder_and_settings(tmp_path, monkeypatch, capsys):
    seen = SimpleNamespace()
    stub = ModuleType("ecomkd.search")
    engine = with_shadow(Stub().score)
    stub.load = lambda folder: seen.__setattr__("folder", folder) or engine
    monkeypatch.setitem(sys.modules, "ecomkd.search", stub)
    monkeypatch.setattr(ecomkd, "search", stub, raising=False)
    monkeypatch.setattr(
        ecomkd.service, "create_app", lambda engine, settings, **rest: (settings, rest)
    )
    monkeypatch.setattr(ecomkd.service, "run", lambda app, *at: seen.__setattr__("ran", (app, *at)))
    file = tmp_path / "queries.txt"
    file.write_text("red mug\n" * 100, "utf-8")
    arguments = ["serve", str(tmp_path), "--port", "9000", "--workers", "3", "--timeout", "1.5"]
    arguments += ["--rate", "0", "--shadow", "0.2", "--reference", str(file)]
    assert cli.main(arguments) == 0
    (settings, rest), host, port = seen.ran
    assert seen.folder == tmp_path
    assert (host, port) == ("127.0.0.1", 9000)
    wanted = Settings(workers=3, timeout=1.5, rate=0, shadow_share=0.2)
    assert settings == wanted
    assert rest.pop("newer")() is None  # the folder is as it was
    assert rest == {"name": tmp_path.name, "reference": ["red mug"] * 100}
    assert cli.main(["serve", str(tmp_path)]) == 0
    settings, rest = seen.ran[0]
    assert settings == Settings()
    assert rest.pop("newer")() is None
    assert rest == {"name": tmp_path.name, "reference": None}
    engine.shadow = None
    assert cli.main(["serve", str(tmp_path), "--shadow", "0.2"]) == 1
    said = capsys.readouterr().err
    wanted = f"ecomkd: {tmp_path} holds no teacher to compare with: leave out --shadow"
    assert said.startswith(wanted) and said.count("\n") == 1


def test_the_command_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from ecomkd.cli import main\n"
        "sys.exit(main(['serve', '.']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        'ecomkd: uvicorn is not installed, and a service needs it: pip install "ecomkd[serve]".\n'
    )


PROGRAM = """
import signal, sys, time, types
# As in a terminal, also where the tests were started with nohup or in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path[:0] = {path}
import ecomkd, serving
from ecomkd import cli

class Engine(serving.Stub):
    def score(self, queries, texts):
        time.sleep(0.3 if queries[0] == "slow" else 0.001)
        return super().score(queries, texts)

ecomkd.search = sys.modules["ecomkd.search"] = types.SimpleNamespace(load=lambda folder: Engine())
sys.exit(cli.main(["serve", ".", "--rate", "0", "--port", sys.argv[1]]))
"""


@contextmanager
def process(port: int = 0, **options):
    """`ecomkd serve` in a process of its own; gives the process and the port."""
    code = PROGRAM.format(path=[str(ROOT), str(ROOT / "tests")])
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(port)], stdout=subprocess.PIPE, text=True, **options
    )
    try:
        line = child.stdout.readline()
        assert line.startswith("Listening on http://127.0.0.1:"), line
        yield child, int(line.split(":")[2].split()[0])
    finally:
        child.kill()
        child.wait()
        for pipe in filter(None, (child.stdout, child.stderr)):
            pipe.close()


def test_sigterm_ends_the_process_after_what_was_begun():
    with process() as (child, port), ThreadPoolExecutor(1) as threads:
        one = Client(port)
        until(lambda: one.ask("/health").status == 200)
        slow = threads.submit(one.rerank, "slow")
        until(lambda: one.ask("/health").content["waiting"] == 1)
        child.send_signal(signal.SIGTERM)
        answer = slow.result()
        assert answer.content["scores"] == [value("slow", title) for title in TITLES]
        assert child.wait(20) in (0, -signal.SIGTERM)
        with pytest.raises(ConnectionRefusedError):
            one.ask("/health")


def test_killed_and_restarted_under_load_gives_no_wrong_answer():
    found = {"right": 0, "wrong": 0, "none": 0}
    lock, stop = threading.Lock(), threading.Event()

    def load(number: int, port: int) -> None:
        one, turn = Client(port), 0
        while not stop.is_set():
            turn += 1
            query = f"query {number} {turn}"
            try:
                answer = one.rerank(query)
            except (OSError, http.client.HTTPException):
                kind = "none"
                time.sleep(0.01)
            else:
                wanted = [value(query, title) for title in TITLES]
                right = answer.status == 200 and answer.content["scores"] == wanted
                kind = "right" if right else "wrong"
            with lock:
                found[kind] += 1

    with ThreadPoolExecutor(4) as threads:
        try:
            with process() as (child, port):
                for number in range(4):
                    threads.submit(load, number, port)
                until(lambda: found["right"] > 100)
                os.kill(child.pid, signal.SIGKILL)
                until(lambda: found["none"] > 0)
            before = found["right"]
            with process(port):
                until(lambda: found["right"] > before + 100)
                stop.set()
        finally:
            stop.set()
    assert found["wrong"] == 0


def test_an_empty_host_is_refused():
    for host in ("", " "):
        with pytest.raises(ValueError, match="--host is empty: give 127"):
            run(create_app(Stub()), host)


def test_proxies_and_hosts_are_checked():
    for setting, sentence in (
        ({"trusted_proxies": ("nginx",)}, "trusted_proxies: 'nginx' does not appear to be "),
        ({"trusted_proxies": ("10.0.0.1/8",)}, "trusted_proxies: 10.0.0.1/8 has host bits set; "),
        ({"allowed_hosts": ("shop.example:80",)}, "allowed_hosts: 'shop.example:80' is no name "),
        ({"allowed_hosts": ("*",)}, "allowed_hosts: '*' is no name of a host: give one such as "),
        ({"allowed_hosts": ("",)}, "allowed_hosts: '' is no name of a host"),
        ({"allowed_hosts": "shop.example"}, "allowed_hosts is 'shop.example': give a tuple of "),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            Settings(**setting)
    Settings(trusted_proxies=("10.0.0.0/8", "::1"), allowed_hosts=("shop.example", "[::2]"))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_a_line_at_most(kind):
    with process(stderr=subprocess.PIPE) as (child, port):
        assert Client(port).ask("/health").status == 200
        child.send_signal(kind)
        said, complained = child.communicate(timeout=20)
    assert (said, complained) == ("Stopped.\n" if kind == signal.SIGINT else "", "")


def test_a_service_loads_little():
    code = (
        "import sys, ecomkd.service.app, ecomkd.service.server\n"
        "print([name for name in ('torch', 'transformers', 'scipy', 'pandas', 'websockets')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_a_byte_order_mark_is_no_part_of_the_first_query(tmp_path):
    (tmp_path / "queries.txt").write_text("\ufeff" + "red mug\n" * 100, encoding="utf-8")
    assert set(read_queries(tmp_path / "queries.txt")) == {"red mug"}
