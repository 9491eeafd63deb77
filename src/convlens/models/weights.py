"""Where a network's weights come from, and which input normalisation belongs to them."""

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
ANSWER = 10  # seconds for the hub's first answer
RANDOM = "or start at random with model.weights=none"


@dataclass(frozen=True)
class WeightsFile:
    """A weights file.

    Attributes:
        path: of the file.
        mean, std: by channel, of the input normalisation that belongs to it.
        origin: ``model.weights``, ``weights folder``, ``library cache`` or ``download``.
        earlier_run: what the file holds of an earlier run; None for a library's weights.
        note: one line about how it was read, or nothing.
        with_head: whether an earlier run's head was taken over too.
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
    """What a library would download, and where it would lie.

    Attributes:
        name: of the file, as one would look for it.
        url: its address, or None for a file on the Hugging Face hub.
        hub: id of the hub's repository, or None.
    """

    name: str
    url: str | None
    hub: str | None

    @property
    def cached(self) -> Path | None:
        """The file in the library's cache, if it is there."""
        if self.url:
            path = _torch_hub() / self.name
            return path if path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        for name in HUB_FILES:
            found = try_to_load_from_cache(self.hub, name)
            if isinstance(found, str):
                return Path(found)
        return None

    @property
    def place(self) -> str:
        """Where the library keeps it, for messages."""
        if self.url:
            return str(_torch_hub())
        from huggingface_hub import constants

        return str(constants.HF_HUB_CACHE)


def find_weights(
    network: str, asked: str, *, timm_name: str | None, whole: bool, download: bool = True
) -> WeightsFile | None:
    """The weights for a network, looked for in the order of the config's promise.

    ``model.weights=PATH``; a file of the right name in ``weights/`` or ``$CONVLENS_WEIGHTS``; the
    library's cache; the official download, with a progress bar and its checksum.

    Args:
        network: ``vgg16``, ``inception_v3`` or ``timm``.
        asked: ``auto``, ``none`` or a path.
        timm_name: the name in timm, with or without the tag of its weights.
        whole: whether the classifier is wanted too: a file of the base alone does not do.
        download: False gives None where only a download is left.

    Returns:
        None for ``none``.

    Raises:
        UserError: one line, where nothing can be had.
    """
    if asked == "none":
        return None
    if asked != "auto":
        path = Path(asked).expanduser()
        if not path.is_file():
            raise UserError(
                f"model.weights={asked}: there is no such file; give a .pth or .safetensors file, "
                f"auto, or none to start at random"
            )
        if earlier_run := read_earlier_run(path):
            mean, std = earlier_run.normalisation(3) or NORMALISATIONS["unit"]
            return WeightsFile(path, tuple(mean), tuple(std), "model.weights", earlier_run)
        return _found(path, network, timm_name, "model.weights")
    names = _patterns(network, timm_name, whole)
    for folder in _folders():
        for path in _files(folder, timm_name):
            if not _is_of(path.name, names, timm_name):
                continue
            # VGG16's names tell by themselves whether the classifier is in the file
            if whole and timm_name and not _has_classifier(path, timm_name):
                continue
            return _found(path, network, timm_name, "weights folder")
    official = _official(network, timm_name)
    if official and (path := official.cached):
        return _found(path, network, timm_name, "library cache")
    if not download:
        return None
    path = _downloaded(official, names, network, whole)
    return _found(path, network, timm_name, "download")


def find_pending_download(
    network: str, asked: str, *, timm_name: str | None, whole: bool
) -> str | None:
    """What a run would download as weights, as a person would look for it; None for nothing."""
    if asked == "none" or find_weights(
        network, asked, timm_name=timm_name, whole=whole, download=False
    ):
        return None
    official = _official(network, timm_name)
    if official is None:
        return None
    return f"{official.name} ({official.hub or 'torchvision'})"


def _folders() -> list[Path]:
    given = os.environ.get(ENVIRONMENT)
    return [FOLDER, *([Path(given).expanduser()] if given else [])]


def _files(folder: Path, timm_name: str | None) -> list[Path]:
    """Weights files of a folder by name, but those of exactly the wanted tag first."""
    if not folder.is_dir():
        return []
    try:
        files = [p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file()]
    except OSError as error:
        raise UserError(f"cannot look for weights in {folder}: {error.strerror}") from None
    return sorted(files, key=lambda p: (_with_tag(p.name, timm_name) != timm_name, p.name))


def _with_tag(file: str, timm_name: str | None) -> str | None:
    """timm's name with the tag that a file's name carries (``resnet50.a1_in1k``), or None."""
    import timm

    base = (timm_name or "").partition(".")[0]
    if not file.startswith(f"{base}.") or not base:
        return None
    stem = file.rsplit(".", 1)[0]
    tagged = timm.list_pretrained(f"{base}.*")
    fitting = (n for n in tagged if re.match(rf"{re.escape(n)}(?![a-zA-Z0-9])", stem))
    return max(fitting, key=len, default=None)


