"""The pages of the tour are complete, and every command on them runs."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from convlens.cli.kernel import WORDS, read_request
from convlens.cli.lesson import read_values
from convlens.cli.main import main
from convlens.cli.words import parse_words, split_make_words
from convlens.config.compose import compose, split_values
from convlens.experiment.methods import choose_methods

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "docs" / "tour"
PAGES = sorted(TOUR.glob("[0-9][0-9]_*.md"))
CONTENTS = TOUR / "README.md"
MAKEFILE = (ROOT / "Makefile").read_text()
PARTS = ("The command", "What to notice", "What to try")
HEAVIEST = 120_000  # bytes of a picture
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands(text: str) -> list[str]:
    """Return the lines that a reader types, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def parts(text: str) -> dict[str, str]:
    """Return the text below each heading."""
    found = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


def pictures(text: str) -> list[tuple[str, str]]:
    """Return alternative text and target of every picture."""
    return re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)


def links(text: str) -> list[str]:
    """Return the targets of links and pictures that are files of the repository."""
    return re.findall(r"\]\((?!http)([^)#]+)", text)


def singles(words: list[str]) -> list[list[str]]:
    """Return the words of each run of a ``multirun=true``."""
    if "multirun=true" not in words:
        return [words]
    choices = [split_values(word) for word in words if word != "multirun=true"]
    return [list(chosen) for chosen in itertools.product(*choices)]


def test_there_are_23_lessons_in_a_row():
    assert [int(page.name[:2]) for page in PAGES] == list(range(1, 24))


@every_page
def test_a_page_has_its_four_parts_in_order(page):
    text = page.read_text()
    found = parts(text)
    assert tuple(found) == PARTS
    command, notice, tried = found.values()
    assert re.match(rf"# {int(page.name[:2])} · \S", text)
    assert 1 <= len(commands(command)) <= 2
    # the picture follows the command, before any prose
    assert re.match(r"!\[", command.split("```")[2].strip())
    assert 1 <= len(pictures(command)) <= 2 and not pictures(notice + tried)
    assert 3 <= len(re.findall(r"^- ", notice, re.M)) <= 6
    assert re.search(r"\d", notice)
    assert 2 <= len(commands(tried)) <= 3
    assert 25 <= len(text.splitlines()) <= 60


@every_page
def test_pictures_have_words_and_are_light(page):
    for alt, target in pictures(page.read_text()):
        assert len(alt) > 20, target
        file = page.parent / target
        assert file.stat().st_size < HEAVIEST, target
        with Image.open(file) as picture:
            assert picture.format == "JPEG" and picture.width > 300


