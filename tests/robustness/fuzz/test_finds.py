"""What fuzzing found, kept: each of these once ended in a traceback, in silence, or worse."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from convlens.cli.main import main
from convlens.config.compose import apply_overrides, compose
from convlens.core.errors import UserError
from convlens.data.pixels.cache import load_or_build
from convlens.data.pixels.decode import ImageError, Recipe, decode_image
from convlens.data.pixels.load import pillow_settings
from convlens.models.state import load_weights
from convlens.pages.compare import compare
from convlens.pages.report import report
from convlens.rundir.read import read_run
from support import fuzz_bombs, fuzz_pictures
from support.fuzz_checkpoints import checkpoint, network, put, saved
from support.fuzz_masks import XML
from support.fuzz_pickles import contained, gadgets
from support.fuzz_surface import silent
from support.fuzz_words import BASE, CONFIG
from support.runs_made import write_run
from support.tiny import TINY

# -------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("content", "said"),
    [
        # a kilobyte whose table of rows took 800 MB, and whose resizing 3 GB and 12 s
        (fuzz_bombs.png_claims(1, 100_000_000), "no side may exceed 65,535"),
        (fuzz_bombs.png_claims(20_000, 20_000), "more than 178,956,970"),
        (fuzz_bombs.tiff_claims(70_000, 8), "no side may exceed 65,535"),
        (fuzz_bombs.gif_claims(40_000, 40_000), "more than 178,956,970"),
        (fuzz_bombs.webp_claims(16_000, 16_000), "more than 178,956,970"),
        (fuzz_bombs.jpeg_claims(60_000, 60_000), "more than 178,956,970"),
        # sixteen kilobytes that kept a processor busy for minutes
        (fuzz_bombs.many_scans(13_000, 13_000, 1000), "scans, more than 100"),
        (fuzz_bombs.png_metadata(b"zTXt", 40), "too large"),
        (fuzz_bombs.png_metadata(b"iCCP", 40), "too large"),
    ],
)  # fmt: skip
def test_bomb_is_refused_before_it_grows(tmp_path, content, said):
    (tmp_path / "bomb").write_bytes(content)
    before = fuzz_pictures.peak_megabytes()
    with pillow_settings(), pytest.raises(ImageError, match=said):
        decode_image(tmp_path / "bomb", Recipe(16, 16))
    assert fuzz_pictures.peak_megabytes() - before < fuzz_bombs.SMALL


def test_bombs_fit_little_memory(tmp_path):
    """A process that may have no more than it has after its imports and 400 MB."""
    for number, make in enumerate(fuzz_bombs.CLAIMS.values()):
        (tmp_path / f"{number}.png").write_bytes(make(60_000, 60_000))
    code = (
        "import resource, sys, pathlib\n"
        "from convlens.data.pixels.decode import *\n"
        "from convlens.data.pixels.load import pillow_settings\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)\n"
        "with pillow_settings():\n"
        "    for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "        try: decode_image(file, Recipe(16, 16)); sys.exit(f'{file} accepted')\n"
        "        except ImageError as error: print(error.reason)\n"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("the size of a process is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(fuzz_bombs.CLAIMS)


@pytest.mark.parametrize("name", ["tiff_deflate", "tiff_jpeg", "tiff_lzw_16"])
def test_damaged_tiff_writes_nothing_on_the_screen(tmp_path, name):
    """libtiff wrote its own lines there."""
    data = bytearray(fuzz_pictures.SEEDS[name])
    data[20:60] = bytes(range(40))
    (tmp_path / "x.tif").write_bytes(data)
    with silent(), pillow_settings(), pytest.raises(ImageError):
        decode_image(tmp_path / "x.tif", Recipe(16, 16))


def test_mask_of_a_picture_that_lies_about_its_size_is_refused(tmp_path):
    """Boxes are drawn on as many pixels as the picture has."""
    from support.masks_made import own_masks

    (tmp_path / "x.png").write_bytes(fuzz_bombs.png_claims(1, 100_000_000))
    (tmp_path / "x.xml").write_bytes(XML.replace(b"<size>", b"<no>").replace(b"</size>", b"</no>"))
    with pytest.raises(ImageError, match="no side may exceed"):
        own_masks([tmp_path / "x.png"], [tmp_path / "x.xml"], size=8, resize="pad")


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "P"])
def test_by_strips_is_the_same_picture(tmp_path, monkeypatch, mode):
    """Large pictures are converted some rows at a time; no pixel may tell."""
    from convlens.data.pixels import decode

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 40, 4), dtype=np.uint8), "RGBA")
    if mode == "P":
        image = image.convert("RGB").quantize(20)
        image.info["transparency"] = 3
    elif mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (50, 40)).astype(np.uint16))
    image.save(tmp_path / "x.png")
    whole = decode_image(tmp_path / "x.png", Recipe(50, 40, interpolation="nearest"))
    monkeypatch.setattr(decode, "_STRIP", 40 * 7)
    parts = decode_image(tmp_path / "x.png", Recipe(50, 40, interpolation="nearest"))
    assert np.array_equal(whole, parts)


# --------------------------------------------------------------------------------- config words

WORDS = [
    "seed=-1", f"seed={2**70}", "seed=null", "seed=" + "9" * 5000, "optimizer.lr=nan",
    "optimizer.lr=inf", "optimizer.betas=[2,2]", "optimizer.eps=-1", "data.size=-3",
    "data.size=99999", "data.augment=null", "data.split=null", "training=3",
    "training.batch_size=0",
    "training.epochs=-1", "training.class_weights=[nan]", "training.class_weights=[0,0,0,0,0]",
    "training.gradient_clip=-1", "training.label_smoothing=nan", "model.filters=[0]",
    "model.filters=[[1]]", "model.filters=[999999999]", "model.kernel_size=0",
    "model.kernel_size=2979859225689", "model.padding=99999999999999999999", "model.dropout=2",
    "model.dropout=nan", "model.activation=[166]", "model.batch_norm_eps=nan", "model.head=null",
    "model.head=99999999999999999999", "probes.count=-1", "probes.files=[1]",
    "probes.files=" + "[" * 4000, "scheduler.warmup_epochs=nan", "scheduler.floor=-1",
    "scheduler.name=none", "finetune.phases=${training}", "finetune.phases=3",
    "finetune.groups=[1]",
    "callbacks.budget=nan", "callbacks.grad_cam.batch=0", "callbacks.grad_cam.every_n_epochs=0",
    "callbacks.grad_cam._target_=os.system", "callbacks.grad_cam._target_=builtins.exec",
    "callbacks.grad_cam._target_=${nothing}", "callbacks.grad_cam.layers={_target_: os.system}",
    "callbacks.filter_visuals.recipe=[1,2]", "callbacks.scores.steps=-1", "alarms.patience=-1",
    "looking.seconds=nan", "trainer.devices=[]x", "trainer.num_nodes=0", "precision=8",
    "data.augment.zoom=nan", "data.resize=null", "logger.tensorboard=3", "+a=1", "~data", "data=",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word[:40])
def test_word_is_refused_in_a_line(word):
    with pytest.raises(UserError) as said:
        apply_overrides(CONFIG, [word])
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "values", ["a,b", "0.5,0.9", "choice(0,0.9)", "range(0,1,0.5)", "interval(0,1)", "glob(*)"]
)
@pytest.mark.parametrize("key", ["training.ema", "scheduler.name", "probes.files", "data"])
def test_several_values_of_a_run_that_exists_are_refused(key, values):
    with pytest.raises(UserError, match="several values; give one$|not a list of values"):
        apply_overrides(CONFIG, [f"{key}={values}", f"{key}=0"])


def test_a_list_of_one_value_is_that_value_and_a_comma_in_a_path_is_a_comma():
    assert apply_overrides(CONFIG, ["training.ema=choice(0.5)"]).training.ema == 0.5
    assert apply_overrides(CONFIG, ["data.dir=a,b"]).data.dir == "a,b"


@pytest.mark.parametrize(
    "word", ["trainer.devices=-1", "callbacks.learning_curves._target_=convlens.callbacks.GradCam"]
)
def test_what_lightning_refuses_is_told_in_a_line(at, word):
    """No such device of this machine; two callbacks that Lightning takes for one."""
    from convlens.experiment.assemble import assemble
    from convlens.experiment.trainer import build_trainer

    with pytest.raises(
        UserError,
        match="trainer or callbacks|is missing: the callback needs it|does not accept these values",
    ):
        build_trainer(assemble(compose([*BASE, word])), at / "run", False)


def test_composed_words_are_refused_alike():
    for word in ("optimizer.lr=nan", "callbacks.grad_cam._target_=${nothing}", "model.head=3"):
        with pytest.raises(UserError):
            compose([*BASE, word])


def test_network_larger_than_memory_is_told():
    from convlens.models import build_model

    config = compose([*BASE, "model.head.hidden=[1000000,1000000,1000000]"])
    with pytest.raises(UserError, match="larger than this machine's memory"):
        build_model(config.model, channels=3, size=16, outputs=2)


# ---------------------------------------------------------------- checkpoints and weights: no code


@pytest.fixture(scope="module")
def whole() -> dict:
    return checkpoint()


@pytest.mark.parametrize("container", ["zip", "legacy", "plain"])
def test_pickle_that_would_run_code_does_not(at, container):
    from convlens.training.survival.checkpoint import read_checkpoint

    for number, pickled in enumerate(gadgets(at / "canary")):
        for name in (f"{number}.ckpt", f"{number}.pth", f"{number}.safetensors"):
            (at / name).write_bytes(contained(pickled, container))
        with pytest.raises(UserError):
            read_checkpoint(at / f"{number}.ckpt")
        for suffix in ("pth", "safetensors"):
            found = type("Found", (), {"path": at / f"{number}.{suffix}"})
            with pytest.raises(UserError):
                load_weights(network(), found, classifier=())
    assert not (at / "canary").exists()


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.exec", "convlens.experiment.train.train", "antigravity"]
)
@pytest.mark.parametrize("command", ["eval", "plan", "explain", "predict"])
def test_code_named_by_a_checkpoints_config_is_refused(at, capsys, whole, target, command):
    evil = {"_target_": target, "command": f"touch {at / 'canary'}"}
    where = ("hyper_parameters", "config", "callbacks", "grad_cam")
    (at / "evil.ckpt").write_bytes(saved(put(whole, where, evil)))
    more = {"explain": ["image=x.png"], "predict": ["images=x.png"]}.get(command, [])
    Image.new("RGB", (16, 16)).save(at / "x.png")
    assert main([command, "ckpt=evil.ckpt", *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "_target_" in said[0] and "convlens.callbacks" in said[0]
    assert not (at / "canary").exists()


def test_code_named_by_a_run_is_refused_at_resume(at, capsys):
    config = compose([*TINY, "callbacks.grad_cam.batch=1"]).plain()
    config["callbacks"]["grad_cam"] = {"_target_": "os.system", "command": "touch canary"}
    (at / "run").mkdir()
    (at / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["resume", "run=run"]) == 2
    assert "_target_=os.system" in capsys.readouterr().err
    assert not (at / "canary").exists()


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("hyper_parameters", "class_names"), "abcde", "class names"),
        (("hyper_parameters", "class_names"), ["a", "a"], "class names"),
        (("hyper_parameters", "config"), [], "config"),
        (("hyper_parameters", "config", "model"), ..., "model is missing"),
        (("hyper_parameters", "config", "data", "resize"), {}, "data.resize"),
        (("hyper_parameters", "config", "data", "interpolation"), None, "data.interpolation"),
        (("hyper_parameters", "config", "trainer", "plugins"), "x", "trainer.plugins"),
        (("state_dict",), {"a": 1}, "no weights"),
        (("state_dict", "model.head.logits.bias"), torch.zeros(1).expand(2**33), "RuntimeError"),
        (("state_dict", "model.head.logits.bias"), torch.zeros(5, device="meta"), "no weights"),
        (("state_dict", "model.head.logits.bias"), torch.zeros(5).to_sparse(), "no weights"),
        (("epoch",), "1", "epoch"),
    ],
)
def test_checkpoint_with_other_content_is_refused(at, whole, where, value, said):
    from convlens.experiment.networks import load

    (at / "x.ckpt").write_bytes(saved(put(whole, where, value)))
    with silent(), pytest.raises(UserError, match=said):
        load(at / "x.ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused(at, value):
    state = network().state_dict()
    state["0.weight"] = torch.full_like(state["0.weight"], value, dtype=torch.float64)
    torch.save(state, at / "x.pth")
    with pytest.raises(UserError, match=r"1 weights have NaN or infinity.*0\.weight"):
        load_weights(network(), type("Found", (), {"path": at / "x.pth"}), classifier=())


# ---------------------------------------------------------------------------- caches, run folders


@pytest.mark.parametrize("checked", [1 << 30, 1 << 25])
def test_cache_changed_in_place_with_its_time_put_back_is_rebuilt(tmp_path, monkeypatch, checked):
    import os

    from convlens.data.pixels import cache

    monkeypatch.setattr(cache, "CHECKED", checked)
    monkeypatch.setattr(cache, "_BLOCK", 1 << 20)
    right = np.arange(1 << 20, dtype=np.int64)  # eight blocks

    def read():
        return load_or_build(
            tmp_path,
            "x",
            "mark",
            lambda w: w.create("a", right.shape, right.dtype).put(0, right) or {},
        )

    assert not read().from_cache and read().from_cache
    file = tmp_path / "x.a.npy"
    before = file.stat()
    with open(file, "r+b") as opened:
        opened.seek(5_000_000)
        opened.write(b"changed")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = read()
    assert not again.from_cache and np.array_equal(again.arrays["a"], right)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", b"experiment: x\na: &a [*a]\n"),
        ("config.yaml", b"experiment: x\n" + b"a0: &a0 [1, 1]\n" + b"".join(
            b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 30))),
        ("config.yaml", b"experiment: !!python/object/apply:os.system ['touch canary']\n"),
        ("config.yaml", b"experiment: 2001-99-99\n"), ("config.yaml", b"[" * 3000),
        ("config.yaml", b"experiment: \xff\n"), ("summary.json", b"[" * 30000),
        ("summary.json", b'{"epochs": ' + b"9" * 400 + b"}"), ("metrics.csv", b"epoch\n1,\0\n"),
        ("metrics.csv", b"epoch,val/loss\n0,1,2,3\n"),
    ],
)  # fmt: skip
def test_garbled_run_is_told_in_a_line(at, file, content):
    home = write_run(at / "run", [1.0, 0.5])
    (home / file).write_bytes(content)
    with silent(), pytest.raises(UserError) as said:
        read_run(home)
    assert file in str(said.value)
    assert not (at / "canary").exists()


def test_page_of_a_run_whose_files_do_not_go_together_is_refused(at):
    home = write_run(at / "run", [1.0, 0.5])
    (home / "config.yaml").write_text("experiment: x\n")
    with pytest.raises(UserError, match="not what a run writes"):
        report(home)
    (home / "summary.json").write_text('{"alarms": 3, "test": [1]}')
    with pytest.raises(UserError, match="not what a run writes"):
        compare([home, write_run(at / "other", [1.0, 0.5])])
