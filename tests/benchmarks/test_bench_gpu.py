"""`make bench-gpu`: the table, the order of the sections and the time limit, on a fake clock."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench  # noqa: E402
import gpu_sides  # noqa: E402
import gpu_table as table  # noqa: E402
from gpu_table import Line, Section  # noqa: E402

import gpu  # noqa: E402


class Machine:
    """Sections that take a known time, and what they showed."""

    def __init__(self):
        self.now, self.shown = 0.0, []

    def section(self, name: str, seconds: float, expected: float | None = None) -> Section:
        def measure():
            self.now += seconds
            yield Line(name, [1.0])

        return Section(name, seconds if expected is None else expected, measure)

    def run(self, sections, limit: float) -> table.Outcome:
        return table.run_sections(sections, limit, lambda: self.now, self.shown.append)


def test_a_section_that_would_not_fit_is_skipped_and_said():
    machine = Machine()
    times = [("a", 30.0), ("b", 60.0), ("c", 20.0), ("d", 11.0), ("e", 10.0)]
    found = machine.run([machine.section(*each) for each in times], 100.0)
    assert [line.name for line in found.lines] == ["a", "b", "e"]
    assert found.missing == {
        "c": "skipped, it takes about 20 s and 10 s are left",
        "d": "skipped, it takes about 11 s and 10 s are left",
    }
    assert machine.now == 100.0
    assert [text.split()[0] for text in machine.shown] == ["row", "a", "b", "c:", "d:", "e"]


def test_each_line_is_shown_before_the_next_is_measured():
    machine, order = Machine(), []

    def measure():
        for name in "ab":
            order.append(f"measure {name}")
            yield Line(name, [1.0])

    def show(text: str) -> None:
        order.append(f"show {text.split()[0]}")

    table.run_sections([Section("s", 1.0, measure)], 9.0, lambda: machine.now, show)
    assert order == ["show row", "measure a", "show a", "measure b", "show b"]


def test_a_section_that_fails_does_not_end_the_others():
    machine = Machine()

    def fail():
        yield Line("first", [1.0])
        raise RuntimeError("out of memory\nmore")

    found = machine.run([Section("bad", 1.0, fail), machine.section("good", 1.0)], 9.0)
    assert [line.name for line in found.lines] == ["first", "good"]
    assert found.missing == {"bad": "failed: RuntimeError: out of memory"}


def test_a_section_that_overruns_is_stopped():
    def wait():
        time.sleep(60.0)
        yield Line("late")

    machine = Machine()
    with table.stop_after(0.05):
        found = machine.run([Section("slow", 1.0, wait), machine.section("next", 1.0)], 9.0)
    assert found.missing == {"slow": "stopped, the time is up"}
    assert [line.name for line in found.lines] == ["next"]


def test_sides_alternate_and_ratios_are_those_of_the_rounds():
    calls = []
    ours, peer = iter([100.0, 50.0, 80.0]), iter([150.0, 60.0, 100.0])
    found = table.alternate(
        lambda: calls.append("o") or next(ours), lambda: calls.append("p") or next(peer), 3
    )
    assert "".join(calls) == "oppoop"
    line = table.compare_speeds("x", found[0], "plain", found[1], ["precision 32"])
    # images/s: half as many means twice the time
    assert list(line.ratios) == pytest.approx([1.5, 1.2, 1.25])
    text = table.format_line(line)
    assert "1.25 (1.20 to 1.50)" in text and text.endswith("precision 32")
    assert text.split()[1:4] == ["80.00", "plain", "100"]


def test_the_columns_of_all_lines_are_aligned():
    lines = [table.format_line(Line("a", [v], "b", [v], [1.0], ["note"])) for v in (0.001, 12345.6)]
    assert len({line.index("note") for line in lines}) == 1
    assert table.format_cells(table.HEADER).index("notes") == lines[0].index("note")


def test_all_sections_fit_the_limit_in_the_order_of_worth():
    sections = gpu.Benchmark(gpu_sides.Scale(torch.device("cuda"))).list_sections()
    names = [section.name for section in sections]
    assert len(set(names)) == len(names) and names[:5] == [
        "rate", "vgg16", "resnet50", "scratch", "start"
    ]  # fmt: skip
    assert all(f"{name.split('_')[0]}" in gpu.__doc__ for name in names)
    assert gpu.LIMIT <= 480.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_refuses_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "no NVIDIA GPU on this machine; --quick tries the script" in capsys.readouterr().err
    assert gpu.choose_scale(quick=True).device.type == "cpu"


def test_an_unknown_section_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--sections", "vgg19"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "vgg19: no such section; choose from: rate, vgg16" in capsys.readouterr().err


def test_generated_images_are_a_file_of_the_right_size(tmp_path):
    images = gpu_sides.write_images(tmp_path / "some.npy", 2500, 8, classes=5)
    assert isinstance(images.images, np.memmap) and images.images.shape == (2500, 8, 8, 3)
    assert len(images) == 2500 and np.bincount(images.labels).tolist() == [500] * 5
    first, again = images.pixels(np.array([0, 499])), images.pixels(np.array([1000, 1499]))
    assert np.array_equal(first, again) and not np.array_equal(first[0], first[1])
    assert first.std() > 50


SMALL = gpu_sides.Scale(
    torch.device("cpu"), 1, 2, 1, ("data.size=16", "model.filters=[4,6]", "precision=32"), batch=4
)


def test_steps_of_the_scratch_network_are_measured_on_a_processor(at):
    benchmark = gpu.Benchmark(SMALL)
    (line,) = benchmark.measure_steps("scratch")
    assert line.name.startswith("scratch") and line.beside == "a plain loop"
    assert min(line.ours) > 0 and min(line.peer) > 0
    assert line.ratios == [pytest.approx(line.peer[0] / line.ours[0])]


def test_images_in_a_large_file_are_what_is_trained_on(at):
    (line,) = gpu.Benchmark(SMALL).measure_flat()
    assert "of 1,000 images" in line.name and line.beside == "of 100 images"


@pytest.mark.parametrize(
    ("words", "there", "device"),
    [
        ([], True, "gpu"), ([], False, "cpu"), (["--quick"], True, "gpu"),
        (["--device", "cpu"], True, "cpu"), (["--rows", "scratch"], True, "cpu"),
        (["--markdown"], True, "cpu"), (["--device", "gpu"], False, "gpu"),
    ],
)  # fmt: skip
def test_bench_chooses_the_device_that_is_there(monkeypatch, words, there, device):
    monkeypatch.setattr(bench, "has_gpu", lambda: there)
    monkeypatch.setattr(sys, "argv", ["bench.py", *words])
    assert bench.parse().device == device


def test_bench_on_a_gpu_is_bench_gpu(monkeypatch):
    called = []
    monkeypatch.setattr(bench, "has_gpu", lambda: True)
    monkeypatch.setattr(bench.subprocess, "call", lambda command: called.append(command) or 0)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick"])
    assert bench.main() == 0
    assert called == [[sys.executable, str(BENCHMARKS / "gpu.py"), "--quick"]]


def test_sides_beside_other_projects_see_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert bench.side_environment()["CUDA_VISIBLE_DEVICES"] == ""
