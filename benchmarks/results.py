"""The machine and the result file of a benchmark."""

import datetime
import json
import platform
import statistics
from pathlib import Path

from rounds import available_cores

RESULTS = Path(__file__).resolve().parent / "results"


def processor() -> str:
    """Return the name of the processor, or of its architecture if that is unknown."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def spread(speeds: list[float]) -> dict:
    return {
        "median": round(statistics.median(speeds), 2),
        "min": min(speeds),
        "max": max(speeds),
    }


def write_result(file: Path, what: str, **figures) -> None:
    """Write a JSON file: what was measured, when, on which machine, and the figures."""
    header = {
        "what": what,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(available_cores()),
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**header, **figures}, indent=2) + "\n")
    print(f"written: {file}")
