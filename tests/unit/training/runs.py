"""Small training runs for tests; as a program one process of a group (`python -m tests.unit.training.runs FOLDER`)."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minima.errors import StageError
from minima.options import Adapt
from minima.process import launch, stop
from minima.training import loop, loss
from minima.training.group import Group
from minima.workspace.artifact import Output
from minima.workspace.lease import Lease
from tests.unit import tiny

VOCABULARY = 64
STEPS = 6
EXECUTION_KEYS = {
    "zero_optimization": {
        "allgather_bucket_size": 1000,
        "allgather_partitions": False,
        "contiguous_gradients": False,
        "enable_sanity_checks": True,
        "ignore_unused_parameters": False,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "overlap_comm": True,
        "parameter_alignment": True,
        "reduce_bucket_size": 1e3,
        "reduce_scatter": False,
        "use_multi_rank_bucket_allreduce": False,
    },
    "steps_per_print": 10,
    "wall_clock_breakdown": True,
}
"""Every execution key of a DeepSpeed file, away from what it is without the file."""


def examples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Records of different lengths with different shares of trained tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ids = rng.integers(3, VOCABULARY, rng.integers(6, 16))
        mask = (rng.random(len(ids)) < 0.6).astype(np.int64)
        mask[-1] = 1
        found.append({"indices": ids, "mask": mask})
    return found


def model(**changes: Any) -> Any:
    """A tiny LLaMA that knows its special tokens."""
    llama = tiny.llama(vocab=VOCABULARY, **changes)
    llama.config.bos_token_id, llama.config.eos_token_id = 1, 2
    return llama


def options(folder: Path, **changes: Any) -> Adapt:
    """Six optimizer steps in one and a half epochs, with clipping and a schedule."""
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "model_name_or_path": "model",
        "record_path_or_regex": ("records",),
        "max_seq_length": 16,
        "global_batch_size": 8,
        "learning_rate": 3e-3,
        "warmup_proportion": 0.2,
        "max_grad_norm": 0.5,
        "num_train_epochs": 2,
        "max_steps": STEPS,
        "log_interval": 1,
        "save_interval": 100,
        "loss_chunk_size": 7,
    }
    return Adapt(**values | changes)


def run(
    chosen: Adapt, *, llama: Any = None, terminate_at: int = 0, inputs: Any = None, **changes: Any
) -> tuple[Any, dict[str, Any]]:
    """Train on 35 records; `terminate_at` has this process get SIGTERM in that step. Returns model and metrics."""
    folder = Path(chosen.output_dir)
    folder.mkdir(exist_ok=True, parents=True)
    llama = llama or model()
    calls = 0

    def batch_loss(trained: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
            while not stop.requested():
                time.sleep(0.01)
        return loss.cross_entropy(chosen.loss_chunk_size)(trained, batch)

    values: dict[str, Any] = {
        "batch_loss": batch_loss,
        "train_records": examples(35),
        "dev_records": examples(5, seed=1),
        "options": chosen,
        "group": Group(torch.device("cpu")),
    }
    leased = Lease(folder) if values["group"].rank == 0 else contextlib.nullcontext()
    with leased as lease, stoppable() if terminate_at else contextlib.nullcontext():
        return llama, loop.train(llama, output=Output(folder, chosen, inputs or {}, lease), **values | changes)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it this process takes signals as the program does; afterwards nothing was ever requested."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    stop.watch("test")
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        stop._requested, stop._way = None, stop._Way.END


def alone(monkeypatch: Any) -> None:
    """Make this process a group of its own."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    if not torch.distributed.is_initialized():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        places = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in places.items():
            monkeypatch.setenv(name, value)
        Group(torch.device("cpu"))


def weights(llama: Any) -> dict[str, Tensor]:
    """Copies of all weights by name."""
    return {name: p.detach().clone() for name, p in llama.named_parameters()}


def main() -> None:
    """Train unbroken; break, and go on in a copy; break under a DeepSpeed file; lose a process."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    llama, _ = run(options(folder / "unbroken", per_device_train_batch_size=2))
    if rank == 0:
        torch.save(weights(llama), folder / "unbroken.pt")
    # One process of the two gets the signal, in the last of two micro-batches of the second step.
    ends(lambda: run(options(folder / "broken", per_device_train_batch_size=2), terminate_at=4 if rank == 1 else 0))
    if rank == 0:
        shutil.copytree(folder / "broken", folder / "resumed")
    torch.distributed.barrier()
    llama, _ = run(options(folder / "resumed", per_device_train_batch_size=2))
    if rank == 0:
        torch.save(weights(llama), folder / "resumed.pt")
    (folder / f"{rank}.json").write_text(json.dumps({"zero_optimization": EXECUTION_KEYS["zero_optimization"]}))
    laid_over = options(folder / "laid-over", per_device_train_batch_size=2, deepspeed=str(folder / f"{rank}.json"))
    ends(lambda: run(laid_over, terminate_at=4))

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the peer of a lost one, which has something to say.

    def die(trained: Any, batch: Any) -> Any:
        if rank == 1:
            os._exit(7)
        return loss.cross_entropy(8)(trained, batch)

    code = ends(lambda: run(options(folder / "lost"), batch_loss=die))
    sys.stderr.flush()
    os._exit(code)


def ends(program: Callable[[], Any]) -> int:
    """Say what error `program` ends with, and return its exit code."""
    try:
        with launch.one_form_of_errors():
            program()
    except StageError as error:
        print(f"rank {os.environ['RANK']}: {type(error).__name__} {error.exit_code}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    main()
