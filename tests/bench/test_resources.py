from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.resources import ProcessWatch, find_listener, parse_metrics, sample_tree
from vivace.errors import ConfigError

BURN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
time.sleep(2)
child.kill()
child.wait()
"""
LISTEN = """
import socket, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
time.sleep(20)
"""


def test_the_time_of_descendants_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", BURN]) as process, ProcessWatch(process.pid) as watch:
        started = time.perf_counter()
        time.sleep(1.8)
        ended = time.perf_counter()
    found = watch.describe(started, ended, tokens=100)
    assert found is not None
    assert found["processes_max"] == 2
    assert 0.1 < found["cpu_s"] < 3
    assert found["tokens_per_cpu_s"] == pytest.approx(100 / found["cpu_s"])
    assert len(found["samples"]["s"]) == len(found["samples"]["cores"])


def test_the_listener_of_a_port_is_found() -> None:
    with subprocess.Popen([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert find_listener(port) == process.pid
        process.kill()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert find_listener(free.getsockname()[1]) is None


def test_a_process_that_is_not_there_is_refused() -> None:
    assert sample_tree(2**22 + 1) is None
    with pytest.raises(ConfigError, match="--pid"):
        ProcessWatch(2**22 + 1)


def test_a_servers_own_metrics_are_read() -> None:
    text = "# HELP x\nprocess_cpu_seconds_total 12.5\nprocess_resident_memory_bytes 1e6\nother 3\n"
    assert parse_metrics(text) == {"cpu_s": 12.5, "rss_bytes": 1e6}


@given(st.text(max_size=200))
def test_any_text_for_metrics_is_borne(text: str) -> None:
    assert isinstance(parse_metrics(text), dict)
    assert isinstance(parse_metrics(f"process_cpu_seconds_total {text}"), dict)
