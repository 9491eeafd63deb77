"""Find a network's weights, and the input normalisation that belongs to them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from convlens.core.downloads import checksum, fetch
from convlens.core.errors import UserError
from convlens.models.earlier_run import EarlierRun, read_earlier_run
from convlens.models.normalise import NORMALISATIONS
from convlens.models.timm_networks import list_names, read_timm_config
from convlens.models.weights_file import list_weight_names

ENVIRONMENT = "CONVLENS_WEIGHTS"
FOLDER = Path("weights")
SUFFIXES = (".pth", ".safetensors")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
ANSWER = 10  # seconds to wait for the hub's first response
RANDOM = "or start from random weights with model.weights=none"


@dataclass(frozen=True)
class WeightsFile:
    """A weights file.

    Attributes:
        path: the file.
        mean: mean by channel of the input normalisation that belongs to it.
        std: its standard deviation by channel.
        origin: ``model.weights``, ``weights folder``, ``library cache`` or ``download``.
        earlier_run: the earlier run in the file; None for a library's weights.
        note: one line about how it was read, or empty.
        with_head: whether an earlier run's head was copied too.
    """

    path: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str
    earlier_run: EarlierRun | None = None
    note: str = ""
    with_head: bool = False


@dataclass(frozen=True)
class Official:
    """A file that a library would download.

    Attributes:
        name: the file's name, to search for.
        url: its address; None for a file on the Hugging Face hub.
        hub: id of the hub's repository, or None.
    """

    name: str
    url: str | None
    hub: str | None

    @property
    def cached(self) -> Path | None:
        """The file in the library's cache, or None."""
        if self.url:
            path = _get_torch_hub() / self.name
            return path if path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        for name in HUB_FILES:
            file = try_to_load_from_cache(self.hub, name)
            if isinstance(file, str):
                return Path(file)
        return None

    @property
    def place(self) -> str:
        """The folder of the library's cache, for messages."""
        if self.url:
            return str(_get_torch_hub())
        from huggingface_hub import constants

        return str(constants.HF_HUB_CACHE)


def find_weights(
    network: str, choice: str, *, timm_name: str | None, whole: bool, download: bool = True
) -> WeightsFile | None:
    """Find the weights for a network.

    The order is: ``model.weights=PATH``; a file with the right name in ``weights/`` or
    ``$CONVLENS_WEIGHTS``; the library's cache; the official download, checked by its checksum.

    Args:
        network: ``vgg16``, ``inception_v3`` or ``timm``.
        choice: ``model.weights``: ``auto``, ``none`` or a path.
        timm_name: the name in timm, with or without the tag of its weights.
        whole: whether the classifier is required too.
        download: False returns None instead of downloading.

    Returns:
        The file; None for ``none``.

    Raises:
        UserError: there are no weights.
    """
    if choice == "none":
        return None
    if choice != "auto":
        path = Path(choice).expanduser()
        if not path.is_file():
            raise UserError(
                f"model.weights={choice}: there is no such file; give a .pth or .safetensors file, "
                f"auto, or none to start from random weights"
            )
        if earlier_run := read_earlier_run(path):
            mean, std = earlier_run.normalisation(3) or NORMALISATIONS["unit"]
            return WeightsFile(path, tuple(mean), tuple(std), "model.weights", earlier_run)
        return _describe_file(path, network, timm_name, "model.weights")
    names = _list_prefixes(network, timm_name, whole)
    for folder in _list_folders():
        for path in _list_files(folder, timm_name):
            if not _matches_network(path.name, names, timm_name):
                continue
            # the names of VGG16's files say whether they contain the classifier
            if whole and timm_name and not _has_classifier(path, timm_name):
                continue
            return _describe_file(path, network, timm_name, "weights folder")
    official = _find_official(network, timm_name)
    if official and (path := official.cached):
        return _describe_file(path, network, timm_name, "library cache")
    if not download:
        return None
    path = _download(official, names, network, whole)
    return _describe_file(path, network, timm_name, "download")


def find_pending_download(
    network: str, choice: str, *, timm_name: str | None, whole: bool
) -> str | None:
    """Return the name of the weights file that a run would download, or None.

    Args:
        network: ``vgg16``, ``inception_v3`` or ``timm``.
        choice: ``model.weights``: ``auto``, ``none`` or a path.
        timm_name: the name in timm, with or without the tag of its weights.
        whole: whether the classifier is required too.
    """
    if choice == "none" or find_weights(
        network, choice, timm_name=timm_name, whole=whole, download=False
    ):
        return None
    official = _find_official(network, timm_name)
    if official is None:
        return None
    return f"{official.name} ({official.hub or 'torchvision'})"


def _list_folders() -> list[Path]:
    folder = os.environ.get(ENVIRONMENT)
    return [FOLDER, *([Path(folder).expanduser()] if folder else [])]


def _list_files(folder: Path, timm_name: str | None) -> list[Path]:
    """List the weights files of a folder by name, those with exactly the requested tag first."""
    if not folder.is_dir():
        return []
    try:
        files = [p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file()]
    except OSError as error:
        raise UserError(f"cannot look for weights in {folder}: {error.strerror}") from None
    return sorted(files, key=lambda p: (_find_tagged_name(p.name, timm_name) != timm_name, p.name))


def _find_tagged_name(file: str, timm_name: str | None) -> str | None:
    """Return timm's name with the tag in a file's name (``resnet50.a1_in1k``), or None."""
    import timm

    base = (timm_name or "").partition(".")[0]
    if not file.startswith(f"{base}.") or not base:
        return None
    stem = file.rsplit(".", 1)[0]
    tagged = timm.list_pretrained(f"{base}.*")
    fitting = (n for n in tagged if re.match(rf"{re.escape(n)}(?![a-zA-Z0-9])", stem))
    return max(fitting, key=len, default=None)


