"""The config in TensorBoard's text tab: once, however often the run is resumed."""

from __future__ import annotations

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlens.cli.main import main
from support.tiny import TINY


def written(home) -> list[tuple[int, str]]:
    """Step and text of each config in the run's event files."""
    found = []
    for file in sorted((home / "tensorboard").glob("events*")):
        events = EventAccumulator(str(file)).Reload()
        if "config/text_summary" in events.Tags()["tensors"]:
            for event in events.Tensors("config/text_summary"):
                found.append((event.step, event.tensor_proto.string_val[0].decode()))
    return found


def test_the_resolved_config_is_written_once(tmp_path):
    home = tmp_path / "run"
    words = [*TINY, "callbacks=none", "scheduler=constant", f"run_dir={home}"]
    assert main(["train", *words, "training.epochs=1"]) == 0
    text = (home / "config.yaml").read_text(encoding="utf-8")
    assert "format: " in text and "precision: 32" in text
    assert written(home) == [(0, f"```yaml\n{text}```")]
    assert main(["resume", f"run={home}", "training.epochs=2"]) == 0
    assert written(home) == [(0, f"```yaml\n{text}```")]
