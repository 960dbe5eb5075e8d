"""Checkpoints of a training run, in a format that any number of processes and any ZeRO stage can read.

`checkpoints/step-00000123/` holds for each process one safetensors file with its fragments of the fp32 weights and of Adam's
two moments, by parameter name, and manifest.json, written last: which fragment is where, the SHA-256 of each file, and the
state of the loop. ZeRO has cut the parameters among the processes already, so nothing is gathered and all write at once, into
the folder of the first one's lease; one rename brings it into place.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minima.errors import DataError, LostPeerError
from minima.training.engine import Group
from minima.workspace.artifact import Output
from minima.workspace.files import file_digest, sync
from minima.workspace.marker import CHECKPOINTS, STEP, STEPS

FORMAT = 1
MANIFEST = "manifest.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """A run of elements of a flattened parameter that this process owns.

    Attributes:
        name: of the parameter.
        start: its first element within the parameter.
        flat: the tensor of the optimizer that holds it.
        place: where in `flat`.
    """

    name: str
    start: int
    flat: Tensor
    place: slice

    @property
    def end(self) -> int:
        """One past its last element within the parameter."""
        return self.start + self.place.stop - self.place.start


def fragments(engine: Any) -> list[Fragment]:
    """What this process owns of the trained parameters, as ZeRO 1 and 2 cut them."""
    flats = [group["params"][0] for group in engine.basic_optimizer.param_groups]
    found = []
    for parameter, name in engine.param_names.items():
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is None:
            continue  # Frozen, or all of it belongs to others.
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        flat = flats[mapping.param_group_index]
        found.append(Fragment(name, there.start, flat, slice(here.start, here.start + here.numel)))
    return found


def folders(output: Path) -> list[Path]:
    """The checkpoints in an artifact's folder, newest first, valid or not."""
    return sorted((output / CHECKPOINTS).glob(STEPS), reverse=True)


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(folder.name.removeprefix(STEP))


def save(engine: Any, state: Mapping[str, Any], step: int, output: Output, group: Group, keep: set[int], newest: int) -> None:
    """Write the checkpoint of `step`; it is there for all processes when this returns.

    Args:
        engine: of DeepSpeed, ZeRO stage 1 or 2, between two steps.
        state: what the loop must know to go on; JSON.
        step: number of optimizer steps done.
        output: the artifact.
        group: all processes take part.
        keep: steps whose checkpoints stay in any case.
        newest: number of checkpoints that stay beside this one.
    """
    name = f"{CHECKPOINTS}/{STEP}{step:08d}"
    lease = output.lease
    if lease:
        (lease.making / CHECKPOINTS).mkdir(exist_ok=True)
        (lease.making / name).mkdir()
    made = Path(group.gather(str(lease.making / name) if lease else "")[0])
    optimizer = engine.basic_optimizer
    mine = fragments(engine)
    tensors = {f"weight/{p.name}": p.flat.detach()[p.place] for p in mine}
    for p in mine:
        tensors |= {f"{moment}/{p.name}": optimizer.state[p.flat][moment][p.place] for moment in MOMENTS}
    file = made / f"process-{group.rank:05d}.safetensors"
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        sync(file)
        digest = file_digest(file)
    except (OSError, SafetensorError) as error:
        if made.is_dir():
            raise
        raise LostPeerError(f"the first process lost its lease, so its folder {made} is gone; run again") from error
    reports = group.gather((file.name, digest, [(p.name, p.start, p.end) for p in mine]))
    if lease:
        manifest = {
            "format": FORMAT,
            "state": dict(state),
            "adam_step": int(next(iter(optimizer.state.values()))["step"]),
            "files": {name: digest for name, digest, _ in reports},
            "fragments": [[name, *fragment] for name, _, owned in reports for fragment in owned],
        }
        (made / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        sync(made / MANIFEST)
        sync(made)
        lease.put(name)
        others = [folder for folder in folders(output.place) if step_of(folder) != step and step_of(folder) not in keep]
        for old in others[newest:]:
            lease.take(f"{CHECKPOINTS}/{old.name}")
    group.sum(0)


def latest(output: Output, group: Group) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and its state; None if there is none.

    One that is not whole is named on stderr, and removed: it must not count as one of the newest that are kept. The processes
    share the hashing, and agree.
    """
    candidates: list[Path] = group.gather(folders(output.place))[0]
    for folder in candidates:
        wrong = next((w for w in group.gather(faults(folder, group.rank, group.world)) if w), None)
        if wrong is None:
            return folder, _manifest(folder)["state"]
        if output.lease:
            print(f"checkpoint {folder} is not used: {wrong}; going on from the one before", file=sys.stderr, flush=True)
            output.lease.take(f"{CHECKPOINTS}/{folder.name}")
    return None


def faults(folder: Path, rank: int = 0, world: int = 1) -> str | None:
    """What is wrong with every `world`-th file of a checkpoint, from `rank` on, or with its manifest; None if nothing."""
    try:
        manifest = _manifest(folder)
    except DataError as error:
        return str(error)
    for name in sorted(manifest["files"])[rank::world]:
        place = folder / name
        if not place.is_file():
            return f"{name} is missing"
        if file_digest(place) != manifest["files"][name]:
            return f"{name} is not what was written (SHA-256 differs from {MANIFEST})"
    return None


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{MANIFEST} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{MANIFEST} has another format, this version reads {FORMAT}")
    return manifest


def load(engine: Any, folder: Path) -> None:
    """Put the weights and moments of a checkpoint, made by any number of processes, into the engine.

    Raises:
        DataError: it lacks a part of a parameter.
    """
    manifest = _manifest(folder)
    optimizer = engine.basic_optimizer
    mine = fragments(engine)
    with torch.no_grad():
        for flat in {id(p.flat): p.flat for p in mine}.values():
            step = torch.tensor(float(manifest["adam_step"]), device=flat.device)
            optimizer.state[flat] = {"step": step, **{moment: torch.zeros_like(flat) for moment in MOMENTS}}
        by_name: dict[str, list[tuple[str, int, int]]] = {}
        for file, name, start, end in manifest["fragments"]:
            by_name.setdefault(name, []).append((file, start, end))
        opened = {name: safe_open(folder / name, framework="pt") for name in manifest["files"]}
        for fragment in mine:
            done = 0
            for file, first, start, end in _overlaps(fragment, by_name.get(fragment.name, [])):
                target = slice(fragment.place.start + start - fragment.start, fragment.place.start + end - fragment.start)
                source = slice(start - first, end - first)
                fragment.flat[target] = opened[file].get_slice(f"weight/{fragment.name}")[source].to(fragment.flat.device)
                for moment in MOMENTS:
                    values = opened[file].get_slice(f"{moment}/{fragment.name}")[source]
                    optimizer.state[fragment.flat][moment][target] = values.to(fragment.flat.device)
                done += end - start
            if done != fragment.end - fragment.start:
                raise DataError(f"{folder}: lacks a part of {fragment.name}; set the folder aside and run again")
    engine.optimizer.update_lp_params()


def _overlaps(fragment: Fragment, there: list[tuple[str, int, int]]) -> Iterator[tuple[str, int, int, int]]:
    """File, where its fragment begins, and the part [start, end) of the parameter that is wanted from it."""
    for file, first, last in there:
        start, end = max(first, fragment.start), min(last, fragment.end)
        if start < end:
            yield file, first, start, end
