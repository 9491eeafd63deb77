"""ONNX files: written by torch's exporter, run by ONNX Runtime.

Shapes: ``B`` images, ``C`` channels, ``H W`` image size, ``K`` classes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.export.answers import GRAD_CAM, INPUT, LOGITS

# The opset that torch's exporter is written for, in all its versions: later ones are converted.
# ONNX Runtime reads it from version 1.14 on.
OPSET = 18
LARGEST = 2**31 - 1  # bytes of a protobuf message, and so of a file without a second one beside it
WRITES = ("onnx", "onnxscript", "onnxruntime")
READS = ("onnxruntime",)


def check_installed(packages: Sequence[str], what: str) -> None:
    """Check that packages are installed.

    Args:
        packages: names of modules.
        what: what needs them, for the error.

    Raises:
        UserError: one is missing; the error states the command that installs all.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {', '.join(missing)}, which is not installed: "
            f"`pip install 'convlens[export]'`"
        )


def convert(module: nn.Module, example: Tensor, outputs: Sequence[str]) -> bytes:
    """Return a network as the content of an ONNX file, without metadata.

    Args:
        module: a function of images, with one output for each name.
        example: ``(2, C, H, W)``; the file takes any number of images of this size.
        outputs: names of the outputs.

    Raises:
        UserError: the file would be larger than ONNX allows, or ONNX lacks an operator.
        Exception: torch cannot export the network; the type depends on the reason.
    """
    size = sum(each.nbytes for each in (*module.parameters(), *module.buffers()))
    if size > LARGEST:
        raise UserError(
            f"format=onnx: weights of {size / 1e9:.1f} GB do not fit into one ONNX file (2 GB); "
            f"try format=torch_export or format=safetensors"
        )
    with _quiet(), _name_operator(GRAD_CAM in outputs):
        program = torch.onnx.export(
            module, (example,), input_names=[INPUT], output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},), opset_version=OPSET,
            dynamo=True, verbose=False,
        )  # fmt: skip
    return program.model_proto.SerializeToString()


def add_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the content of an ONNX file with texts added by name."""
    import onnx

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, dict(metadata))
    model.producer_name = "convlens"
    return model.SerializeToString()


@contextlib.contextmanager
def _name_operator(with_map: bool) -> Iterator[None]:
    """Convert the error about an operator that ONNX lacks, which torch buries in its progress."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            text = str(cause)
            if found := re.search(r"No ONNX function found for <OpOverload\(op\W+([\w.]+)'", text):
                what = "the map of cam=true" if with_map else "this network"
                raise UserError(
                    f"format=onnx: ONNX has no operator for {found[1]}, which {what} needs; "
                    f"try format=torch_export"
                ) from error
            cause = cause.__cause__
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says about itself; errors are raised as usual."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for each in loggers:
                each.setLevel(logging.ERROR)
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: images ``(B, C, H, W)`` in [0, 1] to logits, on the CPU.

    Args:
        content: the file, or its content.
        where: its name, for errors.

    Attributes:
        metadata: the texts in the file, by name.
        outputs: the names of its outputs.

    Raises:
        UserError: ONNX Runtime is not installed or cannot read the file.
    """

    def __init__(self, content: Path | bytes, where: str):
        super().__init__()
        check_installed(READS, where)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        source = content if isinstance(content, bytes) else str(content)
        try:
            self._session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has an exception for each of its states
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{where} is not a readable ONNX file ({reason})") from None
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.outputs = [each.name for each in self._session.get_outputs()]

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images, [LOGITS])[LOGITS]

    def run(self, images: Tensor, outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return some outputs by name, or all.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            outputs: their names; none for all.
        """
        names = list(outputs) or self.outputs
        pixels = np.ascontiguousarray(images.detach().cpu().float().numpy())
        values = self._session.run(names, {INPUT: pixels})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
