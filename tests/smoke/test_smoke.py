"""The whole smoke pipeline on this machine, as `make smoke` runs it, and what happens when it is disturbed.

The tests stand in the order in which one workspace lives: made, looked at, run again, broken into, mended.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobgen.local import LOGS
from jobgen.pipeline.plan import Step, plan
from jobgen.pipeline.spec import load
from minima.workspace import artifact, progress
from minima.workspace.marker import CHECKPOINTS, read_marker
from tests.smoke import sweep

pytestmark = pytest.mark.smoke
JOBGEN = Path(sys.executable).parent / "jobgen"
TRAINING = ["adapt", "distill", "finetune", "finetune-lora"]


class Workspace:
    """A folder in which the smoke pipeline was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: dict[str, Step] = {step.name: step for step in plan(load("smoke"), str(folder))}

    def command(self, *more: str) -> list[str]:
        return [str(JOBGEN), "run", "smoke", "--local", "--workspace", str(self.folder), *more]

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*more), capture_output=True, text=True, check=False)

    def marker(self, stage: str) -> dict[str, Any]:
        return read_marker(Path(self.steps[stage].output_dir))

    def weights(self, stage: str) -> str:
        return hashlib.sha256((Path(self.steps[stage].output_dir) / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> subprocess.CompletedProcess[str]:
    run = workspace.run()
    assert run.returncode == 0, run.stderr[-5000:]
    return run


def children(folder: Path) -> list[int]:
    """Processes whose command line names the workspace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder).encode() in words:
            found.append(int(process.name))
    return found


def nothing_left(folder: Path, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while children(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not children(folder)


def test_every_stage_leaves_its_marker_under_the_key_that_jobgen_computed(workspace: Workspace, first: object) -> None:
    for step in workspace.steps.values():
        marker = artifact.finished(step.options)
        assert marker is not None, step.name
        assert marker["key"] == step.key == step.output_dir[-8:]
        assert not (Path(step.output_dir) / CHECKPOINTS).exists()
        told = progress.read(Path(step.output_dir))
        assert told is not None
        assert told.phase == "finishing"
        assert told.time - told.since <= marker["seconds"] + 1


def test_the_table_shows_what_the_markers_say(workspace: Workspace, first: subprocess.CompletedProcess[str]) -> None:
    for stage in workspace.steps:
        assert re.search(rf"^{stage} +{workspace.marker(stage)['seconds']}", first.stdout, re.MULTILINE), stage
    for stage in TRAINING:
        row = re.search(rf"^{stage} +([\d.,]+) +([\d.,]+)$", first.stdout, re.MULTILINE)
        assert row, stage
        metrics = workspace.marker(stage)["metrics"]
        shown = [float(cell.replace(",", "")) for cell in row.groups()]
        assert shown == pytest.approx([metrics["dev_perplexity_start"], metrics["dev_perplexity"]], abs=0.06)
    assert repr(workspace.marker("evaluate")["metrics"]["answer"]) in first.stdout


def test_a_person_reads_one_line_a_stage(workspace: Workspace, first: subprocess.CompletedProcess[str]) -> None:
    """Nothing of a library, nothing of command lines; what the stages wrote is in their logs."""
    *lines, last = first.stderr.splitlines()
    assert last.startswith("all 11 stages are finished, after ")
    took = re.compile(r"\[ ?\d+/11\] (\S+) +\d+[hms][\dhms]*(?:  |$)")
    assert [found[1] for line in lines if (found := took.match(line))] == list(workspace.steps)
    # Without a terminal a stage that lasts shows its progress once a minute.
    assert all(re.match(r"\[ ?\d+/11\] \S+ ", line) for line in lines)
    table = first.stdout.splitlines()[: len(workspace.steps) + 2]
    assert max(map(len, [*lines, *table])) <= 80 + len(str(workspace.folder))
    for step in workspace.steps.values():
        log = workspace.folder / "smoke" / LOGS / f"{Path(step.output_dir).name}.log"
        assert f"minima {step.verb} --output_dir" in log.read_text().splitlines()[0]


def test_training_helps(workspace: Workspace, first: object) -> None:
    for stage in TRAINING:
        metrics = workspace.marker(stage)["metrics"]
        assert metrics["dev_perplexity"] < 0.9 * metrics["dev_perplexity_start"], stage
    distilled, teacher = workspace.marker("distill")["metrics"], workspace.marker("adapt")["metrics"]
    assert distilled["dev_perplexity"] < 0.6 * distilled["dev_perplexity_start"]
    assert distilled["dev_perplexity"] < 3 * teacher["dev_perplexity"]


def test_training_ran_on_two_processes_with_its_logs(workspace: Workspace, first: object) -> None:
    for stage in TRAINING:
        folder = Path(workspace.steps[stage].output_dir)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert any("loss" in row for row in rows)
        assert list((folder / "tensorboard").glob("events*"))
        assert workspace.marker(stage)["metrics"]["processes"] == 2


def test_the_model_folders_load_with_nothing_of_ours(workspace: Workspace, first: object) -> None:
    folders = {s: workspace.steps[s].output_dir for s in ("adapt", "convert", "distill", "finetune", "finetune-lora")}
    check = f"""
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
for stage, folder in {folders!r}.items():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("In the beginning God created", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=8, do_sample=False)
    assert out.shape[1] > ids["input_ids"].shape[1], stage
    assert len(tokenizer) <= model.config.vocab_size, (stage, len(tokenizer), model.config.vocab_size)
    if "finetune" in stage:
        said = [{{"role": "user", "content": "hello"}}]
        assert tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True), stage
assert not [name for name in sys.modules if name.split(".")[0] in ("minima", "jobgen")]
"""
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd="/")
    assert run.returncode == 0, run.stderr


def test_run_again_skips_every_stage(workspace: Workspace, first: subprocess.CompletedProcess[str]) -> None:
    again = workspace.run()
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    lines = again.stderr.splitlines()
    assert all(re.match(rf"\[ ?\d+/11\] {stage} +kept", line) for stage, line in zip(workspace.steps, lines, strict=False))
    assert len(lines) == len(workspace.steps) + 1
    assert lines[-1].startswith("all 11 stages are finished, after ")


STAGES = [step.name for step in plan(load("smoke"), "/workspace")]


@pytest.mark.parametrize(
    ("stage", "count"),
    [
        *((stage, 3) for stage in ("expand-vocab", "convert", "finetune")),
        *(pytest.param(stage, 40, marks=pytest.mark.long) for stage in STAGES),
    ],
)
def test_sigterm_at_any_moment_is_143_and_loses_nothing(
    workspace: Workspace, first: object, stage: str, count: int, tmp_path: Path
) -> None:
    """Whatever is imported, read or computed; 0 only with the marker. As often as that, it uses up no attempt."""
    step = workspace.steps[stage]
    swept = sweep.sweep(step, sweep.moments(step, count), tmp_path)
    assert swept.wrong == []
    assert swept.longest < (sweep.SAVING if step.options.elastic else sweep.GRACE)


@pytest.mark.parametrize(
    ("stage", "count"), [("build-chat-data", 4), *(pytest.param(s, 20, marks=pytest.mark.long) for s in sweep.WITH_WORKERS)]
)
def test_no_process_outlives_a_killed_stage(
    workspace: Workspace, first: object, stage: str, count: int, tmp_path: Path
) -> None:
    assert sweep.kill(workspace.steps[stage], sweep.spread(count), tmp_path) < 5


def test_from_an_unknown_stage_is_refused(workspace: Workspace, first: object) -> None:
    run = workspace.run("--from", "distil")
    assert run.returncode == 64
    assert "did you mean 'distill'" in run.stderr
    assert "Traceback" not in run.stderr


def start_and_wait_for_checkpoint(workspace: Workspace, stage: str, *more: str) -> subprocess.Popen[str]:
    """Start the pipeline and return as soon as `stage` has written another checkpoint."""
    folder = Path(workspace.steps[stage].output_dir)
    there = set() if more else set((folder / CHECKPOINTS).glob("step-*"))
    process = subprocess.Popen(workspace.command(*more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not set((folder / CHECKPOINTS).glob("step-*")) - there:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return process


def test_stopped_in_the_middle_it_goes_on_to_the_same_weights(workspace: Workspace, first: object) -> None:
    """Killed, then interrupted as by Ctrl-C. What SIGTERM does to a pod is in tests/cluster."""
    before = workspace.weights("finetune")
    for number, more, code in ((signal.SIGKILL, ["--from", "finetune", "--yes"], -9), (signal.SIGINT, [], 143)):
        process = start_and_wait_for_checkpoint(workspace, "finetune", *more)
        os.kill(process.pid, number)
        _, error = process.communicate(timeout=120)
        assert (f"set aside {os.path.relpath(workspace.steps['finetune'].output_dir)}" in error) == bool(more)
        assert process.returncode == code, error
        assert "this is a bug" not in error
        assert nothing_left(workspace.folder)
        assert artifact.finished(workspace.steps["finetune"].options) is None
    again = workspace.run()
    assert again.returncode == 0, again.stderr
    log = workspace.folder / "smoke" / LOGS / f"{Path(workspace.steps['finetune'].output_dir).name}.log"
    assert "step" in log.read_text()
    assert workspace.weights("finetune") == before


def test_a_corrupt_record_is_bad_data_and_named(workspace: Workspace, first: object) -> None:
    shard = next(Path(workspace.steps["build-data"].output_dir).glob("dev-*.tfrecord"))  # Read as a whole, at step 0.
    good = shard.read_bytes()
    shard.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    try:
        run = workspace.run("--from", "distill", "--yes")
        assert run.returncode == 65
        assert shard.name in run.stderr
        assert "Traceback" not in run.stderr
        assert artifact.finished(workspace.steps["distill"].options) is None
    finally:
        shard.write_bytes(good)
