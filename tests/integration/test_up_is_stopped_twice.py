"""`visual-search up` is told to end while it ends: by a second Ctrl-C, a closed terminal, an impatient supervisor."""

import signal
import subprocess
import sys

import pytest
from servers import ROOT, environment_of

from storage.settings import Settings
from workers.bundled_valkey import find_valkey, stop_valkey

# The very start and end of `up`, without roles; the signals come at these two moments and at no other.
PROGRAM = """
import os, signal, sys
from storage.settings import load_settings
from workers.machine import one_machine

number = signal.Signals[sys.argv[1]]
connect, stop = one_machine.connect_redis, one_machine.stop_valkey

def connected(settings):
    connect(settings).close()
    os.kill(os.getpid(), signal.SIGTERM)

def stopped(settings):
    os.kill(os.getpid(), number)
    return stop(settings)

one_machine.connect_redis, one_machine.stop_valkey = connected, stopped
one_machine.run_everything(load_settings(), one_machine.Shares(1, 1), sys.stdout)
"""


@pytest.mark.usefixtures("_valkey_program")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_the_bundled_valkey_is_stopped_all_the_same(tmp_path, number):
    settings = Settings(data_dir=tmp_path / "home", model="baseline")
    command = [sys.executable, "-c", PROGRAM, number]
    done = subprocess.run(
        command, cwd=ROOT, env=environment_of(settings), capture_output=True, text=True, timeout=180, check=False
    )
    left = find_valkey(settings)
    stop_valkey(settings)
    assert left is None, done.stderr
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
