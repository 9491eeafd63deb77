"""Pickles that would run code, in every container that ``torch.load`` reads."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st


class Gadget:
    """Calls ``function(*arguments)`` when an unsafe reader unpickles it."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadgets(canary: Path) -> list[bytes]:
    """Return pickles that would write ``canary``, each in another way."""
    import builtins
    import os
    import subprocess

    touch = f"touch '{canary}'"
    write = f"open({str(canary)!r}, 'w').close()"
    objects = [
        Gadget(os.system, touch), Gadget(builtins.exec, write), Gadget(builtins.eval, write),
        Gadget(subprocess.call, ["touch", str(canary)]), Gadget(builtins.open, str(canary), "w"),
        Gadget(torch.save, {}, str(canary)), Gadget(Path.touch, canary),
        {"hyper_parameters": {"config": Gadget(os.system, touch), "class_names": ["a", "b"]}},
        {"state_dict": Gadget(os.system, touch)}, [Gadget(os.mkdir, str(canary))],
    ]  # fmt: skip
    found = [pickle.dumps(each, protocol=2) for each in objects]
    found += [pickle.dumps(each, protocol=4) for each in objects[:3]]
    quoted = repr(touch).encode()
    found += [
        b"cos\nsystem\n(S" + quoted + b"\ntR.",
        b"(S" + quoted + b"\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS" + quoted + b"\no.",  # OBJ
        b"cposix\nsystem\n(S" + quoted + b"\ntR.",
        # by an attribute of an allowed name
        b"\x80\x04\x8c\x05torch\x8c\x12serialization.os.x\x93.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n(S" + quoted + b"\ntRtR.",
        b"cbuiltins\ngetattr\n(cos\nenviron\nS'x'\ntR.",
    ]  # fmt: skip
    return found


def contained(pickled: bytes, container: str) -> bytes:
    """Wrap the pickle as a file of ``torch.save`` (zip or legacy), or leave it alone."""
    if container == "plain":
        return pickled
    if container == "legacy":
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
        version = pickle.dumps(1001, protocol=2)
        system = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {
            "short": 2, "int": 4, "long": 4}}, protocol=2)  # fmt: skip
        return magic + version + system + pickled + pickle.dumps([], protocol=2)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def claims_gigabytes(content: bytes, entry: int) -> bytes:
    """Return a zip whose directory claims that an entry unpacks to almost four gigabytes."""
    data, at = bytearray(content), 0
    for _ in range(entry + 1):
        found = data.find(b"PK\x01\x02", at)
        if found < 0:
            break
        at = found + 4
    if at >= 4:
        data[at + 16 : at + 24] = struct.pack("<II", 0xFFFFFF00, 0xFFFFFF00)
    return bytes(data)


evil = st.tuples(st.just("evil"), st.integers(0, 30), st.sampled_from(("zip", "legacy", "plain")))
"""Which gadget, in which container."""
