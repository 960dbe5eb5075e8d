"""Whatever is wrong with a model folder: a stage works, or says so in one message; it never has a traceback."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from minima.data import records, sample, tokenization
from minima.errors import DATA, NOT_READY, USAGE
from minima.process import launch
from minima.stages import init_model
from tests.unit import damage, families, tiny

VERBS = {
    "prune": [
        "--teacher_model_name_or_path",
        "MODEL",
        "--record_path_or_regex",
        "RECORDS",
        "--num_layer_examples",
        "0",
        "--max_seq_length",
        "16",
    ],
    "convert": [
        "--model_name_or_path",
        "MODEL",
        "--layer",
        "2",
        "--hidden",
        "32",
        "--head",
        "4",
        "--intermediate",
        "24",
        "--keep_layers",
        "0,1",
    ],
    "evaluate": ["--model_name_or_path", "MODEL", "--dev_record_path_or_regex", "RECORDS", "--question", "1 2"],
    "expand-vocab": ["--llama_tokenizer_dir", "MODEL", "--chinese_sp_path", "CHINESE"],
}


def start(verb: str, folder: Path, model: Path, output: Path) -> tuple[int, str]:
    """Run a stage as PID 1 does; exit code and what it wrote."""
    said = io.StringIO()
    places = {"MODEL": model, "RECORDS": folder / "a.tfrecord", "CHINESE": folder / "chinese.model"}
    words = [str(places.get(word, word)) for word in VERBS[verb]]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = launch.run(verb, [*words, "--output_dir", str(output)])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder for each verb, beside the other inputs."""
    place = tmp_path_factory.mktemp("sound")
    drawn = np.random.default_rng(0).integers(3, families.VOCAB, (4, 16))
    records.write(place / "a.tfrecord", [{"indices": ids} for ids in drawn])
    families.write(place / "prune", "Qwen2.5", num_hidden_layers=2)
    families.write(place / "evaluate", "LLaMA-3.2", num_hidden_layers=2)
    folder = families.write(place / "sharded", "SmolLM2")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    code, said = start("prune", place, folder, place / "convert")
    assert code == 0, said
    for of_a_stage in (place / "convert").glob("_*"):
        of_a_stage.unlink()
    english = [line for text in sample.documents("english", 100_000) for line in text.split(". ")]
    tiny.llama(vocab=400).save_pretrained(place / "expand-vocab")
    tokenization.write(init_model.train_sentencepiece(english, 400, "size", byte_fallback=True), place / "expand-vocab")
    chinese = init_model.train_sentencepiece(sample.documents("chinese", 20_000), 500, "size", byte_fallback=False)
    (place / "chinese.model").write_bytes(chinese)
    return place


@pytest.mark.parametrize("verb", VERBS)
def test_sound_folders_work(sound: Path, verb: str, tmp_path: Path) -> None:
    assert start(verb, sound, sound / verb, tmp_path / "out")[0] == 0


@pytest.mark.filterwarnings("ignore")  # What transformers thinks of a damaged file is said on the way, or not.
@pytest.mark.parametrize(
    ("verb", "seeds"),
    [
        ("prune", range(24)),
        *(pytest.param(verb, range(300), marks=pytest.mark.long) for verb in VERBS),
    ],
)
def test_no_damage_ends_in_a_traceback(sound: Path, verb: str, seeds: range, tmp_path: Path) -> None:
    """Files cut, emptied, removed, flipped, left as pointers; JSON with other values: seeds say which."""
    refused = 0
    for seed in seeds:
        folder = damage.copied(sound / verb, tmp_path / "model")
        done = damage.any_of(folder, seed)
        code, said = start(verb, sound, folder, tmp_path / "out")
        assert code in {0, USAGE, DATA, NOT_READY}, f"seed {seed}: {done}: {said}"
        assert "Traceback" not in said, f"seed {seed}: {done}: {said}"
        refused += code != 0
        for place in (folder, tmp_path / "out"):
            shutil.rmtree(place, ignore_errors=True)
    assert len(seeds) / 2 < refused < len(seeds)