def _has_classifier(path: Path, timm_name: str) -> bool:
    """Return whether a file contains the classifier.

    An unreadable file counts as one that does: loading it then reports what is wrong.
    """
    prefixes = read_timm_config(timm_name).get("classifier") or ()
    layers = (prefixes,) if isinstance(prefixes, str) else tuple(prefixes)
    try:
        names = list_weight_names(path)
    except UserError:
        return True
    # keys may have a wrapper's prefix
    return all(any(f".{layer}." in f".{name}" for name in names) for layer in layers)


def _list_prefixes(network: str, timm_name: str | None, whole: bool) -> list[str]:
    """Return the prefixes of file names that are recognised."""
    if network == "vgg16":
        return ["vgg16-"] if whole else ["vgg16_features", "vgg16-"]
    name = timm_name or network
    return list(dict.fromkeys((name, name.partition(".")[0])))


def _matches_network(file: str, names: list[str], timm_name: str | None) -> bool:
    """Return whether a file is of this network, not of another with a longer name."""
    stem = file.rsplit(".", 1)[0]
    tagged = _find_tagged_name(file, timm_name)
    if tagged and "." in timm_name and tagged != timm_name:
        return False
    for name in names:
        ending = stem.removeprefix(name)
        if stem.startswith(name) and not (ending and name[-1].isalnum() and ending[0].isalnum()):
            if timm_name is None:
                return True
            base = timm_name.partition(".")[0]
            longer = (n for n in list_names() if len(n) > len(base) and n.startswith(base))
            return not any(re.match(rf"{re.escape(n)}(?![a-zA-Z0-9])", stem) for n in longer)
    return False


def _describe_file(path: Path, network: str, timm_name: str | None, origin: str) -> WeightsFile:
    """Describe a file, with the normalisation for its name and tag, else for the network."""
    if path.name.startswith("inception_v3_keras"):
        mean, std = (value * 3 for value in NORMALISATIONS["symmetric"])
    elif network == "vgg16":
        mean, std = NORMALISATIONS["imagenet"]
    else:
        settings = read_timm_config(_find_tagged_name(path.name, timm_name) or timm_name)
        mean, std = settings["mean"], settings["std"]
    return WeightsFile(path, tuple(mean), tuple(std), origin)


def _find_official(network: str, timm_name: str | None) -> Official | None:
    if network == "vgg16":
        from torchvision.models import VGG16_Weights

        url = VGG16_Weights.IMAGENET1K_V1.url
        return Official(url.rsplit("/", 1)[1], url, None)
    settings = read_timm_config(timm_name)
    if settings.get("hf_hub_id"):
        return Official(f"{settings['hf_hub_id']}/{HUB_FILES[0]}", None, settings["hf_hub_id"])
    if settings.get("url"):
        return Official(settings["url"].rsplit("/", 1)[1], settings["url"], None)
    return None


def _get_torch_hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download(official: Official | None, names: list[str], network: str, whole: bool) -> Path:
    extra = os.environ.get(ENVIRONMENT)
    folders = f"{FOLDER}/ or ${ENVIRONMENT}" + (f" ({extra})" if extra else "")
    pattern = " or ".join(f"{name}*.pth or .safetensors" for name in names)
    pattern += " with the classifier" if whole else ""
    if official is None:
        raise UserError(
            f"no weights for {network}: no library offers any; put a file {pattern} into "
            f"{folders}, name one with model.weights=PATH, {RANDOM}"
        )
    if official.url:
        digits = re.search(r"-([0-9a-f]{8,})\.", official.name)
        return fetch(
            official.url,
            _get_torch_hub() / official.name,
            sha256=digits.group(1) if digits else None,
            way_out=f"put {official.name} into {official.place}, or a file {pattern} into "
            f"{folders}, name one with model.weights=PATH, {RANDOM}",
        )
    # users cannot put a file into that cache: its folders are named after commits
    way_out = (
        f"put {official.name} into {folders} as {names[0]}.safetensors ({pattern} works too), name "
        f"a file with model.weights=PATH, {RANDOM}"
    )
    return _download_from_hub(official, way_out)


def _download_from_hub(official: Official, way_out: str) -> Path:
    """Download with Hugging Face's client, then compare the checksum with the file's etag."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    problem = ""
    for name in HUB_FILES:
        try:
            # ask quickly first: the download itself would retry for a minute
            metadata = get_hf_file_metadata(hf_hub_url(official.hub, name), timeout=ANSWER)
            path = Path(hf_hub_download(official.hub, name, etag_timeout=ANSWER))
            same = not _is_sha256(metadata.etag) or checksum(path, "sha256") == metadata.etag
            if not same:  # otherwise the next run would use it from the cache, unchecked
                blob = path.resolve()
                path.unlink()
                blob.unlink(missing_ok=True)
        except Exception as error:  # the hub, the network or the disk can raise anything
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            problem = problem or first.split(". ")[0][:160]
            if isinstance(error, EntryNotFoundError):
                continue
            break
        if not same:
            raise UserError(
                f"{official.name} has another SHA-256 than the hub states and was removed; start "
                f"again, or {way_out}"
            )
        return path
    raise UserError(
        f"no weights for {official.hub}: none in {official.place}, and the download failed "
        f"({problem}); {way_out}"
    )


def _is_sha256(etag: str | None) -> bool:
    """Return whether an etag is a SHA-256, as for large files; small ones have git's SHA-1."""
    return bool(etag and re.fullmatch(r"[0-9a-f]{64}", etag))
