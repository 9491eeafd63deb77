"""Checkpoints and weights files: damaged, foreign, with a false size, or made to run code."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import nn

from convlens.config.compose import compose
from convlens.config.migrate import dump_config
from convlens.models.state import load_weights
from convlens.models.weights_file import list_weight_names
from support.fuzz_pickles import claims_gigabytes, contained, evil, gadgets
from support.fuzz_pictures import peak_megabytes
from support.fuzz_surface import Surface, expect, judged, mutated, mutations, silent
from support.fuzz_words import BASE

MEGABYTES = 400  # growth of the process allowed for reading a checkpoint of some kilobytes
_LEAVES = (
    None, True, -1, 0, 1, 3, 2**40, 2**70, 0.5, float("nan"), float("inf"), "", "x", "auto", [], {},
    [0], [None], ["a", "b"], {"a": 1}, "os.system", "builtins.exec", "convlens.callbacks.Ledger",
    {"_target_": "os.system", "command": "x"}, (1, 2), "<b>", "x" * 1000,
)  # fmt: skip


def checkpoint() -> dict:
    """Return a small valid checkpoint, as a run of a second writes it."""
    from convlens.experiment.module import build_module

    config = compose([*BASE, "training.epochs=2", "callbacks=all"])
    module = build_module(config, ["a", "b", "c", "d", "e"], pretrained=False)
    return {
        "epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.6.0",
        "state_dict": module.state_dict(), "loops": {}, "callbacks": {}, "optimizer_states": [],
        "lr_schedulers": [], 
        "hyper_parameters": {"config": dump_config(config), "class_names": list("abcde")},
        "convlens_record": {0: {"val/loss": 1.0}},
    }  # fmt: skip


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def paths_in(value: object, prefix: tuple = ()) -> list[tuple]:
    """Yield the paths of all values in nested dictionaries."""
    found = [prefix] if prefix else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += paths_in(inner, (*prefix, key))
    return found


def put(content: dict, path: tuple, value: object) -> dict:
    """Return a copy with one value replaced; ``...`` removes it."""
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def odd_tensor(kind: int, like: torch.Tensor) -> object:
    """Return something unsuitable in place of a tensor."""
    return (
        torch.full_like(like, float("nan")), torch.full_like(like, float("inf")),
        like.flatten()[:0], torch.zeros(3), torch.zeros(()), like.to(torch.complex64),
        like.bool(), like.half(),
        torch.zeros(1).expand(2**33), torch.zeros(like.shape, device="meta"),
        like.to_sparse(), torch.zeros(()).expand(like.shape), like.double() * 1e300, "text", None,
    )[kind % 15]  # fmt: skip


damaged = st.tuples(st.just("damaged"), mutations)
changed = st.tuples(st.just("changed"), st.integers(0, 2**16), st.integers(0, len(_LEAVES)))
tensors = st.tuples(st.just("tensor"), st.integers(0, 2**16), st.integers(0, 14))
foreign = st.tuples(st.just("foreign"), st.integers(0, 9))
sized = st.tuples(st.just("sized"), st.integers(0, 30))


def start_checkpoints(folder: Path):
    from convlens.experiment.networks import load

    canary, path = folder / "canary", folder / "best.ckpt"
    whole = checkpoint()
    data, legacy = saved(whole), saved(whole, _use_new_zipfile_serialization=False)
    pickles, places = gadgets(canary), paths_in({k: whole[k] for k in whole if k != "state_dict"})
    peak = peak_megabytes()

    def file_of(value: tuple) -> bytes:
        match value:
            case ("damaged", ops):
                return mutated(legacy if ops[0][1] % 3 == 0 else data, ops, legacy)
            case ("changed", place, leaf):
                chosen = places[place % len(places)]
                return saved(put(whole, chosen, (*_LEAVES, ...)[leaf]))
            case ("tensor", place, kind):
                names = sorted(whole["state_dict"])
                name = names[place % len(names)]
                odd = odd_tensor(kind, whole["state_dict"][name].float())
                return saved(put(whole, ("state_dict", name), odd))
            case ("evil", number, container):
                return contained(pickles[number % len(pickles)], container)
            case ("foreign", number):
                return foreign_file(number, whole)
            case ("sized", entry):
                return claims_gigabytes(data, entry)
        raise ValueError(value)

    def case(value: tuple) -> str:
        path.write_bytes(file_of(value))

        with silent():
            outcome = judged(lambda: load(path), 15)
        expect(not canary.exists(), "code out of the file was run")
        grown = peak_megabytes() - peak
        expect(grown < MEGABYTES, f"the process grew by {grown:.0f} MB")
        return outcome

    return case


def foreign_file(number: int, whole: dict) -> bytes:
    """Draw valid files of another kind."""
    return (
        lambda: saved(whole["state_dict"]), lambda: saved({"state_dict": {}, "epoch": 1}),
        lambda: saved({**whole, "hyper_parameters": {"lr": 0.1}}), lambda: saved([1, 2, 3]),
        lambda: saved(torch.zeros(3)), lambda: save_safetensors({"a": torch.zeros(3)}),
        lambda: b"", lambda: b"PK\x05\x06" + bytes(18), lambda: b"\x80\x02}q\x00.",
        lambda: saved({**whole, "hyper_parameters": {**whole["hyper_parameters"],
                                                     "class_names": ["<script>", "b"]}}),
    )[number % 10]()  # fmt: skip


# --------------------------------------------------------------------------------------- weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


class _At:
    def __init__(self, path: Path):
        self.path = path


def start_weights(folder: Path):
    canary, model, state = folder / "canary", network(), network().state_dict()
    files = {".pth": saved(state), ".safetensors": save_safetensors(state),
             ".old.pth": saved(state, _use_new_zipfile_serialization=False)}  # fmt: skip
    pickles, peak = gadgets(canary), peak_megabytes()

    def file_of(value: tuple) -> tuple[str, bytes]:
        match value:
            case ("damaged", ops):
                kind = sorted(files)[ops[0][2] % 3]
                return kind, mutated(files[kind], ops, files[".pth"])
            case ("changed", place, leaf):
                name = sorted(state)[place % len(state)]
                return ".pth", saved(put(dict(state), (name,), (*_LEAVES, ...)[leaf]))
            case ("tensor", place, kind):
                name = sorted(state)[place % len(state)]
                changed = {**state, name: odd_tensor(kind, state[name].float())}
                if kind % 2 and isinstance(changed[name], torch.Tensor):
                    try:
                        return ".safetensors", save_safetensors(changed)
                    except Exception:  # such a file cannot be written: sparse, or not in memory
                        pass
                return ".pth", saved(changed)
            case ("evil", number, container):
                suffix = (".pth", ".safetensors")[number % 5 == 0]
                return suffix, contained(pickles[number % len(pickles)], container)
            case ("foreign", number):
                return ".pth", foreign_file(number, {"state_dict": state, "hyper_parameters": {}})
            case ("sized", entry):
                return ".pth", claims_gigabytes(files[".pth"], entry)
        raise ValueError(value)

    def case(value: tuple) -> str:
        suffix, content = file_of(value)
        path = folder / f"weights{suffix}"
        path.write_bytes(content)
        with silent():
            judged(lambda: list_weight_names(path))
            outcome = judged(lambda: load_weights(model, _At(path), classifier=()))
        expect(not canary.exists(), "code out of the file was run")
        finite = all(bool(v.isfinite().all()) for v in model.state_dict().values())
        expect(finite, "weights that are no numbers were loaded")
        grown = peak_megabytes() - peak
        expect(grown < MEGABYTES, f"the process grew by {grown:.0f} MB")
        return outcome

    return case


CHECKPOINTS = Surface(
    "checkpoints", st.one_of(damaged, changed, changed, tensors, evil, foreign, sized),
    start_checkpoints, 60,
)  # fmt: skip
WEIGHTS = Surface(
    "weights files", st.one_of(damaged, damaged, tensors, changed, evil, foreign, sized),
    start_weights, 150,
)  # fmt: skip
