"""Steps: order, paths, keys, command lines, batches and memory."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobgen.artifacts import outside
from jobgen.pipeline import spec
from jobgen.pipeline.pipeline import Pipeline
from jobgen.pipeline.plan import ALL, Part, Step, following, plan
from minima import flags, options
from minima.errors import UsageError
from minima.options import VERBS, Prune
from minima.workspace import artifact
from minima.workspace.inputs import input_key
from minima.workspace.marker import FORMAT, MARKER
from tests.unit.jobgen.volume import on_the_volume

VOLUME = "minima-3b on the volume"


def shipped(name: str, *changes: tuple[str, str]) -> Pipeline:
    text = on_the_volume() if name == VOLUME else spec.read(name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return spec.parse(text, name)


def step(steps: list[Step], name: str) -> Step:
    return next(s for s in steps if s.name == name)


@pytest.mark.parametrize(("name", "stages"), [("smoke", 11), ("minima-3b", 15)])
def test_steps_come_after_what_they_read(name: str, stages: int) -> None:
    steps = plan(spec.load(name))
    assert len(steps) == stages
    for number, one in enumerate(steps):
        assert set(one.needs) <= {s.name for s in steps[:number]}
    assert step(steps, "distill").needs == ("build-data", "adapt", "convert")


@settings(max_examples=10, deadline=None)
@given(st.permutations(list(spec.load("minima-3b").stages)))
def test_the_order_in_the_file_changes_nothing_but_ties(order: list[str]) -> None:
    document = yaml.safe_load(spec.read("minima-3b"))
    document["stages"] = {name: document["stages"][name] for name in order}
    steps = plan(spec.parse(yaml.safe_dump(document, sort_keys=False), "p.yaml"))
    assert {s.name: s.key for s in steps} == {s.name: s.key for s in plan(spec.load("minima-3b"))}
    done: list[str] = []
    for one in steps:
        ready = [s.name for s in steps if s.name not in done and set(s.needs) <= set(done)]
        assert one.name == min(ready, key=order.index)
        done.append(one.name)


def test_a_part_of_a_pipeline() -> None:
    steps = plan(spec.load("smoke"))
    needed = [one.name for one in Part(until="prune").steps(steps)]
    assert needed == ["init-model", "expand-vocab", "build-data", "adapt", "prune"]
    assert [one.name for one in Part(only="prune").steps(steps)] == ["prune"]
    assert ALL.steps(steps) == steps
    assert [Part(until="prune").words, Part(only="prune").words, ALL.words] == [["--until=prune"], ["--only=prune"], []]


@pytest.mark.parametrize("stage", ["", "prun"])
def test_a_part_that_is_no_stage(stage: str) -> None:
    """An empty one, such as of an unset variable, is not the whole pipeline."""
    steps = plan(spec.load("smoke"))
    for part in (Part(until=stage), Part(only=stage)):
        assert part.words
        with pytest.raises(UsageError, match=f"^--(until|only) ({stage or repr(stage)}): no such stage; .*prune"):
            part.steps(steps)
    with pytest.raises(UsageError, match="give one of them"):
        Part(until="", only="prune").steps(steps)


def test_paths_keys_and_command_lines() -> None:
    steps = plan(spec.load("smoke"), "/elsewhere")
    made, grown, adapt = (step(steps, name) for name in ("init-model", "expand-vocab", "adapt"))
    assert made.output_dir == f"/elsewhere/smoke/init-model-{made.key}"
    assert grown.options.llama_tokenizer_dir == f"{made.output_dir}/model"  # type: ignore[attr-defined]
    expected = {"llama_tokenizer_dir": f"{made.key}/model", "chinese_sp_path": f"{made.key}/chinese_sp.model"}
    assert grown.key == artifact.key(grown.options, expected)
    for one in steps:
        assert one.argv[:2] == ["minima", one.verb]
        # Parsing the command line gives the very options: nothing is lost on the way to the pod.
        assert flags.parse(VERBS[one.verb], one.argv[2:]) == one.options
    assert (adapt.pods, adapt.processes) == (2, 1)


def test_keys_are_what_the_launcher_will_find(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """jobgen's key of a stage, made of nothing but text, is the one that minima makes of the finished inputs' markers."""
    steps = plan(spec.load("smoke"), str(tmp_path))
    for one in steps:
        keys = {name: input_key(path, one.output_dir) for name, path in options.reads(one.options).items()}
        assert artifact.key(one.options, keys) == one.key
        folder = tmp_path / "smoke" / f"{one.name}-{one.key}"
        folder.mkdir(parents=True)
        rest: dict[str, dict[str, str]] = {"identity": {}, "inputs": {}, "files": {}, "metrics": {}}
        marker = {"format": FORMAT, "verb": one.verb, "key": one.key, **rest}
        (folder / MARKER).write_text(json.dumps(marker))


SOURCES = """record_path_or_regex:
        - ${build-data}/train-*.tfrecord
        - ${more}/train-*.tfrecord
        - ${old}/train-*.tfrecord
        - ${workspace}/inputs/train-*.tfrecord
      mixture: [4, 3, 0.5, 2.5]"""
MORE = """stages:
  more:
    verb: build-data
    pool: small
    options:
      input_dir: ${init-model}/text
      tokenizer_name_or_path: ${expand-vocab}
