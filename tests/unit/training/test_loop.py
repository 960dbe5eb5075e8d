"""The training loop: against plain PyTorch, over numbers of processes, and across interruptions."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 its usual name
from torch import Tensor

from minima.data import order, records
from minima.data.batch import collate
from minima.data.mixture import Mixture
from minima.errors import DataError, NotReadyError, StageError, TerminatedError, UsageError
from minima.process import stop
from minima.process.launch import one_form_of_errors
from minima.training import loss
from minima.training.schedule import learning_rate
from tests.unit.training import runs

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left: `runs.main` says what they did."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD", "LOCAL_", "MASTER_"))}
    ended = subprocess.run(
        [*command, "tests.unit.training.runs", str(folder)],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    for line in ("rank 0: TerminatedError 143", "rank 1: TerminatedError 143", "rank 0: LostPeerError 134"):
        assert line in ended.stderr, ended.stderr
    assert ended.stdout == ""
    assert [p.name for p in (folder / "broken" / "checkpoints").iterdir()] == ["step-00000002"]
    return folder


def plain(steps: int, **changes: Any) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """The same run in plain PyTorch, one sequence at a time: weights, losses and norms of the gradients."""
    chosen = runs.options(Path("unused"), **changes)
    llama, data = runs.model().train(), runs.examples(35)
    matrices = [p for p in llama.parameters() if p.ndim > 1]
    vectors = [p for p in llama.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for step in range(steps):
        epoch, n = divmod(step, 5)  # The fifth has 3 records of 35.
        total, count = torch.zeros(()), 0
        for index in order.batch(chosen.seed, epoch, n, 8, 35):
            one = data[index]
            ids = torch.from_numpy(one["indices"])
            logits = llama(input_ids=torch.cat([torch.tensor([1]), ids[:-1]])[None]).logits[0]
            counted = torch.from_numpy(one["mask"]) == 1
            total = total + F.cross_entropy(logits[counted], ids[counted], reduction="sum")
            count += int(counted.sum())
        optimizer.zero_grad()
        (total / count).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(llama.parameters(), chosen.max_grad_norm)))
        losses.append(float(total.detach() / count))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, runs.STEPS, chosen)
        optimizer.step()
    return runs.weights(llama), losses, norms


def near(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=atol)


@pytest.mark.parametrize(("micro", "stage", "recompute"), [(1, 1, False), (4, 2, True), (8, 1, True)])
def test_equals_plain_pytorch(micro: int, stage: int, recompute: bool, tmp_path: Path) -> None:
    """Defect 1: the published loss was divided by the accumulation steps twice; here 8, 2 and 1 of them agree."""
    chosen = runs.options(tmp_path, per_device_train_batch_size=micro, zero_stage=stage, use_act_ckpt=recompute)
    llama, metrics = runs.run(chosen)
    expected, losses, norms = plain(runs.STEPS)
    steps = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, runs.STEPS + 1))
    assert [row["loss"] for row in steps] == pytest.approx(losses, rel=1e-5)
    assert [row["grad_norm"] for row in steps] == pytest.approx(norms, rel=1e-4)
    assert min(norms) > chosen.max_grad_norm, "every step must be one that clips"
    near(runs.weights(llama), expected)
    assert metrics["steps"] == runs.STEPS
    assert metrics["loss"] == pytest.approx(losses[-1], rel=1e-5)


def test_two_processes_equal_one(broken: Path) -> None:
    near(torch.load(broken / "unbroken.pt", weights_only=True), plain(runs.STEPS)[0])


def test_two_processes_resume_bit_for_bit(broken: Path) -> None:
    """In the processes that were stopped; the smoke tests go on in new ones."""
    resumed = torch.load(broken / "resumed.pt", weights_only=True)
    unbroken = torch.load(broken / "unbroken.pt", weights_only=True)
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    measured = [
        [{k: v for k, v in row.items() if k not in {"time", "tokens_per_second"}} for row in rows(broken / name)]
        for name in ("resumed", "unbroken")
    ]
    assert measured[0] == measured[1]


@pytest.mark.parametrize(("broken_run", "stage"), [("broken", 1), ("broken", 2), ("laid-over", 1)])
def test_resumes_with_one_process_of_two(broken_run: str, stage: int, broken: Path, tmp_path: Path) -> None:
    """`laid-over` was stopped under every execution key of a DeepSpeed file: ZeRO had cut the parameters otherwise."""
    shutil.copytree(broken / broken_run, tmp_path / "run")
    llama, _ = runs.run(runs.options(tmp_path / "run", zero_stage=stage, per_device_train_batch_size=4))
    near(runs.weights(llama), torch.load(broken / "unbroken.pt", weights_only=True))
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == list(range(1, runs.STEPS + 1))


def test_bfloat16_keeps_the_positions_precise(tmp_path: Path) -> None:
    """Defect 6. DeepSpeed 0.19 casts weights only; a cast of buffers too would show here."""
    llama = runs.model().to(torch.bfloat16)
    llama.model.rotary_emb.inv_freq = runs.model().model.rotary_emb.inv_freq
    expected = llama.model.rotary_emb.inv_freq.clone()
    llama, metrics = runs.run(runs.options(tmp_path, use_bf16=True, learning_rate=1e-2), llama=llama)
    assert llama.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(llama.model.rotary_emb.inv_freq, expected)
    assert llama.lm_head.weight.dtype == torch.bfloat16
    assert metrics["loss"] < rows(tmp_path)[1]["loss"]


def test_bfloat16_resumes_with_float32_master_weights(tmp_path: Path) -> None:
    def run(name: str, **changes: Any) -> dict[str, Tensor]:
        llama = runs.model().to(torch.bfloat16)
        llama, _ = runs.run(runs.options(tmp_path / name, use_bf16=True), llama=llama, **changes)
        return runs.weights(llama)

    unbroken = run("unbroken")
    with pytest.raises(TerminatedError):
        run("resumed", terminate_at=3 * 8 + 1)
    resumed = run("resumed")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_a_mixture_goes_on_in_its_second_epoch_where_it_was_broken(tmp_path: Path) -> None:
    for name, count in (("many", 20), ("few", 15)):
        records.write(tmp_path / f"{name}.tfrecord", runs.examples(count, seed=count))
    sources = {name: [tmp_path / f"{name}.tfrecord"] for name in ("many", "few")}
    read: list[int] = []

    class Watched(Mixture):
        def __getitem__(self, number: int) -> dict[str, np.ndarray]:
            read.append(number)
            return super().__getitem__(number)

    def run(name: str, **changes: Any) -> dict[str, Tensor]:
        chosen = runs.options(tmp_path / name, mixture=(3.0, 1.0))
        return runs.weights(runs.run(chosen, train_records=Watched(sources, chosen.mixture), **changes)[0])

    unbroken = run("unbroken")
    whole = read[:]
    assert sum(number < 20 for number in whole[:35]) == 26
    assert len(whole) == 35 + 8
    read.clear()
    with pytest.raises(TerminatedError):
        run("resumed", terminate_at=4 * 8 + 1)  # In the last step of the first epoch.
    resumed = run("resumed")
    assert read == whole
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    with pytest.raises(UsageError, match=r"belongs to another run \(mixture \[3.0, 1.0\] there, \[1.0, 3.0\] now"):
        runs.run(runs.options(tmp_path / "resumed", mixture=(1.0, 3.0)), train_records=Mixture(sources, (1.0, 3.0)))


def test_perplexity_is_measured_at_the_start_and_at_the_ends_of_epochs(tmp_path: Path) -> None:
    _, metrics = runs.run(runs.options(tmp_path, per_device_eval_batch_size=2))
    assert metrics["dev_perplexity"] < metrics["dev_perplexity_start"]
    assert [row["step"] for row in rows(tmp_path) if "dev_perplexity" in row] == [0, 5, 6]


def test_a_stop_within_an_evaluation_is_seen_and_the_evaluation_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account of early stopping and the log are those of an unbroken run."""
    changes = {"per_device_eval_batch_size": 1, "max_steps": 10}

    def run(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        llama, metrics = runs.run(runs.options(tmp_path / name, **changes), num_patience_epochs=2)
        return runs.weights(llama), {k: v for k, v in metrics.items() if "second" not in k}

    unbroken, metrics = run("unbroken")
    read: list[int] = []

    class Stopping(list[Any]):
        """Held-out records; the signal comes with the third one in the evaluation after the fifth step."""

        def __getitem__(self, place: Any) -> Any:
            read.append(place)
            if len(read) == 5 + 3:
                os.kill(os.getpid(), signal.SIGTERM)
                while not stop.requested():
                    time.sleep(0.01)
            return super().__getitem__(place)

    with runs.stoppable(), pytest.raises(TerminatedError, match="stopped at step 5, saved"):
        runs.run(runs.options(tmp_path / "broken", **changes), num_patience_epochs=2, dev_records=Stopping(runs.examples(5, 1)))
    assert read == [0, 1, 2, 3, 4, 0, 1, 2], "not a record is read after the signal"
    resumed, again = run("broken")
    assert again == metrics
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    of_both = [
        [(r["step"], r["dev_perplexity"]) for r in rows(tmp_path / n) if "dev_perplexity" in r] for n in ("broken", "unbroken")
    ]
    assert of_both[0] == of_both[1]


def test_other_held_out_records_under_way_change_no_weight_and_are_measured_alone(tmp_path: Path) -> None:
    def run(name: str, dev: str, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        chosen = runs.options(tmp_path / name, per_device_train_batch_size=8)
        inputs = {"dev_record_path_or_regex": {"path": dev, "key": dev}}
        records = runs.examples(5, seed=len(dev))
        llama, metrics = runs.run(chosen, inputs=inputs, dev_records=records, **changes)
        return runs.weights(llama), metrics

    unbroken, measured = run("unbroken", "second")
    with pytest.raises(TerminatedError):
        run("broken", "first", terminate_at=3)
    resumed, metrics = run("broken", "second")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    assert metrics["dev_perplexity"] == measured["dev_perplexity"]
    assert "dev_perplexity_start" in measured
    assert "dev_perplexity_start" not in metrics, "it was that of the first records"


def test_padding_on_the_right_changes_nothing() -> None:
    llama = runs.model()
    records = runs.examples(4)
    together = collate(records, llama.config, 16)
    assert together.input_ids.shape[1] % 8 == 0
    hidden = llama.model(input_ids=together.input_ids).last_hidden_state
    for row, record in enumerate(records):
        length = len(record["indices"])
        alone = llama.model(input_ids=together.input_ids[row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(hidden[row, :length], alone[0], rtol=1e-5, atol=1e-5)
        assert (together.labels[row, length:] == -100).all()
        assert together.input_ids[row, 0] == 1
        assert together.input_ids[row, 1:length].tolist() == record["indices"][:-1].tolist()


def test_early_stopping_ends_with_the_best_weights_and_survives_a_break(tmp_path: Path) -> None:
    """Defect 8. A rate that is far too high makes an early epoch the best; patience 2 ends two later."""
    changes = {"learning_rate": 0.1, "num_train_epochs": 8, "max_steps": 0, "lr_scheduler_type": "constant"}
    changes |= {"warmup_proportion": 0.0, "max_grad_norm": 100.0, "keep_checkpoints": 0, "save_interval": 3}

    def run(name: str, **more: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        llama, metrics = runs.run(runs.options(tmp_path / name, **changes), num_patience_epochs=2, **more)
        return runs.weights(llama), {k: v for k, v in metrics.items() if "second" not in k}

    unbroken, metrics = run("unbroken")
    by_step = {row["step"]: row["dev_perplexity"] for row in rows(tmp_path / "unbroken") if "dev_perplexity" in row}
    ends = {step: value for step, value in by_step.items() if step}
    assert metrics["stopped_early"] == 1
    assert metrics["best_step"] == min(ends, key=lambda step: ends[step]) == metrics["steps"] - 10
    assert metrics["dev_perplexity"] == min(ends.values())
    with pytest.raises(TerminatedError):
        run("broken", terminate_at=8 * (metrics["best_step"] + 5) + 1)
    again, resumed = run("broken")
    assert resumed == metrics
    assert all(torch.equal(again[name], unbroken[name]) for name in unbroken)


@pytest.mark.parametrize(
    ("weight", "changes", "message"),
    [
        (math.inf, {"dev_records": None}, r"not finite at step 1, before.* weights are broken; fetch them"),
        (math.inf, {}, r"not finite before any step.* weights are broken; fetch them"),
        (3e38, {"dev_records": None}, r"not finite at step 1 \(learning rate .* a look at the data"),
        (3e38, {}, r"not finite before any step: its weights are numbers, so look at the records"),
    ],
)
def test_what_is_not_finite_from_the_beginning(tmp_path: Path, weight: float, changes: dict[str, Any], message: str) -> None:
    """Only weights that are no numbers are called broken."""
    llama = runs.model()
    with torch.no_grad():
        llama.lm_head.weight[:] = weight
    with pytest.raises((DataError, StageError), match=message):
        runs.run(runs.options(tmp_path), llama=llama, **changes)


def test_steps_after_a_loss_that_is_not_finite_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"not finite at step 2 .*a lower --learning_rate"):
        runs.run(runs.options(tmp_path, learning_rate=1e38, warmup_proportion=0.0), dev_records=None)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"per_device_train_batch_size": 3}, UsageError, r"--per_device_train_batch_size: 3 .*valid: 1, 2, 4, 8"),
        ({"global_batch_size": 36}, UsageError, r"--global_batch_size: 36 .*valid: 1 to 35"),
        ({"max_seq_length": 257}, DataError, r"--max_seq_length: 257 tokens, the model has 256 positions"),
        ({"max_seq_length": 8}, DataError, r"a record holds \d+ ids; valid: 1 to --max_seq_length 8"),
    ],
)
def test_options_that_cannot_work(changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        runs.run(runs.options(tmp_path, **changes))


def test_an_id_that_the_model_has_not(tmp_path: Path) -> None:
    data = runs.examples(35)
    data[3]["indices"][2] = runs.VOCABULARY
    with pytest.raises(DataError, match="holds the id 64; the model's vocabulary ends at 63"):
        runs.run(runs.options(tmp_path), train_records=data)


def test_libraries_errors_get_our_exit_codes() -> None:
    with pytest.raises(MemoryError), one_form_of_errors():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), one_form_of_errors():
        raise RuntimeError("something else")


