"""PID 1: what is checked before anything heavy, who dies with whom, and the exit codes."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minima.errors import DataError
from minima.options import Adapt
from minima.process import agent, launch
from minima.process import words as last_words
from minima.workspace import artifact
from tests.unit import held

STUB = Path(__file__).parent / "stub"


@pytest.fixture
def options(tmp_path: Path) -> Adapt:
    held.model(tmp_path / "model")
    return Adapt(
        output_dir=str(tmp_path / "out"),
        model_name_or_path=str(tmp_path / "model"),
        record_path_or_regex=(str(tmp_path / "model"),),
    )


@pytest.fixture
def start(options: Adapt) -> Iterator[Any]:
    """Start `minima adapt` with two workers that do what the word says."""
    started: list[subprocess.Popen[str]] = []

    def start(word: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(STUB), "STUB": word, "PET_NPROC_PER_NODE": "2", "PET_NNODES": "1"}
        words = ["--output_dir", options.output_dir, "--model_name_or_path", options.model_name_or_path]
        command = [sys.executable, "-m", "minima", "adapt", *words, "--record_path_or_regex", *options.record_path_or_regex]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def workers(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline().split()[-1]) for _ in range(2)]


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() and "(zombie)" not in Path(f"/proc/{pid}/status").read_text() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_success_is_the_marker_and_again_is_quick(start: Any, options: Adapt) -> None:
    process = start("ok")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    marker = artifact.finished(options)
    assert marker is not None
    assert marker["metrics"] == {"rank": 0}
    again = start("bug")  # Would fail if a worker were started.
    _, error = again.communicate(timeout=20)
    assert again.returncode == 0
    assert error.startswith("finished already: ")


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [
        ("bad data", 65, "minima adapt: train.tfrecord: record 7: checksum"),
        ("bug", 70, "unexpected ZeroDivisionError: seven; this is a bug"),
        ("killed", 137, "minima adapt: a worker ended with exit code 137"),
    ],
)
def test_a_failed_worker_gives_the_programs_exit_code(start: Any, options: Adapt, word: str, code: int, said: str) -> None:
    process = start(word)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code, error
    assert said in error
    assert error.strip().splitlines()[-1].startswith("minima adapt: ")
    assert ("Traceback" in error) == (word == "bug")
    assert artifact.finished(options) is None


def test_sigterm_ends_one_that_looks_for_the_other_pods(options: Adapt) -> None:
    """No worker has anything to save, and torch's store would keep it for a minute where nobody answers."""
    words = ["--output_dir", options.output_dir, "--model_name_or_path", options.model_name_or_path]
    command = [sys.executable, "-m", "minima", "adapt", *words, "--record_path_or_regex", *options.record_path_or_regex]
    with socket.create_server(("localhost", 0)) as silent:
        env = {**os.environ, "PYTHONPATH": str(STUB), "STUB": "ok", "PET_NPROC_PER_NODE": "1", "PET_NNODES": "2:2"}
        env |= {"PET_RDZV_BACKEND": "c10d", "PET_RDZV_ID": "test"}
        env |= {"PET_RDZV_ENDPOINT": f"localhost:{silent.getsockname()[1]}"}
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                process.terminate()
                _, error = process.communicate(timeout=30)
    assert process.returncode == 143, error
    assert "stopped by SIGTERM; the same command goes on" in error


def test_a_lost_host_of_the_rendezvous_is_tried_again(options: Adapt, tmp_path: Path) -> None:
    """Two pods, and the one at which they meet is killed: a lost peer (128 + n) for the other, not a bug (70)."""
    with socket.create_server(("localhost", 0)) as probe:
        port = probe.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(STUB), "STUB": "hang", "PET_NPROC_PER_NODE": "1", "PET_NNODES": "2:2"}
    env |= {
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"localhost:{port}",
        "PET_RDZV_ID": "test",
        "PET_MAX_RESTARTS": "0",
    }
    env |= {"PET_RDZV_CONF": "read_timeout=10,keep_alive_interval=2"}
    words = ["--output_dir", options.output_dir, "--model_name_or_path", options.model_name_or_path]
    command = [sys.executable, "-m", "minima", "adapt", *words, "--record_path_or_regex", *options.record_path_or_regex]
    with contextlib.ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        host = start()
        while True:  # Until it serves.
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("localhost", port)):
                break
            assert host.poll() is None
            time.sleep(0.1)
        other = start()
        for process in (host, other):
            assert process.stdout is not None
            assert process.stdout.readline().startswith("pid ")
        host.kill()
        _, error = other.communicate(timeout=120)
        assert other.returncode == 134, error
        assert "Traceback" not in error


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
def test_a_stop_ends_the_workers_and_is_143(start: Any, how: signal.Signals) -> None:
    process = start("hang")
    pids = workers(process)
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "goes on" in error
    assert gone(pids, 1)


