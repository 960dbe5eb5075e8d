"""The tutorial's run begins with nothing on the volume: what its first stages bring is what the others read.

The hub's double holds each repository with the names that its page lists at the pin, and rows of the fixtures.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from pyarrow import Table, parquet

from jobgen.pipeline import spec
from jobgen.pipeline.plan import Step, plan
from minima import addresses
from minima.benchmarks import BENCHMARKS, PROTOCOLS
from minima.evaluation import copies
from minima.options import BuildChatData, BuildData, Evaluate, ExpandVocab, Fetch
from minima.stages import fetch
from minima.workspace.files import matching, walk
from tests.unit import held
from tests.unit.sources.servers import HubSite, Site, serving

FIXTURES = Path(__file__).parents[1] / "fixtures" / "benchmarks"


def rows(name: str, file: str) -> list[dict[str, Any]]:
    place = next(FIXTURES.glob(f"{name}/*/{file}.jsonl"))
    return [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]


def table(name: str, file: str) -> bytes:
    out = io.BytesIO()
    parquet.write_table(Table.from_pylist(rows(name, file)), out)
    return out.getvalue()


def drop_dataset() -> bytes:
    """drop_dataset.zip as AI2 gives it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for split, name in (("validation", "dev"), ("train", "train")):
            passages = {}
            for number, row in enumerate(rows("drop", split)):
                valid = row["validated_answers"]
                parts = zip(valid["number"], valid["date"], valid["spans"], strict=True)
                answers = [{"number": n, "date": d, "spans": s} for n, d, s in parts]
                pair = {key: row[key] for key in ("question", "query_id", "answer")} | {"validated_answers": answers}
                passages[f"passage_{number}"] = {"passage": row["passage"], "qa_pairs": [pair], "wiki_url": "x"}
            archive.writestr(f"drop_dataset/drop_dataset_{name}.json", json.dumps(passages))
        archive.writestr("drop_dataset/license.txt", "CC BY-SA 4.0")
    return out.getvalue()


def repositories() -> dict[str, dict[str, bytes]]:
    """By name, without the commit. What nobody asks for is there too, and is no content of its kind."""
    of_mmlu, of_ceval, of_bbh = ([*BENCHMARKS[name].subjects()] for name in ("mmlu", "ceval", "bbh"))
    no = b"no content"
    return {
        "datasets/cais/mmlu": {
            **_each(["all", *of_mmlu], {split: table("mmlu", split) for split in ("dev", "test")} | {"validation": no}),
            **_each(["auxiliary_train"], {"train": no}),
            "data.tar": no,
            "dataset_infos.json": b"{}",
        },
        "datasets/ceval/ceval-exam": {
            **_each(of_ceval, {split: table("ceval", split) for split in ("dev", "val")} | {"test": no}),
            "ceval-exam.zip": no,
        },
        "datasets/openai/openai_humaneval": _each(["openai_humaneval"], {"test": table("humaneval", "test")}),
        "datasets/SaylorTwift/bbh": _each([*of_bbh, "data"], {"test": table("bbh", "test")}),
        "datasets/openai/gsm8k": {
            **_each(["main"], {"test": table("gsm8k", "test"), "train": no}),
            **_each(["socratic"], {"test": no, "train": no}),
        },
        "spaces/xu-song/tokenizer-arena": {
            f"vocab/{model}/merge_tokenizer/{file}": file.encode()
            for model in ("chinese_llama", "chinese_llama_lora_7b")
            for file in ("chinese_sp.model", "merge_tokenizers.py", "README.md")
        },
        "datasets/Skywork/SkyPile-150B": {
            **dict.fromkeys((f"data/2020-40_zh_{part}_0000.jsonl" for part in ("head", "middle")), b'{"text": "x"}'),
            "Skywork Community License.pdf": no,
            "Skywork 模型社区许可协议.pdf": no,
        },
        "datasets/anon8231489123/ShareGPT_Vicuna_unfiltered": {
            "ShareGPT_V3_unfiltered_cleaned_split.json": b"[]",
            "ShareGPT_V3_unfiltered_cleaned_split_no_imsorry.json": no,
            "HTML_cleaned_raw_dataset/sg_90k_part1.json": no,
        },
        "meta-llama/Llama-2-7b-hf": {
            "config.json": json.dumps(
                {
                    "num_hidden_layers": 32,
                    "hidden_size": 4096,
                    "num_attention_heads": 32,
                    "num_key_value_heads": 32,
                    "intermediate_size": 11008,
                    "vocab_size": 32000,
                }
            ).encode(),
            **dict.fromkeys(("tokenizer.model", "tokenizer.json", "generation_config.json"), b"{}"),
            **{f"model-0000{n}-of-00002.safetensors": b"weights" for n in (1, 2)},
            "model.safetensors.index.json": b"{}",
            **{f"pytorch_model-0000{n}-of-00002.bin": no for n in (1, 2)},
            "pytorch_model.bin.index.json": no,
        },
    }


