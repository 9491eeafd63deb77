"""A page for dropped images: classes, and a map over the photograph with adjustable opacity.

The page is made with Gradio. It listens on this machine only, unless another address is given.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convlens.core.errors import Interrupted, UserError
from convlens.draw.colour import find_full_colour_value
from convlens.draw.photograph import fit_photograph, overlay_map, overlay_signed_map
from convlens.experiment.explainer import Explainer
from convlens.explain.occlusion import LEAST

if TYPE_CHECKING:
    from gradio import Blocks

METHODS = {"Grad-CAM": "grad_cam", "occlusion": "occlusion"}
_TOP = 5  # classes listed
_EDGE = 480  # longest side of the photograph, pixels
_OPACITY = 0.8  # at first, of the map
_KEPT = 600  # seconds for which Gradio keeps dropped images

Classes = dict[str, float]


@dataclass(frozen=True, eq=False)
class Overlay:
    """A photograph and the same with a map drawn over it.

    Attributes:
        picture: uint8 ``(H, W, 3)``; what the network does not see is darker.
        covered: uint8 ``(H, W, 3)``, with the whole map.
        caption: what the map shows, in a sentence.
    """

    picture: np.ndarray
    covered: np.ndarray
    caption: str

    def mix(self, opacity: float) -> np.ndarray:
        """Return the photograph with so much of the map over it, uint8 ``(H, W, 3)``.

        Args:
            opacity: 0 for the photograph alone, 1 for the whole map.
        """
        low, high = (each.astype(np.float32) for each in (self.picture, self.covered))
        return np.rint(low + opacity * (high - low)).astype(np.uint8)


def answer(explainer: Explainer, file: str, method: str) -> tuple[Classes, Overlay]:
    """Return the most probable classes of an image, and the map of the first of them.

    Args:
        explainer: the network.
        file: the image.
        method: a value of ``METHODS``.

    Raises:
        UserError: the image cannot be decoded, or the network has no such map.
    """
    found = explainer.explain(file, only=[method])
    picture, frame = fit_photograph(found.photograph, _EDGE), found.photograph.frame
    name = found.class_names[found.targets[0]]
    if method == "grad_cam":
        ((layer, maps),) = found.grad_cam.items()
        high = float(maps.max())
        covered = overlay_map(picture, maps[0].numpy(), frame, high=high)
        caption = f"The brighter a region, the more evidence {layer} finds there for {name}."
        if not high > 0:
            caption = f"The map is empty: {layer} finds no evidence for {name}."
    else:
        values = found.maps[method][0].numpy()
        high = max(LEAST, find_full_colour_value(values))
        covered = overlay_signed_map(picture, values, frame, high=high)
        caption = f"Covering a red region lowers the logit of {name}; a blue one raises it."
    if explainer.thresholds is not None:
        predicted = ", ".join(found.class_names[number] for number in found.predicted)
        caption += f" Predicted: {predicted or 'none of the classes'}."
    return dict(found.top(_TOP)), Overlay(picture, covered, caption)


def build_page(explainer: Explainer, network: str) -> Blocks:
    """Return the page, which is not yet served.

    Args:
        explainer: the network.
        network: its name on the page.
    """
    # before the import: Gradio would send statistics about the page
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    lock = threading.Lock()  # explaining hooks the network's layers

    def show(file: str | None, method: str, opacity: float):
        if file is None:
            return None, None, None, ""
        try:
            with lock:
                classes, overlay = answer(explainer, file, METHODS[method])
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return classes, overlay, overlay.mix(opacity), overlay.caption

    def fade(overlay: Overlay | None, opacity: float) -> np.ndarray | None:
        return None if overlay is None else overlay.mix(opacity)

    with gr.Blocks(title="convlens", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        gr.Markdown(f"Network: `{network.replace('`', ' ')}`")
        overlay = gr.State()
        with gr.Row():
            with gr.Column():
                # the file as it is: the network's own rule decodes and resizes it
                image = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"],
                    label="image", elem_id="image",
                )  # fmt: skip
                classes = gr.Label(num_top_classes=_TOP, label="classes", elem_id="classes")
            with gr.Column():
                drawn = gr.Image(
                    format="png", interactive=False, label="map of the first class", elem_id="map",
                    buttons=["download", "fullscreen"],
                )  # fmt: skip
                caption = gr.Textbox(
                    interactive=False, show_label=False, container=False, elem_id="caption"
                )
                opacity = gr.Slider(0, 1, _OPACITY, step=0.05, label="opacity", elem_id="opacity")
                method = gr.Radio([*METHODS], value="Grad-CAM", label="method", elem_id="method")
        gr.on(
            [image.change, method.change], show, inputs=[image, method, opacity],
            outputs=[classes, overlay, drawn, caption], trigger_mode="always_last",
        )  # fmt: skip
        opacity.change(
            fade, inputs=[overlay, opacity], outputs=drawn, show_progress="hidden",
            trigger_mode="always_last",
        )  # fmt: skip
    return page


def check_installed() -> None:
    """Check that Gradio is installed.

    Raises:
        UserError: it is not; the error states the command that installs it.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError(
            "serve needs gradio, which is not installed: `pip install 'convlens[serve]'`"
        )


def start(page: Blocks, *, host: str, port: int) -> str:
    """Serve a page from threads of this process, and return its address.

    Args:
        page: the page; ``page.close()`` ends it.
        host: the address to listen on.
        port: the port; 0 for any free one.

    Raises:
        UserError: the port is in use.
    """
    try:
        page.launch(
            server_name=host, server_port=port or _find_free_port(), share=False, quiet=True,
            prevent_thread_lock=True, show_error=True, ssr_mode=False, inbrowser=False,
        )  # fmt: skip
    except OSError as error:
        raise UserError(
            f"port={port} host={host} cannot be served: is the port in use? port=0 uses a free one"
        ) from error
    return str(page.local_url)


def serve(
    explainer: Explainer, network: str, *, host: str, port: int, say: Callable[[str], object]
) -> int:
    """Serve the page until Ctrl-C, and return the exit status.

    Args:
        explainer: the network.
        network: its name on the page.
        host: the address to listen on.
        port: the port; 0 for any free one.
        say: prints a line.

    Raises:
        UserError: the port is in use.
    """
    page = build_page(explainer, network)
    say(f"serving  {start(page, host=host, port=port)}  (Ctrl-C stops it)")
    try:
        threading.Event().wait()
    except Interrupted:  # SIGTERM
        raise
    except KeyboardInterrupt:  # Ctrl-C is the usual end
        pass
    finally:
        page.close(verbose=False)
    return 0


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
