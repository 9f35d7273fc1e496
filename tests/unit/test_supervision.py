"""The supervisor on real, small processes; each test ends it by a signal as soon as certain words are printed."""

import io
import signal
import socket
import sys

import psutil
import pytest

from storage.settings import Settings
from workers.errors import PortTaken
from workers.machine import one_machine, supervision
from workers.machine.one_machine import Shares, page_address, roles_of, with_port
from workers.machine.supervision import Patience, Role, Supervisor

SLEEPER = "import time; print('awake'); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"
TERM = signal.SIGTERM
QUICK = Patience(first_pause_seconds=0.05, longest_pause_seconds=0.1, grace_seconds=120)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


class Screen(io.StringIO):
    """Keeps what is printed, and sends signals to this process when the words have been printed so many times."""

    def __init__(self, words: str, times: int = 1, *signals: signal.Signals, terminal: bool = False) -> None:
        super().__init__()
        self._words, self._times, self._signals, self._terminal = words, times, signals or (TERM,), terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._signals and self.getvalue().count(self._words) >= self._times:
            signals, self._signals = self._signals, ()
            for number in signals:
                signal.raise_signal(number)
        return written

    def isatty(self) -> bool:
        return self._terminal


def _python(name: str, program: str, **environment: str) -> Role:
    return Role(name, [sys.executable, "-c", program], environment)


@pytest.fixture(autouse=True)
def _no_process_is_left_behind():
    before = set(psutil.Process().children(recursive=True))  # servers of other tests
    yield
    assert set(psutil.Process().children(recursive=True)) - before == set()


def test_lines_of_both_outputs_carry_the_name_of_their_role():
    program = (
        "import os, sys; print(os.environ['WORD']); print('to stderr', file=sys.stderr); import time; time.sleep(600)"
    )
    screen = Screen("to stderr")
    roles = [_python("first", SLEEPER), _python("second-one", program, WORD="given")]
    assert Supervisor(roles, screen, QUICK).run()
    lines = screen.getvalue().splitlines()
    assert [line[9:] for line in lines if "given" in line] == ["second-one | given"]
    assert [line[9:] for line in lines if "to stderr" in line] == ["second-one | to stderr"]
    assert lines[-1][9:] == "up         | all ended"


def test_a_crashed_process_starts_again_after_ever_longer_pauses():
    screen = Screen("it again", times=4)
    Supervisor([_python("frail", "import sys; print('born'); sys.exit(3)")], screen, QUICK).run()
    said = [line.split("| ")[1] for line in screen.getvalue().splitlines() if "it again" in line]
    pauses = ["0.05", "0.1", "0.1", "0.1"]
    assert said == [f"frail ended with exit code 3; starting it again in {pause} s" for pause in pauses]
    assert screen.getvalue().count("born") == 4, "the last words of a process that crashed are printed as well"


def test_a_process_that_ran_steadily_starts_again_after_the_first_pause():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    screen = Screen("it again", times=3)
    Supervisor([_python("steady", program)], screen, Patience(0.05, 30, steady_seconds=0)).run()
    assert screen.getvalue().count("steady was killed by SIGKILL; starting it again in 0.05 s") == 3


def test_a_command_that_cannot_be_started_is_told_and_tried_again():
    screen = Screen("cannot be started", times=2)
    assert Supervisor([Role("absent", ["/no/such/program"]), _python("other", SLEEPER)], screen, QUICK).run()
    assert "absent cannot be started: " in screen.getvalue()
    assert "other started" in screen.getvalue()


def test_a_process_that_does_not_end_in_time_is_killed_and_told():
    screen = Screen("deaf")
    assert not Supervisor([_python("stubborn", STUBBORN)], screen, Patience(grace_seconds=0.3)).run()
    assert screen.getvalue().splitlines()[-1].endswith("| killed stubborn")


def test_a_second_signal_kills_at_once():
    screen = Screen("deaf", 1, TERM, TERM)
    assert not Supervisor([_python("stubborn", STUBBORN)], screen, Patience(grace_seconds=3600)).run()


def test_what_a_crashed_process_had_started_does_not_outlive_it():
    program = (
        "import os, subprocess, sys; child = subprocess.Popen(['sleep', '600'], stdout=sys.stdout)\n"
        "print('child', child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    screen = Screen("it again", times=2)
    Supervisor([_python("parent", program)], screen, QUICK).run()
    pids = [int(line.split()[-1]) for line in screen.getvalue().splitlines() if "| child" in line]
    assert pids
    gone, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=180)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == [], gone


def test_a_lost_terminal_ends_everything():
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    assert Supervisor([_python("sleeper", SLEEPER)], Closed(), QUICK).run()