def test_a_pause_is_one_of_the_workers_too_and_sigterm_ends_them(start: Any) -> None:
    """Ctrl-Z and fg: each worker is in a session of its own, which no terminal reaches."""
    process = start("hang")
    its = workers(process)
    pids = [process.pid, *its]
    for how, stopped in ((signal.SIGTSTP, True), (signal.SIGCONT, False)):
        process.send_signal(how)
        deadline = time.monotonic() + 10
        while any(("(stopped)" in Path(f"/proc/{pid}/status").read_text()) != stopped for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert "goes on" in error
    assert gone(its, 1)


def test_no_worker_outlives_a_killed_agent(start: Any) -> None:
    process = start("hang")
    pids = workers(process)
    assert not gone(pids, 0.2)
    process.kill()
    assert gone(pids, 5)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([(1, 134, "peer"), (2, 65, "bad record")], (65, "bad record")),
        ([(2, 143, "stopped"), (3, 134, "peer")], (134, "peer")),
        ([(1, -9, "Signal 9 (SIGKILL) received by PID 1"), (2, -15, "Signal 15 (SIGTERM) received by PID 2")], (137, "137")),
        ([(1, 1, "")], (70, "70")),
    ],
)
def test_the_root_cause_goes_before_what_followed(failures: list[tuple[int, int, str]], expected: tuple[int, str]) -> None:
    code, message = agent.root_cause(failures)
    assert code == expected[0]
    assert message.endswith(expected[1])


def test_wrong_options_and_missing_inputs_end_before_torch_is_imported(tmp_path: Path) -> None:
    check = f"""
import sys
from minima.cli import run
assert run(["adapt", "--sed", "1"]) == 64
nowhere = ["--model_name_or_path", "/nowhere", "--record_path_or_regex", "/nowhere"]
assert run(["adapt", "--output_dir", {str(tmp_path)!r}, *nowhere]) == 75
assert run(["adpt"]) == 64
assert run(["digest", "/nowhere"]) == 75
assert not {{"torch", "transformers", "deepspeed", "numpy", "yaml"}} & set(sys.modules), sorted(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "did you mean 'seed'" in run.stderr
    assert "did you mean 'adapt'" in run.stderr
    assert "nothing at /nowhere" in run.stderr


def test_the_last_words_reach_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr(last_words, "TERMINATION_LOG", log)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)

    def fail() -> int:
        raise DataError("a.jsonl:3: no text")

    assert launch.guarded("build-data", fail) == 65
    assert log.read_text() == "a.jsonl:3: no text"
    report = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))
    assert launch.guarded("build-data", fail) == 65
    assert json.loads(report.read_text())["message"]["message"] == "a.jsonl:3: no text"


def test_a_full_disk_is_74(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> int:
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)
        return 0

    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert launch.guarded("prune", fill) == 74
    assert "no space left" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_named_with_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read() -> int:  # As root reads everything.
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.jsonl"))

    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert launch.guarded("build-data", read) == 65
    said = capsys.readouterr().err
    assert f"{tmp_path}/a.jsonl: Permission denied for user {os.geteuid()} of group {os.getegid()}, as whom this runs" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("where", ["input", "inside the input", "around the input", "full"])
def test_a_folder_with_something_in_it_is_never_cleared(tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage removes what an earlier attempt left: it must not take anything else for that."""
    model = held.model(tmp_path / "a" / "model")
    config = (model / "config.json").read_text()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    place = {"input": model, "inside the input": model / "out", "around the input": tmp_path / "a", "full": tmp_path / "full"}[
        where
    ]
    words = ["--layer", "1", "--hidden", "8", "--head", "2", "--intermediate", "8", "--model_name_or_path", str(model)]
    assert launch.run("convert", [*words, "--output_dir", str(place)]) == 64
    assert "--output_dir" in capsys.readouterr().err
    assert (model / "config.json").read_text() == config
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


def test_an_output_folder_that_cannot_be_made_is_a_wrong_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held.model(tmp_path / "model")
    (tmp_path / "file").write_text("")
    words = ["--layer", "1", "--hidden", "8", "--head", "2", "--intermediate", "8", "--model_name_or_path", f"{tmp_path}/model"]
    assert launch.run("convert", [*words, "--output_dir", f"{tmp_path}/file/x"]) == 64
    assert "Traceback" not in capsys.readouterr().err
