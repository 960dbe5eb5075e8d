"""Stages in processes that stop themselves at a chosen point, as a frozen pod does; forked, so that torch is imported once."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import minima.models.importance  # noqa: F401 - imported once, before the forks
from minima.options import VERBS, Options
from minima.process import launch
from minima.workspace import lease

TTL = 1.0
"""Seconds that a lease lives in these processes."""
for verb in VERBS:
    launch.module(verb)


def run(argv: list[str], port: int, log: Path, env: dict[str, str], stop_at: int = 0) -> None:
    """Run a stage as PID 1 would, in this process, and exit with its code.

    Args:
        argv: its command line, after the program's name.
        port: a free one, for the group of one process.
        log: what it says, and beside it (`.points`) the names of the points that it passes.
        env: more environment.
        stop_at: number of the point at which it stops itself (SIGSTOP), from 1; 0 for none.
    """
    os.setpgid(0, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {launch.STARTED: "0", **env}
    lease.TTL, launch.POLL = TTL, 0.1
    launch.agent.run = _in_this_process
    stopped = _Points(VERBS[argv[0]], argv, log.with_suffix(".points"), stop_at)
    stopped.watch()
    code = launch.run(argv[0], argv[1:])
    sys.stderr.flush()
    os._exit(code)


def _in_this_process(options: Options, argv: list[str], inputs: dict[str, dict[str, Any]]) -> None:
    """Instead of torchrun's agent and its workers."""
    file = Path(os.environ["TMPDIR"]) / f"inputs-{os.getpid()}.json"
    file.write_text(json.dumps(inputs))
    os.environ[launch.agent.INPUTS] = str(file)
    launch.work(options.verb, argv)


class _Points:
    """After each look at the lease, each rename and each new folder: between any two of them nothing is touched elsewhere."""

    def __init__(self, options: type[Options], argv: list[str], log: Path, stop_at: int) -> None:
        self.folder = argv[argv.index("--output_dir") + 1]
        self.log, self.stop_at = log, stop_at
        self.count = 0
        log.write_text("")

    def watch(self) -> None:
        look, rename, mkdir = lease.Lease.check, Path.rename, Path.mkdir

        def check(self_: Any) -> None:
            look(self_)
            self.passed("look")

        def renamed(path: Path, target: Any) -> Path:
            found = rename(path, target)
            taken = f"/{lease.MAKING}" in str(target)
            self.passed(f"taking {path.name}" if taken else f"putting {path.name}", path)
            return found

        def made(path: Path, *rest: Any, **more: Any) -> None:
            mkdir(path, *rest, **more)
            self.passed(f"folder {path.name}", path)

        lease.Lease.check = check  # type: ignore[method-assign, assignment]
        Path.rename, Path.mkdir = renamed, made  # type: ignore[method-assign, assignment]

    def passed(self, name: str, path: Path | None = None) -> None:
        if threading.current_thread() is not threading.main_thread() or (path and self.folder not in str(path)):
            return
        self.count += 1
        with open(self.log, "a") as out:
            out.write(name + "\n")
        if self.count == self.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
