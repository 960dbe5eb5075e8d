"""Options from command lines and YAML values, and back."""

import dataclasses
import string
import typing
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from minima import flags
from minima.errors import UsageError
from minima.options import REFUSED, VERBS, Adapt, BuildChatData, BuildData, Evaluate, Finetune, Options, Prune, decides, fields
from minima.workspace import artifact

ADAPT = {"output_dir": "/o", "model_name_or_path": "/m", "record_path_or_regex": "/r"}
VALID: dict[str, dict[str, object]] = {
    "build-data": {
        "input_regex": "**/*.txt",
        "text_key": ("title", "text"),
        "filter": ("lang=zh", "a b=-"),
        "encoding": "gb18030",
    },
    "build-chat-data": {"input_regex": "--*.json"},
    "convert": {"keep_layers": "middle"},
    "evaluate": {
        "tasks": ("drop", "smoke_english"),
        "num_fewshot": ("drop=0",),
        "judge_key_variable": "K",
        "judge_prices": ("1", "2"),
    },
    "fetch": {
        "source": (f"hf://org/name@{'a' * 40}", f"x=/mnt/y@sha256:{'b' * 64}"),
        "include": (),
        "exclude": ("**/*.bin",),
        **dict.fromkeys(("layer", "hidden", "head", "kv_head", "intermediate", "vocab_size"), 0),
    },
}
"""Values that noise does not hit, for options that are checked together."""
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


def build(stage: type[Options] = Adapt, **values: typing.Any) -> Options:
    return flags.build(stage, {**ADAPT, **values}, lambda name: f"p.yaml:7: {name}")


def values_of(field: dataclasses.Field[typing.Any]) -> st.SearchStrategy[typing.Any]:
    low, above, high = (field.metadata[k] for k in ("minimum", "above", "maximum"))
    match flags.kind(field):
        case "bool":
            return st.booleans()
        case "int":
            return st.integers(int(low or 0), int(high) if high is not None else 10**9)
        case "float":
            return st.floats(
                low if low is not None else above, high, exclude_min=above is not None, allow_infinity=False, allow_nan=False
            )
        case "strings" if field.metadata["input"]:
            paths = TEXT.filter(lambda v: "@sha256:" not in v and not v.startswith("--"))
            return st.lists(paths, min_size=1, unique=True).map(tuple)
        case "floats":
            return st.just(())
        case "strings":
            return st.lists(TEXT.filter(lambda v: not v.startswith("--"))).map(tuple)
        case _ if field.metadata["choices"]:
            return st.sampled_from(field.metadata["choices"])
        case _:
            return TEXT.filter(lambda v: "@sha256:" not in v)


@pytest.mark.parametrize("verb", VERBS)
@given(data=st.data())
def test_every_command_line_gives_back_the_options_it_was_made_of(verb: str, data: st.DataObject) -> None:
    stage = VERBS[verb]
    values = {f.name: data.draw(values_of(f), label=f.name) for f in fields(stage)}
    if "head" in values:
        head_dim, groups, kv_head = (data.draw(st.integers(1, 8)) for _ in range(3))
        values |= {"kv_head": kv_head, "head": groups * kv_head, "hidden": 2 * head_dim * groups * kv_head}
    if sources := values.get("record_path_or_regex", values.get("train_record_path_or_regex")) if "mixture" in values else ():
        weights = st.floats(0, exclude_min=True, allow_infinity=False)
        values["mixture"] = data.draw(st.just(()) | st.tuples(*[weights] * len(sources)))
    options = stage(**values | VALID.get(verb, {}))
    assert flags.parse(stage, flags.argv(options)) == options


@given(st.lists(st.text(alphabet=string.printable)))
def test_any_words_give_options_or_a_usage_error(words: list[str]) -> None:
    with pytest.raises(UsageError):
        flags.parse(Adapt, words)  # Required options cannot come out of noise.


@pytest.mark.parametrize("verb", VERBS)
def test_the_identity_is_on_the_command_line_in_full(verb: str) -> None:
    """A reviewer of a manifest, and an image with other defaults, must see the same run."""
    stage = VERBS[verb]
    required: dict[str, typing.Any] = {
        f.name: 2 if flags.kind(f) == "int" else "x" for f in fields(stage) if f.default is dataclasses.MISSING
    }
    required |= {"hidden": 4} if "hidden" in required else {}
    required |= {"source": VALID[verb]["source"]} if "source" in required else {}
    options = flags.build(stage, required, str)
    line = flags.argv(options)
    for field in fields(stage):
        if decides(options, field.name) and getattr(options, field.name) not in ("", ()):
            assert any(
                word in (f"--{field.name}", f"--no-{field.name}") or word.startswith(f"--{field.name}=") for word in line
            )