def test_another_run_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(TerminatedError):
        runs.run(runs.options(tmp_path), terminate_at=9)
    with pytest.raises(UsageError, match=r"belongs to another run \(learning_rate 0.003 there, 0.1 now\)"):
        runs.run(runs.options(tmp_path, learning_rate=0.1))


def test_the_lease_is_looked_at_before_a_checkpoint_appears(tmp_path: Path) -> None:
    def followed(trained: Any, batch: Any) -> Any:
        (tmp_path / "_lease.00000002.json").write_text("{}")
        return loss.cross_entropy(7)(trained, batch)

    with pytest.raises(NotReadyError, match="lost the lease"):
        runs.run(runs.options(tmp_path, save_interval=2), batch_loss=followed)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("count", "steps"), [(24, 0), (29, 0), (29, 2)])
def test_every_record_is_trained_on_and_what_is_not_is_said(
    count: int, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = runs.options(tmp_path, max_steps=steps, num_train_epochs=2)
    data = runs.examples(count)
    _, metrics = runs.run(chosen, train_records=data, dev_records=None)
    assert metrics["left_out_records"] == (13 if steps else 0)
    if not steps:
        assert metrics["steps"] == 2 * math.ceil(count / 8)
        assert metrics["tokens"] == 2 * sum(len(one["indices"]) for one in data)
    said = capsys.readouterr().err
    assert ("the last step of each epoch has 5 records, the others --global_batch_size 8" in said) == (count == 29)
    assert ("13 of 29 records were not trained on: --max_steps ended the first epoch" in said) == bool(steps)