@pytest.mark.parametrize("page", [CONTENTS, *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in links(page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_picture_is_shown():
    shown = {Path(target).name for page in PAGES for _, target in pictures(page.read_text())}
    assert shown == {file.name for file in (TOUR / "pictures").iterdir()}


def test_the_chain_of_lessons_is_whole():
    for number, page in enumerate(PAGES):
        last = page.read_text().rstrip().splitlines()[-1]
        around = [PAGES[at].name for at in (number - 1, number + 1) if 0 <= at < len(PAGES)]
        before = around[:1] if number else []
        after = around[-1:] if number < len(PAGES) - 1 else []
        assert links(last) == [*before, CONTENTS.name, *after], page.name
        for target, title in ((t, w) for w, t in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", last)):
            if target != CONTENTS.name:
                heading = (TOUR / target).read_text().splitlines()[0].removeprefix("# ")
                assert heading in title, f"{page.name}: {title}"


def test_the_contents_list_every_lesson_by_its_title():
    listed = re.findall(r"\[([^\]]+)\]\((\d\d_[^)]+)\)", CONTENTS.read_text())
    titles = [page.read_text().splitlines()[0].partition(" · ")[2] for page in PAGES]
    assert listed == [(title, page.name) for title, page in zip(titles, PAGES, strict=True)]


@pytest.mark.parametrize("page", [CONTENTS, *PAGES], ids=lambda page: page.stem)
def test_every_command_is_a_target_with_words_that_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in commands(page.read_text()):
        tool, target, *typed = shlex.split(line)
        assert tool == "make", line
        assert re.search(rf"^{target}:", MAKEFILE, re.M), line
        words = [word for word in split_make_words(typed) if "TORCH_BACKEND" not in word]
        values = dict(word.split("=", 1) for word in words)
        if target in ("train", "plan") and "ckpt" not in values:
            for each in singles(words):
                compose(each)
        elif target == "kernel":
            wish = read_request(parse_words(words, "kernel", WORDS))
            assert wish.image.exists(), line
        elif target == "lesson":
            read_values(words)
        elif target == "explain":
            choose_methods(values.get("only"))
            assert set(values) <= {"ckpt", "image", "only", "layers", "target", "run_dir"} or (
                compose([w for w in words if w.startswith("model")]).model.head == "imagenet"
            ), line


def test_what_a_command_asks_for_was_made_by_a_command_before_it():
    made = set()
    for page in PAGES:
        for line in commands(page.read_text()):
            _, target, *words = shlex.split(line)
            for word in words:
                key, _, value = word.partition("=")
                if target == "train" and key == "run_dir":
                    made.add(value)
                elif key in ("ckpt", "run", "runs", "image"):
                    for path in value.split():
                        if path.startswith("outputs/"):
                            assert any(f"{path}/".startswith(f"{home}/") for home in made), line
                        else:
                            assert path == "last" or (ROOT / path).exists(), line


# overrides that make any training tiny and offline; of a repeated key the last one counts
TINY = [
    "data=shapes", "data.pictures=60", "data.size=48", "training.batch_size=8",
    "training.steps_per_epoch=4", "training.eval_batch_size=20", "precision=32", "trainer=cpu",
    "probes.count=2",
    "looking.first_seconds=1", "looking.seconds=1", "looking.last_seconds=1",
    "callbacks.activation_grids.limit=2",
    "callbacks.filter_visuals.steps=2", "callbacks.filter_visuals.units=1",
    "callbacks.filter_visuals.full_units=1",
]  # fmt: skip


def two_of(words: list[str]) -> list[str]:
    """Leave two runs of a ``multirun=true``: each is a process. Above, all of them compose."""
    left, kept = 2, []
    for word in words:
        first, *others = split_values(word)
        kept.append(",".join([first, *(each.partition("=")[2] for each in others[: left - 1])]))
        left = 1 if others else left
    return kept


def shortened(target: str, words: list[str]) -> list[str]:
    """Shorten a command so that it runs offline and in seconds."""
    if target == "lesson" and "about=network" in words:
        return [*(word for word in words if not word.startswith("steps=")), "steps=20"]
    trains = target in ("train", "plan", "lr-find")
    if not trains or any(word.startswith("ckpt=") for word in words):
        return words
    words = two_of(words) if "multirun=true" in words else words
    own = [word for word in words if not word.startswith("plot=")]
    config = compose(singles(own)[0])
    words = [*words, *TINY, *(["steps=10"] if target == "lr-find" else [])]
    phases = config.finetune.phases
    words += [f"finetune.phases.{number}.epochs=1" for number in range(len(phases or ()))]
    words += [] if phases else ["training.epochs=1"]
    large = config.model.name != "scratch"
    smallest = 80 if config.model.name == "inception_v3" else 32
    return words + (["model.weights=none", f"data.size={smallest}"] if large else [])


def stand_in(name: str, folder: Path) -> None:
    """Write random weights of a timm network: predictions are not tested here."""
    folder.mkdir()
    network = timm.create_model(name, pretrained=False)
    torch.save(network.state_dict(), folder / f"{name}.pth")


@pytest.mark.slow
def test_every_command_of_the_tour_runs_in_a_short_form(at, capfd):
    for name in ("tests", "src"):
        (at / name).symlink_to(ROOT / name)
    stand_in("tf_efficientnet_lite0", at / "weights")
    for page in PAGES:
        for line in commands(page.read_text()):
            _, target, *typed = shlex.split(line)
            words = shortened(target, split_make_words(typed))
            status = main([target, *words])
            printed = capfd.readouterr()
            message = f"{page.name}: {line}\n{printed.out}{printed.err}"
            assert status == 0, message
            # a failing callback is only reported in the summary; training continues
            assert not re.search(r"(?<!\b0 )failed", printed.out), message