@pytest.mark.parametrize(
    ("train", "dev", "refused"),
    [
        ("/d/train-*.tfrecord", "/d/dev-*.tfrecord", False),
        ("/d", "/d", False),  # Each side takes its own.
        ("/d", "/d/dev-*.tfrecord", False),
        ("/d/*.tfrecord", "/d/*", False),
        ("/d/dev-*.tfrecord", "/d/dev-00000-of-00002.tfrecord", True),
        ("/d/dev-00001-*", "/d/dev-00000-*", False),
        ("/d/dev-*.tfrecord", "/d", True),
        ("/d/dev-*.tfrecord", "/e", False),
        ("/d", "/d/train-00000-of-00002.tfrecord", True),
        ("/d/train-*.tfrecord", "/d/train-0*", True),
        ("/d/*-00001-*", "/d/train-0000?-of-*", True),
        ("/d/train-[01]*", "/d/train-0-of-2.tfrecord", True),
        ("/d/./train-*.tfrecord", "/d//train-0.tfrecord", True),
        ("/d/../d/train-*.tfrecord", "/d/x/../train-0.tfrecord", True),
        ("/d/**/train-*.tfrecord", "/d/e/train-0.tfrecord", True),
        ("/d/*/train-*.tfrecord", "/d/e/train-0.tfrecord", True),
        ("/d/*/train-*.tfrecord", "/e/e/train-0.tfrecord", False),
    ],
)
def test_paths_on_both_sides_that_may_be_one_file(train: str, dev: str, refused: bool) -> None:
    options = dataclasses.replace(typing.cast(Adapt, build()), record_path_or_regex=(train,), dev_record_path_or_regex=dev)
    found = [name for name, what in options.problems() if "overlaps with dev_record_path_or_regex" in what]
    assert found == ["record_path_or_regex"] * refused


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("learning_rat", 1.0, "did you mean 'learning_rate'"),
        ("learning_rate", "3e-4", "write the number 3.0e-4"),
        ("learning_rate", "1.25E5", "write the number 1.25e+5"),
        ("learning_rate", "0.1", "write the number 0.1 without quotes"),
        ("learning_rate", 0, "number > 0 is valid"),
        ("learning_rate", float("nan"), "nan"),
        ("learning_rate", True, "a number > 0 is valid"),
        ("seed", 1.5, "a whole number >= 0"),
        ("seed", True, "a whole number"),
        ("seed", None, "found null;"),
        ("use_bf16", "yes", "true or false is valid"),
        ("warmup_proportion", 1.5, "<= 1"),
        ("lr_scheduler_type", "cosin", "did you mean 'cosine'"),
        ("model_name_or_path", "", "empty path"),
        ("model_name_or_path", "/m@sha256:abc", "minima digest"),
        ("model_name_or_path", ["a"], "a string is valid"),
        ("record_path_or_regex", 3, "a list of strings is valid"),
        ("record_path_or_regex", [], "found an empty list; a path is valid"),
        ("record_path_or_regex", ["/a", ""], "empty path"),
        ("record_path_or_regex", ["/a", "/b", "/a"], "/a is named twice; a weight in mixture repeats records"),
        ("record_path_or_regex", ["/a", "/b/../a/"], "/a is named twice"),
        ("mixtur", [1.0], "did you mean 'mixture'"),
        ("mixture", 0.7, "a list of numbers > 0 is valid"),
        ("mixture", [0.7, 0], "found 0.0; a list of numbers > 0 is valid"),
        ("mixture", [0.7, -0.3], "found -0.3; a list of numbers > 0 is valid"),
        ("mixture", [0.7, float("inf")], "found .inf; a list of numbers > 0 is valid"),
        ("mixture", [0.7, "0.3"], "write the number 0.3 without quotes"),
        ("mixture", [0.7, 10**400], "found a number of"),
        ("mixture", [0.7, 0.3], "found 2 for 1 in record_path_or_regex; valid: a weight for each source"),
        *((name, 1, reason) for name, reason in REFUSED.items()),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_is_valid(name: str, value: object, said: str) -> None:
    with pytest.raises(UsageError) as error:
        build(Adapt, **{name: value})
    assert str(error.value).startswith(f"p.yaml:7: {name}: ")
    assert said in str(error.value)


def test_the_number_that_an_error_proposes_is_one_for_yaml() -> None:
    with pytest.raises(UsageError) as error:
        build(learning_rate="3e-4")
    proposed = str(error.value).split("write the number ")[1].split(" ")[0]
    assert yaml.safe_load(proposed) == 3e-4


@pytest.mark.parametrize(
    ("stage", "values", "said"),
    [
        (Finetune, {"num_patience_epochs": 1}, "num_patience_epochs: needs held-out records"),
        (Adapt, {"eval_interval": 5}, "eval_interval: 5, without held-out records; give dev_record_path_or_regex, or 0"),
        (BuildData, {"input_regex": "/etc/*"}, "input_regex: '/etc/*' leads out of input_dir"),
        (BuildChatData, {"input_regex": "../*.jsonl"}, "input_regex: '../*.jsonl' leads out of input_dir"),
    ],
)
def test_values_that_do_not_go_together_are_named(stage: type[Options], values: dict[str, object], said: str) -> None:
    required = {f.name: "x" for f in fields(stage) if f.default is dataclasses.MISSING}
    with pytest.raises(UsageError) as error:
        flags.build(stage, {**required, **values}, lambda name: f"p.yaml:7: {name}")
    assert str(error.value).startswith(f"p.yaml:7: {said}")
    assert said.split(":")[0] not in required


