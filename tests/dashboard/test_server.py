import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from qprobe.dashboard.server import Address, bind, has_display
from qprobe.errors import InputError


def test_a_port_in_use_is_followed_by_the_next():
    with bind(Address(port=0)) as first:
        port = first.getsockname()[1]
        with bind(Address(port=port)) as second:
            assert port < second.getsockname()[1] <= port + 19


def test_a_host_that_is_not_here_is_refused():
    with pytest.raises(InputError, match=r"cannot listen on 203\.0\.113\.1"):
        bind(Address(host="203.0.113.1"))


def test_no_browser_without_a_terminal(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    assert not has_display()  # pytest catches the output, so nobody sees a terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert has_display()
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not has_display()


def test_the_command_serves_until_ctrl_c(sweep):
    command = [sys.executable, "-m", "qprobe", "dashboard", str(sweep), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/", line).group()
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  (our own)
            assert b"qprobe" in answer.read()
        ours, its = (os.getpriority(os.PRIO_PROCESS, one) for one in (0, process.pid))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert its == min(19, ours + 10)  # a training goes first
    port = int(url.rsplit(":", 1)[1].strip("/"))
    with bind(Address(port=port)) as again:  # and the port is free at once
        assert again.getsockname()[1] == port