"""


def mixed(*changes: tuple[str, str]) -> Pipeline:
    """smoke, whose adapt reads two stages, an input and a folder in the workspace."""
    text = spec.read("smoke")
    old = "record_path_or_regex: ${build-data}/train-*.tfrecord\n      dev_"
    text = text.replace(old, f"{SOURCES}\n      dev_", 1).replace("stages:\n", f"inputs:\n  old: /workspace/old\n{MORE}", 1)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return spec.parse(text, "p.yaml")


def test_a_stage_of_several_sources_reads_all_of_them() -> None:
    steps = plan(mixed())
    adapt, more, data = (step(steps, name) for name in ("adapt", "more", "build-data"))
    assert adapt.needs == ("more", "expand-vocab", "build-data")
    assert adapt.made_of == adapt.needs
    assert steps.index(more) < steps.index(adapt)
    sources = [
        f"{data.output_dir}/train-*.tfrecord",
        f"{more.output_dir}/train-*.tfrecord",
        "/workspace/old/train-*.tfrecord",
        "/workspace/inputs/train-*.tfrecord",
    ]
    assert adapt.options.record_path_or_regex == tuple(sources)  # type: ignore[attr-defined]
    assert " ".join(["--record_path_or_regex", *sources]) in " ".join(adapt.argv)
    assert " --mixture 4.0 3.0 0.5 2.5 --" in " ".join(adapt.argv)
    assert flags.parse(VERBS["adapt"], adapt.argv[2:]) == adapt.options
    assert {"more", "build-data"} < {one.name for one in Part(until="adapt").steps(steps)}
    assert "adapt" in following(steps, "more")
    there = [one.path for one in outside(mixed(), steps)]
    assert "/workspace/old/train-*.tfrecord" in there
    assert "/workspace/inputs/train-*.tfrecord" in there
    others = [
        mixed(("[4, 3, 0.5, 2.5]", "[3, 4, 0.5, 2.5]")),
        mixed(("      mixture: [4, 3, 0.5, 2.5]\n", "")),
        mixed(("old: /workspace/old", "old: /workspace/older")),
        mixed(("        - ${old}/train-*.tfrecord\n", ""), ("0.5, ", "")),
    ]
    assert len({adapt.key, *(step(plan(other), "adapt").key for other in others)}) == 5


def test_keys_of_several_sources_are_what_the_launcher_will_find(tmp_path: Path) -> None:
    for one in plan(mixed(), str(tmp_path)):
        keys = {name: input_key(path, one.output_dir) for name, path in options.reads(one.options).items()}
        assert artifact.key(one.options, keys) == one.key
        folder = Path(one.output_dir)
        folder.mkdir(parents=True)
        rest: dict[str, dict[str, str]] = {"identity": {}, "inputs": {}, "files": {}, "metrics": {}}
        (folder / MARKER).write_text(json.dumps({"format": FORMAT, "verb": one.verb, "key": one.key, **rest}))


def test_one_source_in_a_list_is_that_source() -> None:
    old = "record_path_or_regex: ${build-data}/train-*.tfrecord\n      dev_"
    listed = "record_path_or_regex: ['${build-data}/train-*.tfrecord']\n      dev_"
    assert step(plan(shipped("smoke", (old, listed))), "adapt").key == step(plan(shipped("smoke")), "adapt").key


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "[4, 3, 0.5, 2.5]",
            "[4, 3]",
            "stages.adapt.options.mixture: found 2 for 4 in record_path_or_regex; valid:",
        ),
        ("[4, 3, 0.5, 2.5]", "[4, 3, 0, 2.5]", "stages.adapt.options.mixture: found 0.0; a list of numbers > 0 is valid"),
        ("      mixture: [", "      mixtures: [", "mixtures: no such option of adapt; did you mean 'mixture'?"),
        (
            "- ${more}/train",
            "- ${mroe}/train",
            "adapt.options.record_path_or_regex.1: found '${mroe}/train-*.tfrecord': no stage and",
        ),
        ("- ${more}/train", "- ${mroe}/train", "did you mean 'more'?"),
        (
            "- ${more}/train",
            "- ${more}/trian",
            "found ${more}/trian-*.tfrecord, which is no records; did you mean '${more}/train-",
        ),
        ("- ${more}/train", "- more/train", "found 'more/train-*.tfrecord'; a reference such as ${stage}/inside"),
        ("- ${more}/train", "- ${build-data}/train", "${build-data}/train-*.tfrecord is named twice"),
        (
            "- ${more}/train",
            "- ${build-data}/dev",
            "overlaps with dev_record_path_or_regex ${build-data}/dev-*.tfrecord; name train",
        ),
        ("- ${more}/train-*.tfrecord", "- ''", "record_path_or_regex: found an empty path; a path is valid"),
        ("- ${more}/train-*.tfrecord", "- 3", "a list of strings is valid"),
        ("old: /workspace/old", "old: /elsewhere/old", "inputs.old: found /elsewhere/old, which no pod sees"),
        (
            "      tokenizer_name_or_path: ${expand-vocab}\n  init-model",
            "      tokenizer_name_or_path: ${init-model}/model\n  init-model",
            "stages.adapt.options.record_path_or_regex: its records are made with the tokenizer of init-model",
        ),
        (
            "input_dir: ${init-model}/text\n      tokenizer_name_or_path: ${expand-vocab}\n  init",
            "input_dir: ${init-model}/text\n      tokenizer_name_or_path: ${adapt}\n  init",
            "a cycle: more reads adapt, adapt reads more",
        ),
    ],
)
def test_what_is_wrong_with_several_sources(old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(mixed((old, new)))
    assert said in str(caught.value)
    assert str(caught.value).startswith("p.yaml:")


def test_the_workspace_is_not_part_of_a_key() -> None:
    here, there = plan(spec.load("smoke"), "/here"), plan(spec.load("smoke"))
    assert [s.key for s in here] == [s.key for s in there]


def test_execution_keeps_keys_and_identity_changes_them_downstream() -> None:
    before = {s.name: s.key for s in plan(spec.load("minima-3b"))}
    execution = plan(shipped("minima-3b", ("per_device_train_batch_size: 4", "per_device_train_batch_size: 8")))
    assert {s.name: s.key for s in execution} == before
    other = {s.name: s.key for s in plan(shipped("minima-3b", ("learning_rate: 3.0e-4", "learning_rate: 2.0e-4")))}
    assert {n for n in before if before[n] != other[n]} == {
        "distill",
        "build-chat-data",
        "finetune",
        "finetune-lora",
        "evaluate",
    }


@pytest.mark.parametrize("verb", sorted({step.verb for step in plan(spec.load("smoke"))}))
def test_a_revision_of_a_verb_gives_new_keys_to_its_stages_and_what_follows(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = spec.load("minima-3b" if verb == "fetch" else "smoke")
    before = plan(pipeline)
    monkeypatch.setattr(VERBS[verb], "revision", VERBS[verb].revision + 1)
    after = {s.name: s.key for s in plan(pipeline)}
    own = {s.name for s in before if s.verb == verb}
    assert own, f"{pipeline.name} has no stage of {verb}"
    expected: set[str] = set().union(*(following(before, name) for name in own))
    assert {s.name for s in before if after[s.name] != s.key} == expected


ADAPT_DEV = (
    "record_path_or_regex: ${build-data}/train-*.tfrecord\n      dev_record_path_or_regex: ${build-data}/dev-*.tfrecord",
    "record_path_or_regex: ${build-data}/train-*.tfrecord\n      dev_record_path_or_regex: ${workspace}/other.tfrecord",
)
FINETUNE_DEV = (
    "dev_record_path_or_regex: ${build-chat-data}/dev-*.tfrecord",
    "dev_record_path_or_regex: ${workspace}/other.tfrecord",
)


def test_held_out_records_that_only_measure_are_in_no_key() -> None:
    text = spec.read("minima-3b")
    assert ADAPT_DEV[0] in text
    assert FINETUNE_DEV[0] in text
    before, after = (plan(spec.parse(text.replace(*old), "p.yaml")) for old in (("", ""), ADAPT_DEV))
    assert [s.argv for s in before] != [s.argv for s in after]
    assert [s.key for s in before] == [s.key for s in after]


def test_held_out_records_that_decide_when_to_stop_are() -> None:
    text = spec.read("minima-3b").replace("num_patience_epochs: 2", "num_patience_epochs: 0", 1)
    before, after = (plan(spec.parse(text.replace(*old), "p.yaml")) for old in (("", ""), FINETUNE_DEV))
    changed = {a.name for a, b in zip(before, after, strict=True) if a.key != b.key}
    assert "finetune-lora" in changed, "it has patience"
    assert "finetune" not in changed, "it has none"


def test_what_is_only_measured_on_a_stage_does_not_follow_from_it() -> None:
    text = spec.read("minima-3b").replace(ADAPT_DEV[0], ADAPT_DEV[1].replace("${workspace}/other", "${held-out}/dev-*"))
    build = text[text.index("  build-data:") : text.index("  adapt:")]
    held_out = build.replace("build-data:", "held-out:\n    verb: build-data", 1)
    steps = plan(spec.parse(text.replace("  adapt:", f"{held_out}  adapt:", 1), "p.yaml"))
    adapt = step(steps, "adapt")
    assert (adapt.needs, adapt.made_of) == (("expand-vocab", "build-data", "held-out"), ("expand-vocab", "build-data"))
    assert following(steps, "held-out") == {"held-out"}
    assert {"adapt", "prune", "distill", "finetune"} <= following(steps, "build-data")


def test_an_input_counts_by_its_digest_or_by_its_path() -> None:
    digest = "ab" * 32
    plain = "wudao: ${workspace}/inputs/wudao"
    by_digest = [plan(shipped(VOLUME, (plain, f"wudao: {path}@sha256:{digest}"))) for path in ("/workspace/a", "/workspace/b")]
    first, second = (step(steps, "build-data") for steps in by_digest)
    assert first.key == second.key
    assert first.options.input_dir == f"/workspace/a@sha256:{digest}"  # type: ignore[attr-defined]
    assert step(plan(shipped(VOLUME, (plain, "wudao: /workspace/b"))), "build-data").key != first.key


def test_an_input_in_the_workspace_has_one_key_wherever_that_is_mounted(tmp_path: Path) -> None:
    pods = plan(shipped(VOLUME))
    assert step(pods, "expand-vocab").options.chinese_sp_path == "/workspace/inputs/chinese_sp.model"  # type: ignore[attr-defined]
    spelled_out = on_the_volume().replace("${workspace}/", "/workspace/")
    assert [one.key for one in plan(spec.parse(spelled_out, "p.yaml"))] == [one.key for one in pods]
    here = plan(shipped(VOLUME), str(tmp_path))
    assert step(here, "expand-vocab").options.chinese_sp_path == f"{tmp_path}/inputs/chinese_sp.model"  # type: ignore[attr-defined]
    for one, there in zip(here, pods, strict=True):
        assert one.key == there.key
        for name, value in options.reads(one.options).items():
            if value.startswith(f"{tmp_path}/inputs/"):  # What the stage will say of it, here and in a pod.
                said = input_key(value, one.output_dir)
                assert said == input_key(options.reads(there.options)[name], there.output_dir)
                assert said.startswith("${workspace}/inputs/")


def test_a_path_that_no_pod_sees_is_an_error_but_not_on_this_machine() -> None:
    text = on_the_volume().replace("${workspace}/inputs/wudao", "/data/wudao")
    text = text.replace("lora_dropout: 0.05\n", "lora_dropout: 0.05\n      deepspeed: /etc/deepspeed.json\n")
    with pytest.raises(UsageError) as error:
        plan(spec.parse(text, "p.yaml"))
    first, second = str(error.value).splitlines()
    assert first.startswith(
        "p.yaml:12: inputs.wudao: found /data/wudao, which no pod sees: they mount /workspace; put it there"
    )
    assert "as ${workspace}/…, mount a volume (`pod`), or run with --local" in first
    assert ": stages.finetune-lora.options.deepspeed: found /etc/deepspeed.json, which no pod sees" in second
    wudao = step(plan(spec.parse(text, "p.yaml"), "/here"), "build-data").options.input_dir  # type: ignore[attr-defined]
    assert wudao == "/data/wudao"


def test_the_plan_of_minima_3b() -> None:
    steps = plan(spec.load("minima-3b"))
    assert {s.name for s in steps if s.memory} == {"adapt", "prune", "distill", "finetune", "finetune-lora"}
    assert all(getattr(s.options, "zero_stage", 1) == 1 for s in steps)
    prune = step(steps, "prune")
    assert prune.memory
    assert prune.memory.weights / 1e9 == pytest.approx(13.8, abs=0.05)
    assert isinstance(prune.options, Prune)


def test_the_lowest_zero_stage_that_fits_is_chosen() -> None:
    def with_gpus(size: str, *more: tuple[str, str]) -> list[Step]:
        return plan(shipped("minima-3b", ("stages:\n", f"pools: {{a100-32: {{gpu_memory: {size}}}}}\nstages:\n"), *more))

    chosen = [step(with_gpus(size), "adapt").options.zero_stage for size in ("80Gi", "40Gi")]  # type: ignore[attr-defined]
    assert chosen == [1, 2]
    with pytest.raises(UsageError, match=r"stages.adapt: needs 2\d\.\d GB \(weights .*pool a100-32 has 9\.7 GB to use of 10Gi"):
        with_gpus("10Gi")
    stated = ("per_device_train_batch_size: 4", "per_device_train_batch_size: 4\n      zero_stage: 2")
    assert step(with_gpus("80Gi", stated), "adapt").options.zero_stage == 2  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"stages\.adapt: needs"):
        with_gpus("20Gi", stated)


def test_zero_3_is_never_chosen() -> None:
    stated = ("per_device_train_batch_size: 8", "per_device_train_batch_size: 8\n      zero_stage: 3")
    with pytest.raises(UsageError, match=r"stages\.distill.options.zero_stage: found 3"):
        plan(shipped("minima-3b", stated))
    with pytest.raises(UsageError, match=r"stages\.distill: needs .*teacher 13.8"):
        plan(shipped("minima-3b", ("stages:\n", "pools: {a100-16: {gpu_memory: 24Gi}}\nstages:\n")))


def test_the_tutorials_lora_script_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"stages\.finetune-lora: needs"):
        plan(shipped("minima-3b", ("use_act_ckpt: true #", "use_act_ckpt: false #")))


@pytest.mark.parametrize(
    ("pipeline", "old", "new", "expected"),
    [
        (
            "minima-3b",
            "global_batch_size: 1024",
            "global_batch_size: 1000",
            "1000 sequences do not divide among 32 processes; nearest that do: 992",
        ),
        ("minima-3b", "train_batch_size: 4", "train_batch_size: 5", "valid: 1, 2, 4, 8, 16, 32"),
        (
            "smoke",
            "  prune:\n    pool: small",
            "  prune:\n    pool: small-pair",
            "prune runs in one pod, pool small-pair has 2",
        ),
        (
            "minima-3b",
            "  prune:\n    pool: a100-1",
            "  prune:\n    pool: a100-8",
            "prune uses one GPU, pool a100-8 has 8 a pod",
        ),
        (
            "smoke",
            "hidden: 64",
            "hidden: 66",
            "convert.options.hidden: 66 is not a multiple of head 4; nearest valid: 64 and 68",
        ),
        ("smoke", "kv_head: 2", "kv_head: 3", "stages.convert.options.kv_head: 3 does not divide head 4; valid: 1, 2, 4"),
        ("smoke", "kv_head: 3", "kv_head: 5", "stages.init-model.options.kv_head: 5 does not divide head 6"),
        (
            "minima-3b",
            "hidden: 3072",
            "hidden: 6144",
            "convert.options.hidden: 6144, the model has 4096; valid: 1 to 4096",
        ),
        ("minima-3b", "layer: 24\n", "layer: 40\n", "stages.convert.options.layer: 40, the model has 32"),
        ("minima-3b", "head: 24\n", "head: 24\n      kv_head: 12\n", "each key-value head keeps its 1 queries"),
        ("minima-3b", "vocab_size: 49216", "vocab_size: 31000", "vocab_size: 31000 is below the 32000 that the model has"),
        (
            "minima-3b",
            "max_seq_length: 512",
            "num_layer_examples: 0",
            "stages.convert.options.keep_layers: measured, but prune measures no layer",
        ),
        (
            "minima-3b",
            "teacher_model_name_or_path: ${adapt}\n      student",
            "teacher_model_name_or_path: ${llama}\n      student",
            "student_model_name_or_path: its vocabulary has 49216 pieces, the teacher's 32000",
        ),
        (
            "smoke",
            "tokenizer_name_or_path: ${expand-vocab}",
            "tokenizer_name_or_path: ${init-model}/model",
            "stages.adapt.options.record_path_or_regex: its records are made with the tokenizer of init-model, "
            "model_name_or_path has that of expand-vocab; the ids would mean other text",
        ),
        (
            "smoke",
            "tokenizer_name_or_path: ${distill}",
            "tokenizer_name_or_path: ${init-model}/model",
            "stages.finetune.options.train_record_path_or_regex: its records are made with the tokenizer of init-model",
        ),
        (
            "smoke",
            "teacher_model_name_or_path: ${adapt}\n      student",
            "teacher_model_name_or_path: ${init-model}/model\n      student",
            "stages.distill.options.teacher_model_name_or_path: it has the tokenizer of init-model",
        ),
        (
            "smoke",
            "model_name_or_path: ${expand-vocab}",
            "model_name_or_path: ${expand-vocab}\n      attn_implementation: flash_attention_2",
            "flash_attention_2 needs GPUs, pool small-pair has none",
        ),
        (
            VOLUME,
            "wudao: ${workspace}/inputs/wudao",
            "wudao: /workspace/minima-3b/wudao",
            "input_dir: /workspace/minima-3b/wudao lies among this pipeline's own artifacts",
        ),
    ],
)
def test_what_does_not_fit(pipeline: str, old: str, new: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(shipped(pipeline, (old, new)))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "record_path_or_regex: ${build-data}/train-*.tfrecord",
            "record_path_or_regex: ${build-data}/*.tfrecord",
            "found ${build-data}/*.tfrecord, which is no records; did you mean '${build-data}/train-*.tfrecord'?",
        ),
        (
            "dev_record_path_or_regex: ${build-data}/dev-*.tfrecord",
            "dev_record_path_or_regex: ${build-data}/*.tfrecord",
            "found ${build-data}/*.tfrecord, which is no records; did you mean '${build-data}/dev-*.tfrecord'?",
        ),
        (
            "record_path_or_regex: ${build-data}/train-*.tfrecord",
            "record_path_or_regex: ${build-data}/dev-*.tfrecord",
            "${build-data}/dev-*.tfrecord overlaps with dev_record_path_or_regex ${build-data}/dev-*.tfrecord; "
            "name train-*.tfrecord here",
        ),
    ],
)
def test_training_never_sees_held_out_records(old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(shipped("smoke", (old, new)))
    assert said in str(caught.value)