def test_all_errors_are_said_at_once() -> None:
    with pytest.raises(UsageError) as error:
        flags.build(Adapt, {"sed": 1, "weight_decay": -1}, str)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "sed", "output_dir", "weight_decay", "model_name_or_path", "record_path_or_regex",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed"], "a value is missing"),
        (["--seed", "x"], "found 'x'; a whole number"),
        (["--seed", "1", "--seed", "2"], "given twice"),
        (["--use_bf16=1"], "a switch takes no value"),
        (["seed"], "a value without a flag"),
        (["--do_lower_case"], "the models are cased"),
        (["--no-seed"], "no such option"),
    ],
)
def test_a_wrong_command_line_is_named(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        flags.parse(Adapt, words)


def test_a_list_takes_all_words_up_to_the_next_flag() -> None:
    options = flags.parse(
        Evaluate, ["--tasks", "smoke_chinese", "smoke_english", "--output_dir", "o", "--model_name_or_path", "m"]
    )
    assert options == Evaluate(tasks=("smoke_chinese", "smoke_english"), output_dir="o", model_name_or_path="m")


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_option_and_its_default(verb: str) -> None:
    lines = flags.usage(VERBS[verb]).splitlines()
    for field in fields(VERBS[verb]):
        (number,) = [n for n, line in enumerate(lines) if line.startswith(f"  --{field.name} ")]
        form, told = lines[number : number + 2]
        assert told.startswith(f"        {field.metadata['help']} (")
        if field.default is dataclasses.MISSING:
            assert told.endswith(" (required)")
            continue
        word = told.rpartition(" (default: ")[2].removesuffix(")")
        if flags.kind(field) == "bool":
            assert form == f"  --{field.name} / --no-{field.name}"
            words = [word]
        elif flags.kind(field) in {"strings", "floats"}:
            words = [f"--{field.name}", *(word.split() if field.default else ())]
        else:
            words = [f"--{field.name}", "" if word == "empty" else word]
        # What help says of a default is what leaves it as it is.
        assert field.default == _parsed(VERBS[verb], field.name, words)


def _parsed(verb: type[Options], name: str, words: list[str]) -> object:
    """The value of an option on a command line, whatever others are missing."""
    found: list[object] = []

    def build(cls: type[Options], values: dict[str, object], place: object) -> None:
        found.append(values[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "build", build)
        flags.parse(verb, words)
    return tuple(found[0]) if isinstance(found[0], list) else found[0]


def test_the_tutorials_flags_are_kept() -> None:
    """design.md, "Flags of the tutorial": kept."""
    kept = """llama_tokenizer_dir chinese_sp_path input_dir input_regex output_dir tokenizer_name_or_path num_processors
    model_name_or_path teacher_model_name_or_path student_model_name_or_path record_path_or_regex train_record_path_or_regex
    dev_record_path_or_regex per_device_train_batch_size per_device_eval_batch_size learning_rate weight_decay log_interval
    num_train_epochs num_patience_epochs lr_scheduler_type warmup_proportion max_grad_norm seed use_act_ckpt use_bf16
    layer hidden head intermediate kv_head keep_layers global_batch_size max_seq_length deepspeed""".split()
    assert set(kept) <= {f.name for stage in VERBS.values() for f in fields(stage)}
    assert not set(REFUSED) & {f.name for stage in VERBS.values() for f in fields(stage)}


def test_execution_has_no_part_in_the_identity_of_build_data() -> None:
    assert {f.name for f in fields(BuildData) if f.metadata["execution"]} == {
        "output_dir",
        "verify",
        "max_attempts",
        "num_processors",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_what_makes_an_option_identity_is_itself_an_option_of_the_identity(verb: str) -> None:
    by_name = {f.name: f for f in fields(VERBS[verb])}
    assert "revision" not in by_name, "it stands beside the options in the identity"
    for field in by_name.values():
        condition = field.metadata["identity_with"]
        if condition == field.name:
            assert not field.metadata["execution"]
            assert not field.default
        elif condition:
            assert field.metadata["execution"]
            assert not by_name[condition].metadata["execution"]


def test_the_batch_of_prune_is_identity_only_under_the_published_rule() -> None:
    def pruned(**changes: Any) -> Prune:
        return Prune(output_dir="o", teacher_model_name_or_path="t", record_path_or_regex="r", **changes)

    one, two = pruned(per_device_eval_batch_size=1), pruned(per_device_eval_batch_size=2)
    assert artifact.key(one, {}) == artifact.key(two, {})
    one, two = (dataclasses.replace(one, published_rule=True), dataclasses.replace(two, published_rule=True))
    assert artifact.key(one, {}) != artifact.key(two, {})
    assert "--per_device_eval_batch_size" in flags.argv(two), "the default too, since it decides"
    assert "--per_device_eval_batch_size" not in flags.argv(pruned())