def test_names_are_coloured_on_a_terminal_only_and_not_against_the_users_wish(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Screen("awake", terminal=True)
    Supervisor([_python("sleeper", SLEEPER)], coloured, QUICK).run()
    assert "\033[36m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Screen("awake", terminal=True)
    Supervisor([_python("sleeper", SLEEPER)], plain, QUICK).run()
    assert "\033" not in plain.getvalue()


def test_the_tick_comes_again_and_again_and_may_speak(monkeypatch):
    monkeypatch.setattr(supervision, "_TICK_SECONDS", 0.05)
    screen = Screen("tick", times=3)
    supervisor = Supervisor([_python("sleeper", SLEEPER)], screen, QUICK)
    supervisor.run(lambda: supervisor.say("tick"))
    assert screen.getvalue().count("up      | tick") == 3


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_a_stop_and_a_closed_terminal_all_end_it(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup does
    try:
        assert Supervisor([_python("sleeper", SLEEPER)], Screen("awake", 1, number), QUICK).run()
    finally:
        signal.signal(number, before)


def test_under_nohup_a_closed_terminal_ends_nothing(monkeypatch):
    monkeypatch.setattr(supervision, "_TICK_SECONDS", 0.1)
    screen = Screen("awake", 1, signal.SIGHUP)
    ticks_after_it = []

    def tick() -> None:
        if "awake" in screen.getvalue():
            ticks_after_it.append("still here")
        if len(ticks_after_it) == 3:
            signal.raise_signal(TERM)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Supervisor([_python("sleeper", SLEEPER)], screen, QUICK).run(tick)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(ticks_after_it) == 3


def test_the_signal_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    Supervisor([_python("sleeper", SLEEPER)], Screen("awake"), QUICK).run()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(1, 1, 1), (2, 1, 1), (4, 1, 3), (8, 2, 3), (16, 3, 4), (4, 8, 1)]
)
def test_the_compute_threads_of_all_roles_stay_below_the_cores(monkeypatch, cores, workers, threads):
    monkeypatch.setattr(one_machine, "usable_cores", lambda: cores)
    shares = Shares.of_the_cores(workers)
    assert (shares.workers, shares.threads) == (workers, threads)
    assert shares.workers * shares.threads + shares.query_threads <= max(cores, workers + 1), "one each at least"
    assert Shares.of_the_cores(workers, 7).threads == 7, "asked for is asked for"
    assert one_machine.usable_cores() >= 1


def test_every_role_gets_the_settings_and_its_threads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    roles = roles_of(Settings(data_dir="data", model="baseline"), Shares(2, 3, 4), tmp_path / "my.toml")
    names = ["aggregator", "embed-worker.1", "embed-worker.2", "beat", "query-worker", "http"]
    assert [role.name for role in roles] == names
    assert [role.environment["OMP_NUM_THREADS"] for role in roles] == ["1", "3", "3", "1", "4", "1"]
    assert [role.command[1:] for role in roles][1:3] == [["-m", "workers.embed_worker"]] * 2
    for role in roles:
        assert role.environment["VISUAL_SEARCH_DATA_DIR"] == str(tmp_path / "data")
        assert role.environment["VISUAL_SEARCH_MODEL"] == "baseline"
        assert role.environment["VISUAL_SEARCH_HTTP_PORT"] == "8600"
        assert role.environment["VISUAL_SEARCH_CONFIG"] == str(tmp_path / "my.toml")
    assert [role.name for role in roles_of(Settings(data_dir="data"), Shares(1, 1))][1] == "embed-worker"


@pytest.mark.parametrize(
    ("first", "ports"), [(9100, ["9100", "9101", "9102", "9103", "9104"]), (None, [None] * 5), (0, [None] * 5)]
)
def test_metrics_ports_are_counted_up_from_the_first_one(tmp_path, first, ports):
    roles = roles_of(Settings(data_dir=tmp_path, metrics_port=first), Shares(1, 1))
    assert [role.environment.get("VISUAL_SEARCH_METRICS_PORT") for role in roles] == ports


def test_the_page_has_an_address_that_a_browser_can_open():
    assert page_address(Settings(http_port=8600)) == "http://127.0.0.1:8600/"
    assert page_address(Settings(http_host="0.0.0.0", http_port=80)) == "http://127.0.0.1:80/"  # noqa: S104
    assert page_address(Settings(http_host="::1", http_port=80)) == "http://[::1]:80/"


def test_a_port_that_another_program_has_is_told_and_a_free_one_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {taken}.*--port"):
            with_port(Settings(http_port=taken))
    assert with_port(Settings(http_port=taken)).http_port == taken
    assert with_port(Settings(http_port=0)).http_port > 0