def _each(folders: list[str], splits: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{split}-00000-of-00001.parquet": content for folder in folders for split, content in splits.items()}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Step]]:
    """The steps of minima-3b, of which those that fetch have run."""
    steps = {step.name: step for step in plan(spec.load("minima-3b"), str(tmp_path_factory.mktemp("work")))}
    there = repositories()
    page = {"README.md": b"---", ".gitattributes": b"*.parquet filter=lfs"}
    archive = drop_dataset()
    hub, other = HubSite(), Site(files={"/drop_dataset.zip": archive})
    with serving(hub), serving(other), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(fetch, "POLL", 0.01)
        patch.delenv("HF_TOKEN", raising=False)
        zipped = f"drop={other.url}/drop_dataset.zip@sha256:{hashlib.sha256(archive).hexdigest()}"
        for step in steps.values():
            if not isinstance(step.options, Fetch):
                continue
            sources = [zipped if source.startswith("drop=") else source for source in step.options.source]
            for source in map(addresses.parse, sources):
                if source.kind == "hub":
                    hub.others[f"{source.rest}@{source.commit}"] = {**page, **there.pop(source.rest)}
            options = dataclasses.replace(step.options, source=tuple(sources))
            with held.output(options) as output:
                output.commit(fetch.run(options, output))
        assert not there, "a repository that no stage names"
        yield steps


def test_all_that_it_reads_is_made_by_a_stage() -> None:
    assert not spec.load("minima-3b").inputs


def test_wudao_takes_the_place_of_the_open_text() -> None:
    page = (Path(__file__).parents[2] / "docs" / "network.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.split("**WuDao**")[1].split("```yaml\n")[1].split("```")[0])
    document = yaml.safe_load(spec.read("minima-3b")) | {"inputs": shown["inputs"]}
    document["stages"]["build-data"]["options"] |= shown["stages"]["build-data"]["options"]
    del document["stages"]["skypile"]
    steps = {step.name: step for step in plan(spec.parse(yaml.safe_dump(document, sort_keys=False), "p.yaml"))}
    assert steps["build-data"].needs == ("expand-vocab",)
    assert matching(["a/part-1.json", "part-2.json"], steps["build-data"].options.input_regex)  # type: ignore[attr-defined]


def test_every_benchmark_is_whole_in_every_subject(fetched: dict[str, Step]) -> None:
    options = fetched["evaluate"].options
    assert isinstance(options, Evaluate)
    for name in options.tasks:
        benchmark = BENCHMARKS[name]
        for protocol in PROTOCOLS:
            few = {"bbh": 0, "drop": 1}.get(name, benchmark.shots)  # The fixtures have three items each.
            data = copies.find(benchmark, options.data_dir, protocol, few)
            assert data.missing == ()
            assert data.items == len(rows(name, benchmark.scored)) * len(benchmark.subjects())
    assert not [name for name in walk(Path(options.data_dir)) if name.endswith((".zip", ".tar", ".md"))]


def test_the_rest_is_where_the_stages_look(fetched: dict[str, Step]) -> None:
    vocabulary, text, chat = (fetched[name].options for name in ("expand-vocab", "build-data", "build-chat-data"))
    assert isinstance(vocabulary, ExpandVocab)
    assert Path(vocabulary.chinese_sp_path).read_bytes() == b"chinese_sp.model"
    assert walk(Path(vocabulary.llama_tokenizer_dir)) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
    ]
    assert isinstance(text, BuildData)
    assert len(matching(walk(Path(text.input_dir)), text.input_regex)) == 2
    assert isinstance(chat, BuildChatData)
    assert matching(walk(Path(chat.input_dir)), chat.input_regex) == ["ShareGPT_V3_unfiltered_cleaned_split.json"]
