"""What holds for every test: where everything must run, a skip is a failure.

A test that needs a browser or a peer skips on a machine without it. Continuous
integration sets ``KOKO_REQUIRE_ALL=1``, so that a test cannot fall asleep there.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import socket
from collections.abc import Generator

import pytest

from tests.adapters.proxies import program

# What ignores a signal, as a shell has its background jobs do, hands that on to what it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

REQUIRE_ALL = os.environ.get("KOKO_REQUIRE_ALL", "") not in ("", "0")


def pytest_collection_finish() -> None:
    """Spare the garbage collector the tests themselves: many ask it what they left behind."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a module of others that is not installed, before anything is set up."""
    for mark in item.iter_markers("integration"):
        for module in mark.args:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed here (make integrations installs it)")
        for name in mark.kwargs.get("programs", ()):
            if program(name) is None:
                pytest.skip(f"{name} is not installed here (apt-get install {name})")


@pytest.fixture
def ipv6() -> str:
    """This machine's own address of version 6, where it has one."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    return "::1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if REQUIRE_ALL and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"KOKO_REQUIRE_ALL=1 allows no skips, but this one did: {reason}"
