"""A stop at the worst moments: what the main thread does then must not matter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minima.workspace import attempts
from tests.unit import held

BEGIN = """
import os, signal, sys, threading, time
from minima.errors import DataError
from minima.process import launch, stop
stop.watch("test")
def ready():
    print("ready", flush=True)
"""
DEAF = {
    "a library that catches everything": """
ready()
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
""",
    "a call of C that never comes back": """
lock = threading.Lock()
lock.acquire()
ready()
lock.acquire()
""",
    "a finaliser": """
class Last:
    def __del__(self):
        ready()
        time.sleep(60)
Last()
time.sleep(60)
""",
    "a handler that a library put there": """
signal.signal(signal.SIGTERM, lambda *_: None)
ready()
time.sleep(60)
""",
    "what is done before the end hangs": """
stop._ACTS_SECONDS = 0.2
with stop.before_the_end(lambda: time.sleep(60)):
    ready()
    time.sleep(60)
""",
}


def stopped(program: str, *signals: signal.Signals, begin: str = BEGIN, **popen: object) -> tuple[int, str, str]:
    """Exit code, stdout after `ready` and stderr of a program that gets signals when it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", begin + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,  # type: ignore[call-overload]
    ) as process:
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            process.send_signal(number)
            time.sleep(0.1)
        try:
            out, error = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, out, error


@pytest.mark.parametrize("program", DEAF.values(), ids=DEAF.keys())
def test_it_ends_whatever_the_main_thread_does(program: str) -> None:
    code, _, error = stopped(program, signal.SIGTERM)
    assert code == 143, error
    assert "Traceback" not in error


def test_it_says_so_after_what_is_to_be_done_first() -> None:
    program = """
with stop.before_the_end(lambda: print("outer", flush=True)), stop.before_the_end(lambda: print("inner", flush=True)):
    with stop.before_the_end(lambda: print("never")), stop.before_the_end(None):
        pass
    ready()
    time.sleep(60)
"""
    code, out, error = stopped(program, signal.SIGHUP)
    assert (code, out, error) == (143, "inner\nouter\n", "minima test: stopped by SIGHUP; the same command goes on\n")


def test_what_saves_is_left_to_save_however_often_it_is_told() -> None:
    program = """
stop.remember()
ready()
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    time.sleep(0.05)
print(stop.requested().name, flush=True)
sys.exit(5)
"""
    code, out, _ = stopped(program, signal.SIGINT, signal.SIGTERM, signal.SIGTERM)
    assert (code, out) == (5, "SIGINT\n")


def test_nohup_is_heeded() -> None:
    program = "\nready()\ntime.sleep(1)\nprint(stop.requested(), flush=True)\n"
    code, out, _ = stopped(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nstop.watch('test')" + program, signal.SIGHUP, begin=IGNORING
    )
    assert (code, out) == (0, "None\n")


IGNORING = "\n".join(line for line in BEGIN.splitlines() if "stop.watch" not in line) + "\n"


@pytest.mark.parametrize(
    ("what", "code"), [("raise DataError('seven')", 143), ("raise RuntimeError('seven')", 143), ("return 0", 0)]
)
def test_what_fails_after_a_stop_failed_by_it_and_what_is_finished_is_finished(what: str, code: int) -> None:
    program = f"""
stop.remember()
def stage():
    ready()
    while not stop.requested():
        time.sleep(0.01)
    {what}
sys.exit(launch.guarded("test", stage))
"""
    found, _, error = stopped(program, signal.SIGTERM)
    assert found == code
    assert "Traceback" not in error
    assert ("on the way: " in error) == (code == 143)


HANGING = """
import sys, time, types
def run(options, output):
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
module = types.ModuleType("minima.stages.convert")
module.run = run
sys.modules["minima.stages.convert"] = module
"""


FENCING = """
from minima.workspace.lease import Lease
Lease._fence = lambda lease: (print("ready", flush=True), time.sleep(60))
"""


@pytest.mark.parametrize("also", ["", FENCING], ids=["while it works", "while it takes its lease"])
def test_a_stopped_stage_gives_its_folder_free_and_used_up_no_attempt(tmp_path: Path, also: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    held.model(tmp_path / "model")
    words = ["convert", "--layer", "1", "--hidden", "8", "--head", "2", "--intermediate", "8", "--max_attempts", "1"]
    words += ["--model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    main = f"import sys, time\nfrom minima import __main__\nsys.argv[1:] = {words}\n"
    for _ in range(3):
        code, _, error = stopped("__main__.main()\n", signal.SIGTERM, begin=main + also, env=env)
        assert code == 143, error
        assert "waiting up to" not in error
    newest = max((tmp_path / "out").glob("_lease*.json"))
    assert json.loads(newest.read_text())["state"] == "released"
    if not also:
        assert json.loads((tmp_path / "out" / attempts.FILE).read_text())["attempts"] == 0
