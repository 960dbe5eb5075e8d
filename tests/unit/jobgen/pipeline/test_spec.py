"""Pipeline files: what is read, and one clear error for everything that is wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobgen.pipeline import plan, source, spec
from jobgen.pipeline.pipeline import Input, Reference, Workspace
from minima.errors import UsageError

GOOD = """\
name: tiny
image: minima:cpu
workspace: {claim: work, path: /workspace}
inputs:
  llama: /workspace/inputs/llama
pools:
  pair: {pods: 2, cpu: 100m, memory: 2Gi}
stages:
  adapt:
    pool: pair
    options:
      model_name_or_path: ${llama}
      record_path_or_regex: /workspace/records/*.tfrecord
      global_batch_size: 4
      learning_rate: 3.0e-4
  again:
    verb: adapt
    pool: pair
    options:
      model_name_or_path: ${adapt}
      record_path_or_regex: /workspace/records/*.tfrecord
      global_batch_size: 4
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def errors(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        plan.plan(spec.parse(text, "p.yaml"))
    assert caught.value.exit_code == 64
    return str(caught.value).splitlines()


def test_a_pipeline_is_read_whole() -> None:
    pipeline = spec.parse(GOOD, "p.yaml")
    assert pipeline.name == "tiny"
    assert pipeline.workspace == Workspace(claim="work", path="/workspace")
    assert pipeline.inputs["llama"] == Input(path="/workspace/inputs/llama", shape=None, line=5)
    assert list(pipeline.stages) == ["adapt", "again"]
    adapt = pipeline.stages["adapt"]
    assert (adapt.verb, adapt.pool.pods, adapt.pool.processes, adapt.image) == ("adapt", 2, 1, "minima:cpu")
    assert adapt.references == {"model_name_or_path": Reference(name="llama", inside="")}
    assert adapt.options.learning_rate == 3e-4  # type: ignore[attr-defined]
    assert pipeline.place("stages", "again", "options") == "p.yaml:19: stages.again.options"


CASES: dict[str, tuple[str, str, str]] = {
    "unknown key": ("image: minima", "imagee: minima", "p.yaml:2: imagee: unknown; did you mean 'image'?"),
    "unknown stage key": ("    pool: pair", "    poool: pair", "p.yaml:10: stages.adapt.poool: unknown; did you mean 'pool'?"),
    "unknown verb": (
        "verb: adapt",
        "verb: adaptt",
        "p.yaml:17: stages.again.verb: no such verb 'adaptt'; did you mean 'adapt'?",
    ),
    "stage name is no verb": (
        "  adapt:\n",
        "  train:\n",
        "p.yaml:9: stages.train: no such verb 'train', and `verb:` is missing",
    ),
    "unknown pool": (
        "    pool: pair",
        "    pool: pairr",
        "p.yaml:10: stages.adapt.pool: pairr: no such pool; did you mean 'pair'?",
    ),
    "missing pool": ("    pool: pair\n", "", "p.yaml:9: stages.adapt: pool is missing; valid: a100-1"),
    "unknown option": (
        "learning_rate:",
        "learning_rat:",
        "p.yaml:15: stages.adapt.options.learning_rat: no such option of adapt; did you mean 'learning_rate'?",
    ),
    "option of the tutorial that is gone": (
        "learning_rate: 3.0e-4",
        "max_length: 128",
        "p.yaml:15: stages.adapt.options.max_length: no such option: its name is max_seq_length",
    ),
    "reserved option": (
        "learning_rate: 3.0e-4",
        "output_dir: /x",
        "p.yaml:15: stages.adapt.options.output_dir: jobgen names the artifact's folder; remove it",
    ),
    "missing option": (
        "      record_path_or_regex: /workspace/records/*.tfrecord\n",
        "",
        "p.yaml:11: stages.adapt.options.record_path_or_regex: missing",
    ),
    "a number that is a string": (
        "3.0e-4",
        "3e-4",
        "p.yaml:15: stages.adapt.options.learning_rate: found the string '3e-4'; write the number 3.0e-4",
    ),
    "wrong type": (
        "global_batch_size: 4",
        "global_batch_size: [4]",
        "p.yaml:14: stages.adapt.options.global_batch_size: found [4]",
    ),
    "out of range": ("3.0e-4", "0.0", "p.yaml:15: stages.adapt.options.learning_rate: found 0.0; a number > 0 is valid"),
    "not a number": ("3.0e-4", ".nan", "p.yaml:15: stages.adapt.options.learning_rate: found .nan"),
    "unknown reference": (
        "${llama}",
        "${lama}",
        "p.yaml:12: stages.adapt.options.model_name_or_path: found '${lama}': no stage and no input is called 'lama'; "
        "did you mean 'llama'?",
    ),
    "reference in the middle": ("${llama}", "/x/${llama}", "a reference is ${name} or ${name}/inside, and the whole value"),
    "reference upwards": ("${llama}", "${llama}/../x", "a path without empty parts, '.', '..'"),
    "reference in an option that reads nothing": (
        "learning_rate: 3.0e-4",
        "lr_scheduler_type: ${llama}",
        "only options that read something take one: dev_record_path_or_regex, model_name_or_path, record_path_or_regex",
    ),
    "relative path": (
        "${llama}",
        "llama/model",
        "such as ${stage}/inside, ${workspace}/… or an absolute path is valid; did you mean ${llama}?",
    ),
    "workspace over the image": (
        "path: /workspace}",
        "path: /usr/workspace}",
        "p.yaml:3: workspace.path: found '/usr/workspace'; a folder such as /workspace is valid, outside of /bin, ",
    ),
    "image in capitals": (
        "image: minima:cpu",
        "image: Minima:cpu",
        "p.yaml:2: image: found 'Minima:cpu'; an image such as registry.example.com/minima:train, its repository in small",
    ),
    "a shape that no model has": (
        "  llama: /workspace/inputs/llama",
        "  llama: {path: /workspace/llama, layer: 2, hidden: 64, head: 6, kv_head: 3, intermediate: 9, vocab_size: 9}",
        "p.yaml:5: inputs.llama.head: 6 does not divide hidden 64",
    ),
    "workspace as a whole": ("${llama}", "${workspace}", "found '${workspace}'; ${workspace}/… or an absolute path is valid"),
    "workspace with nothing in it": ("${llama}", "${workspace}/", "a path without empty parts, '.', '..'"),
    "workspace upwards": ("${llama}", "${workspace}/../x", "a path without empty parts, '.', '..'"),
    "workspace in the middle": ("/workspace/inputs/llama", "/x/${workspace}", "only ${workspace} at the start of a path"),
    "workspace of itself": (
        "path: /workspace}",
        "path: '${workspace}/x'}",
        "workspace.path: found '${workspace}/x'; an absolute",
    ),
    "input called workspace": (
        "inputs:\n",
        "inputs:\n  workspace: /x\n",
        "inputs.workspace: ${workspace} is the folder of all artifacts",
    ),
    "stage called workspace": ("  again:", "  workspace:", "stages.workspace: ${workspace} is the folder of all artifacts"),
    "relative path of a file": (
        "learning_rate: 3.0e-4",
        "deepspeed: ds.json",
        "p.yaml:15: stages.adapt.options.deepspeed: found 'ds.json'; ${workspace}/… or an absolute path is valid",
    ),
    "path in two forms": ("/workspace/inputs/llama", "/workspace//inputs/llama", "p.yaml:5: inputs.llama: found"),
    "bad digest": (
        "/workspace/inputs/llama",
        "/x@sha256:12",
        "p.yaml:5: inputs.llama: '/x@sha256:12': a digest is PATH@sha256:",
    ),
    "cycle": ("${llama}", "${again}", "p.yaml:9: stages.adapt: a cycle: adapt reads again, again reads adapt;"),
    "cycle of one": ("${llama}", "${adapt}", "p.yaml:9: stages.adapt: a cycle: adapt reads adapt;"),
    "name too long": (
        "name: tiny",
        "name: " + "t" * 39,
        f"p.yaml:9: stages.adapt: the job's name {'t' * 39}-adapt-xxxxxxxx is 1 characters too long; at most 53 are valid",
    ),
    "name that is no DNS label": ("name: tiny", "name: Tiny_1", "p.yaml:1: name: found 'Tiny_1'; a name of a-z"),
    "name with a newline": ("name: tiny", 'name: "tiny\\n"', "p.yaml:1: name: found 'tiny\\n'"),
    "name that YAML reads as false": ("name: tiny", "name: no", "p.yaml:1: name: found no; true, false or a string in quotes"),
    "repeated key": ("  again:\n", "  adapt:\n", "p.yaml:16: stages.adapt: a repeated key, first on line 9; remove one"),
    "same name twice": ("  llama:", "  again:", "stages.again: an input has this name too"),
    "pool field": ("pods: 2", "podss: 2", "p.yaml:7: pools.pair.podss: unknown; did you mean 'pods'?"),
    "pool quantity": ("memory: 2Gi", "memory: 2gb", "p.yaml:7: pools.pair.memory: found '2gb'; a quantity"),
    "pool without memory": (", memory: 2Gi", "", "p.yaml:7: pools.pair: memory is missing"),
    "pool whose shm is too big": ("memory: 2Gi", "memory: 1Gi", "p.yaml:7: pools.pair: shm 1Gi counts against memory 1Gi"),
    "sexagesimal": ("global_batch_size: 4", "global_batch_size: 1:30", "found 1:30; a number in plain decimal"),
    "octal": ("global_batch_size: 4", "global_batch_size: 010", "found 010; a number in plain decimal"),
    "date": ("${llama}", "2026-11-24", "found 2026-11-24, which YAML 1.1 reads as a date; put it in quotes"),
    "nothing": ("${llama}", "", "p.yaml:12: stages.adapt.options.model_name_or_path: found null"),
    "batch": (
        "global_batch_size: 4",
        "global_batch_size: 5",
        "p.yaml:14: stages.adapt.options.global_batch_size: 5 sequences do not divide among 2 processes; nearest that do: 4",
    ),
    "micro-batch": (
        "global_batch_size: 4",
        "global_batch_size: 12\n      per_device_train_batch_size: 4",
        "valid: 1, 2, 3, 6",
    ),
    "merge key": ("claim: work,", "<<: {claim: work},", "found the merge key <<"),
    "alias in itself": ("claim: work,", "claim: &a [*a],", "an alias inside its own anchor"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_with_its_place(case: str) -> None:
    old, new, expected = CASES[case]
    assert expected in "\n".join(errors(changed(old, new)))


# Those that leave something out too, rename what others refer to, or hold in both stages.
TWO = {
    "unknown key",
    "unknown stage key",
    "stage name is no verb",
    "same name twice",
    "name too long",
    "reference in an option that reads nothing",
}


@pytest.mark.parametrize("case", sorted(CASES.keys() - TWO))
def test_one_mistake_gives_one_error(case: str) -> None:
    old, new, _ = CASES[case]
    assert len(errors(changed(old, new))) == 1


def test_all_mistakes_are_reported_together() -> None:
    text = (
        changed("learning_rate: 3.0e-4", "learning_rat: 1").replace("verb: adapt", "verb: adopt").replace("pods: 2", "pods: 0")
    )
    found = "\n".join(errors(text))
    assert all(part in found for part in ("pools.pair.pods", "options.learning_rat:", "stages.again.verb"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "p.yaml: empty"),
        ("# only a comment\n", "p.yaml: empty"),
        ("- a\n- b\n", "p.yaml:1: found a list; a mapping"),
        ("name: [a\nimage: b", "p.yaml:2: not YAML"),
        ("name: a\n---\nname: b\n", "p.yaml:3: a second document"),
        ('name: "\\UFFFFFFFF"', "p.yaml: not YAML"),
        ("a: b\nc: \x07", "p.yaml:2: not YAML: found the character U+0007"),
        ("name: x\n", "p.yaml:1: stages: missing"),
        ("[" * 1500, "p.yaml: nested too deeply"),
        ('name: "\\uD800"\n', "half a surrogate pair"),
        ("1: x\n", "found 1 as a key; '1' in quotes is valid"),
        ("? [a]\n: x\n", "found a list or mapping as a key"),
    ],
)
def test_what_is_no_pipeline(text: str, expected: str) -> None:
    assert expected in "\n".join(errors(text))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "${build-data}/train-*.tfrecord",
            "${build-data}/trian-*.tfrecord",
            "stages.adapt.options.record_path_or_regex: found ${build-data}/trian-*.tfrecord, which is no records; "
            "did you mean '${build-data}/train-*.tfrecord'?",
        ),
        ("${build-data}/train-*.tfrecord", "${build-data}", "stages.adapt.options.record_path_or_regex: found ${build-data},"),
        (
            "model_name_or_path: ${expand-vocab}",
            "model_name_or_path: ${build-data}",
            "stages.adapt.options.model_name_or_path: found ${build-data}, which is no model; valid: ${adapt}, ",
        ),
        (
            "model_name_or_path: ${prune}",
            "model_name_or_path: ${adapt}",
            "stages.convert.options.model_name_or_path: found ${adapt}, which is no pruned model; valid: ${prune}",
        ),
        ("${init-model}/text", "${init-model}/txt", "did you mean '${init-model}/text'?"),
        (
            "tasks: [smoke_english",
            "tasks: [smoke_englisch",
            "stages.evaluate.options.tasks: unknown benchmark 'smoke_englisch'",
        ),
        ("smoke_chinese]", "mmlu]", "stages.evaluate.options.tasks: mmlu needs data_dir"),
    ],
)
def test_what_the_shipped_pipeline_could_have_wrong(old: str, new: str, expected: str) -> None:
    text = spec.read("smoke")
    assert old in text
    with pytest.raises(UsageError) as caught:
        plan.plan(spec.parse(text.replace(old, new, 1), "smoke.yaml"))
    assert expected in str(caught.value)


def test_one_record_file_or_some_of_them_may_be_read() -> None:
    text = spec.read("smoke")
    for inside in ("train-00000-of-00003.tfrecord", "train-0000[01]-*.tfrecord"):
        assert spec.parse(text.replace("train-*.tfrecord", inside), "smoke.yaml")


def test_aliases_are_welcome() -> None:
    text = changed("/workspace/records/*.tfrecord", "&records /workspace/records/*.tfrecord")
    first, second = text.split("  again:")
    pipeline = spec.parse(first + "  again:" + second.replace("/workspace/records/*.tfrecord", "*records"), "p.yaml")
    both = [stage.options.record_path_or_regex for stage in pipeline.stages.values()]  # type: ignore[attr-defined]
    assert both == [("/workspace/records/*.tfrecord",)] * 2


def nested(depth: int, width: int, of: str = "list") -> str:
    """Lines in which each value holds the one before `width` times."""
    inner = {"list": "[{}]", "mapping": "{{{}}}"}[of]
    held = [(f"*a{i - 1}" if i else "x") for i in range(depth)]
    items = [[f"k{n}: {one}" if of == "mapping" else one for n in range(width)] for one in held]
    return "".join(f"a{i}: &a{i} {inner.format(', '.join(each))}\n" for i, each in enumerate(items))


@pytest.mark.parametrize("of", ["list", "mapping"])
def test_aliases_of_aliases_cost_nothing(of: str) -> None:
    (said,) = errors(nested(30, 9, of))
    assert re.fullmatch(r"p.yaml:\d+: a\d+[.k\d]*: aliases up to here stand for \d+ values; at most 10000 are valid", said)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["list", "mapping"]))
def test_what_aliases_stand_for_is_counted(depth: int, width: int, of: str) -> None:
    """In full, and up to the limit all of it is there."""
    text = nested(depth, width, of)
    sizes = [1 + width]
    for _ in range(depth - 1):
        sizes.append(1 + width * sizes[-1])
    aliased = sum(width * size for size in sizes[:-1])
    if aliased > source.ALIASED:
        with pytest.raises(UsageError, match="aliases up to here stand for"):
            source.parse(text, "p.yaml")
    else:
        assert source.parse(text, "p.yaml")[0].value == yaml.safe_load(text)


def test_a_digest_is_of_the_whole_input() -> None:
    digest = "0" * 64
    text = changed("/workspace/inputs/llama", f"/workspace/inputs/llama@sha256:{digest}")
    assert spec.parse(text, "p.yaml")
    assert "declare model as an input of its own" in errors(text.replace("${llama}", "${llama}/model"))[0]


@pytest.mark.parametrize(
    ("prepare", "name", "expected"),
    [
        (lambda folder: None, "smok", "did you mean 'smoke'?"),
        (lambda folder: (folder / "mine.yaml").write_text("x"), "mime.yaml", "did you mean 'mine.yaml'?"),
        (lambda folder: (folder / "folder").mkdir(), "folder", "folder: a folder"),
        (lambda folder: (folder / "bytes.yaml").write_bytes(b"\xff\xfe"), "bytes.yaml", "bytes.yaml: not UTF-8 text"),
        (lambda folder: None, "a\0b", "no such file"),
    ],
)
def test_no_such_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path], object], name: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    with pytest.raises(UsageError, match=re.escape(expected)):
        spec.load(name)
