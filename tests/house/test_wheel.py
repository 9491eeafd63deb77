"""The built wheel, installed in an environment of its own, works from any folder."""

from __future__ import annotations

import os
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from support.places import ROOT
from support.wheel import (
    bare_environment,
    build_wheel,
    copy_files,
    list_tracked,
    make_environment,
    make_whole_environment,
    run,
)

pytestmark = pytest.mark.slow
TRAIN = [
    "train", "exp=scratch", "data=shapes", "training.epochs=2", "data.pictures=60", "trainer=cpu",
    "precision=32", "looking.first_seconds=1", "looking.last_seconds=1",
]  # fmt: skip
PLACES = {"src/convlens/": "convlens/", "callbacks/": "convlens/callbacks/",
          "configs/": "convlens/configs/"}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_files(list_tracked(), folder / "source"), folder / "dist")


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment") / "env", wheel)


def installed_name(name: str) -> str | None:
    """Return what a file of the checkout is called in the wheel; None if it is not in it."""
    for start, place in PLACES.items():
        if name.startswith(start):
            return place + name.removeprefix(start)
    return None


def test_the_wheel_has_every_file_of_the_package_unchanged_and_no_other(wheel):
    expected = {installed_name(name): name for name in list_tracked() if installed_name(name)}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert sorted(names) == sorted(expected)
        for name in names:
            assert archive.read(name) == (ROOT / expected[name]).read_bytes(), name


def files_in(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if "__pycache__" not in file.parts}


def test_every_command_works_from_any_folder(programs, tmp_path):
    home, work, other = (tmp_path / name for name in ("home", "my work", "other"))
    for folder in (home, work, other):
        folder.mkdir()
    environment, before = bare_environment(home), files_in(programs.parent)

    def convlens(*words: str, cwd: Path = work) -> str:
        return run(programs / "convlens", *words, cwd=cwd, env=environment)

    where = run(
        programs / "python", "-c", "import convlens, convlens.callbacks, convlens.configs as c;"
        "print(*(m.__file__ for m in (convlens, convlens.callbacks, c)), sep='\\n')",
        cwd=work, env=environment,
    )  # fmt: skip
    assert all(path.startswith(str(programs.parent)) for path in where.splitlines())
    assert "convlens 0" in convlens("--version")
    assert "test, epoch" in (printed := convlens(*TRAIN))
    assert "convlens tensorboard" in printed and "make " not in printed
    (run_dir,) = (work / "outputs" / "scratch").iterdir()
    picture = str(next((programs.parent).rglob("example/pictures/star.png")))
    checkpoint = f"ckpt={run_dir / 'checkpoints' / 'best.ckpt'}"

    assert "star.png: " in convlens("explain", "ckpt=last", f"image={picture}")
    assert "star.png: star" in convlens("explain", "only=grad_cam", cwd=other)
    assert (next(other.glob("outputs/explain/*")) / "index.html").exists()
    images = f"images={Path(picture).parent}"
    convlens("predict", checkpoint, images, "run_dir=answers", cwd=other)
    lines = (other / "answers" / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6 and lines[0].startswith("file,predicted,confidence,probability/")
    (run_dir / "report.html").unlink()
    convlens("report", f"run={run_dir}", cwd=other)
    assert (run_dir / "report.html").stat().st_size > 100_000
    assert "is finished" in convlens("resume", "run=last")
    assert "scratch" in convlens("runs")
    assert "data: shapes" in convlens("plan", *TRAIN[1:], cwd=other)
    convlens("eval", checkpoint, cwd=other)
    convlens("kernel", f"image={picture}", cwd=other)

    # runs are where one stands, the caches at home, and nothing beside the program
    assert {path.name for path in work.iterdir()} == {"outputs"}
    assert {path.name for path in other.iterdir()} == {"outputs", "answers"}
    assert (home / ".cache" / "convlens").is_dir()
    assert files_in(programs.parent) == before


def test_the_wheel_asks_for_all_that_train_and_explain_need(wheel, tmp_path):
    """The packages of the checkout's environment, which has many more, are not seen."""
    programs = make_whole_environment(tmp_path / "env", wheel)
    if programs is None:
        pytest.skip("the cache of uv lacks a package; `make setup` fills it")
    work, environment = tmp_path / "work", bare_environment(tmp_path / "home")
    work.mkdir()
    seen = run(
        programs / "python", "-c", "import sys, importlib.metadata as m;"
        "print(len({d.name for d in m.distributions()}), *sys.path)",
        cwd=work, env=environment,
    ).split()  # fmt: skip
    places = [path for path in seen[1:] if path.endswith("site-packages")]
    assert places and all(path.startswith(str(programs.parent)) for path in places)
    if sys.platform == "linux" and "+cpu" not in version("torch"):
        text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
        assert f"Either way, {seen[0]} packages are installed" in text
    run(programs / "convlens", *TRAIN, cwd=work, env=environment)
    picture = next(programs.parent.rglob("example/pictures/star.png"))
    words = ("explain", "ckpt=last", f"image={picture}")
    assert "star.png: " in run(programs / "convlens", *words, cwd=work, env=environment)


def test_a_mistake_is_answered_without_make(programs, tmp_path):
    import subprocess

    command = [programs / "convlens", "report", "run=last"]
    environment = bare_environment(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "convlens: there is no run in outputs/ yet; `convlens train` starts one\n"
    assert not os.listdir(tmp_path) or os.listdir(tmp_path) == [".cache"]