def _has_classifier(path: Path, timm_name: str) -> bool:
    """Whether a file holds a network's classifier; a file that cannot be read counts as one that
    does: it is not passed over in silence, reading it tells what is wrong."""
    told = read_timm_config(timm_name).get("classifier") or ()
    layers = (told,) if isinstance(told, str) else tuple(told)
    try:
        names = list_weight_names(path)
    except UserError:
        return True
    # a wrapper's prefix may stand before them
    return all(any(f".{layer}." in f".{name}" for name in names) for layer in layers)


def _patterns(network: str, timm_name: str | None, whole: bool) -> list[str]:
    """Beginnings of file names that are understood."""
    if network == "vgg16":
        return ["vgg16-"] if whole else ["vgg16_features", "vgg16-"]
    name = timm_name or network
    return list(dict.fromkeys((name, name.partition(".")[0])))


def _is_of(file: str, names: list[str], timm_name: str | None) -> bool:
    """Whether a file is this network's and not that of another with a longer name."""
    stem = file.rsplit(".", 1)[0]
    tagged = _with_tag(file, timm_name)
    if tagged and "." in timm_name and tagged != timm_name:
        return False
    for name in names:
        rest = stem.removeprefix(name)
        if stem.startswith(name) and not (rest and name[-1].isalnum() and rest[0].isalnum()):
            if timm_name is None:
                return True
            base = timm_name.partition(".")[0]
            longer = (n for n in list_names() if len(n) > len(base) and n.startswith(base))
            return not any(re.match(rf"{re.escape(n)}(?![a-zA-Z0-9])", stem) for n in longer)
    return False


def _found(path: Path, network: str, timm_name: str | None, origin: str) -> WeightsFile:
    """With the normalisation that belongs to the file's name and tag, else to the network."""
    if path.name.startswith("inception_v3_keras"):
        mean, std = (value * 3 for value in NORMALISATIONS["symmetric"])
    elif network == "vgg16":
        mean, std = NORMALISATIONS["imagenet"]
    else:
        told = read_timm_config(_with_tag(path.name, timm_name) or timm_name)
        mean, std = told["mean"], told["std"]
    return WeightsFile(path, tuple(mean), tuple(std), origin)


def _official(network: str, timm_name: str | None) -> Official | None:
    if network == "vgg16":
        from torchvision.models import VGG16_Weights

        url = VGG16_Weights.IMAGENET1K_V1.url
        return Official(url.rsplit("/", 1)[1], url, None)
    told = read_timm_config(timm_name)
    if told.get("hf_hub_id"):
        return Official(f"{told['hf_hub_id']}/{HUB_FILES[0]}", None, told["hf_hub_id"])
    if told.get("url"):
        return Official(told["url"].rsplit("/", 1)[1], told["url"], None)
    return None


def _torch_hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _downloaded(official: Official | None, names: list[str], network: str, whole: bool) -> Path:
    given = os.environ.get(ENVIRONMENT)
    folders = f"{FOLDER}/ or ${ENVIRONMENT}" + (f" ({given})" if given else "")
    wanted = " or ".join(f"{name}*.pth or .safetensors" for name in names)
    wanted += " that holds the classifier too" if whole else ""
    if official is None:
        raise UserError(
            f"no weights for {network}: no library offers any; put a file {wanted} into "
            f"{folders}, name one with model.weights=PATH, {RANDOM}"
        )
    if official.url:
        digits = re.search(r"-([0-9a-f]{8,})\.", official.name)
        return fetch(
            official.url,
            _torch_hub() / official.name,
            sha256=digits.group(1) if digits else None,
            way_out=f"put {official.name} into {official.place}, or a file {wanted} into "
            f"{folders}, name one with model.weights=PATH, {RANDOM}",
        )
    # nobody can lay a file into that cache by hand: its folders are named after commits
    way_out = (
        f"put {official.name} into {folders} as {names[0]}.safetensors ({wanted} will do), name a "
        f"file with model.weights=PATH, {RANDOM}"
    )
    return _from_hub(official, way_out)


def _from_hub(official: Official, way_out: str) -> Path:
    """Hugging Face's own download, then the checksum, which the hub tells as the file's etag."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    problem = ""
    for name in HUB_FILES:
        try:
            # one quick question first: left to itself the download tries for a minute
            told = get_hf_file_metadata(hf_hub_url(official.hub, name), timeout=ANSWER)
            path = Path(hf_hub_download(official.hub, name, etag_timeout=ANSWER))
            same = not _is_sha256(told.etag) or checksum(path, "sha256") == told.etag
            if not same:  # else the next run would take it from the cache, unchecked
                blob = path.resolve()
                path.unlink()
                blob.unlink(missing_ok=True)
        except Exception as error:  # whatever the hub, the network or the disk raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            problem = problem or first.split(". ")[0][:160]
            if isinstance(error, EntryNotFoundError):
                continue
            break
        if not same:
            raise UserError(
                f"{official.name} came with another SHA-256 than the hub tells: it was changed on "
                f"the way, and is removed again; start once more, or {way_out}"
            )
        return path
    raise UserError(
        f"no weights for {official.hub}: none in {official.place}, and no download ({problem}); "
        f"{way_out}"
    )


def _is_sha256(etag: str | None) -> bool:
    """The etag of a large file on the hub is its SHA-256; small ones have git's SHA-1."""
    return bool(etag and re.fullmatch(r"[0-9a-f]{64}", etag))
