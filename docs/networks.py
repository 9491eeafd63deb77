"""Check one small network of each family, and write docs/networks.md.

    .venv/bin/python docs/networks.py [vit_tiny_patch16_224 …]

With names, only their rows are computed again; all take about half an hour on one core. The rows
are kept in `src/convlens/models/checked.json`, which `convlens models` reads.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "src" / "convlens" / "models" / "checked.json"
PAGE = ROOT / "docs" / "networks.md"
METHOD = re.compile(
    r"^(attention rollout|relevance|LeGrad|token occlusion|no attention over \w+): "
)
INTRODUCTION = """\
# Networks: what works, and how it was checked

One small member of each family, with random weights, in float64; a family is a module of timm. `docs/networks.py`
computes and writes this page, and the slow tests compute every row again. `convlens models search=NAME` finds the
row of any network. A check of one member says nothing of options that another member sets.

✓ agrees with its reference. A number is a note below: the reason for which convlens refuses, in one line, to draw it;
with ✓, what is left out. *Error* is an upper limit of all differences in the row (a power of ten, at least ten times
what was measured), relative to the largest value of the reference, or of the logits for occlusion. No difference may
exceed 1e-9.

| column | what is checked, and against what |
|---|---|
| trains | a step of the last stage and the head, then of everything: frozen parameters keep their bits, gradients reach the first stage |
| stages | number of stages that a schedule can name; every parameter belongs to one |
| stored features | features equal timm's; the logits from features stored after the first, middle and last of so many modules equal those of the whole network |
| activations | of each block: timm's `forward_intermediates`; ✓ʰ of the default layer: a plain hook |
| Grad-CAM | at the default layer: Captum's `LayerGradCam`, at an identity that sees (B, C, h, w) |
| filters | gradient ascent: the activations that a plain hook sees for the pictures |
| occlusion | its definition, window by window |
| attention | weights: the softmaxes of timm's own attention without fusing; maps: rows that the logits read. Of windows only the weights; for Swin, `tests/explain/test_attention.py` checks where they lie |
| rollout, relevance, LeGrad | the paper's formula, on timm's own attention without fusing |
| token occlusion | all attention to the patches masked, and means without them |
| AttnLRP | torchvision's ViT only, by lxt: `tests/explain/test_attention_evidence.py` |

"""  # noqa: E501


def write_page(rows: list[dict]) -> str:
    """Return the page of rows from ``Row.summarise``."""
    from support.families import LEFT_OUT

    columns = [column for column in rows[0]["cells"] if column != "trains"]
    lines = [
        "| family | network | px | trains | stages | " + " | ".join(columns) + " | error |",
        "|---" * (len(columns) + 6) + "|",
    ]
    notes: dict[str, int] = {}
    for row in rows:
        cells = {name: _draw(cell, row["name"], notes) for name, cell in row["cells"].items()}
        if row["links"]:
            cells["stored features"] += f" {row['links']}"
        start = [row["family"], f"`{row['name']}`", row["size"], cells["trains"], row["stages"]]
        values = [*start, *(cells[column] for column in columns), row["error"]]
        lines.append("| " + " | ".join(str(value or "") for value in values) + " |")
    text = (
        INTRODUCTION + f"{len(rows)} networks of {len({r['family'] for r in rows})} families:\n\n"
    )
    text += "\n".join(lines) + "\n\nNotes:\n\n"
    text += "\n".join(f"{number}. {note}" for note, number in notes.items())
    left_out = ", ".join(f"`{family}`" for family in LEFT_OUT)
    reason = "their smallest member has 80 million parameters or more"
    text += f"\n\nNot run, because {reason}: {left_out}.\n"
    return text


def _draw(cell: str, name: str, notes: dict[str, int]) -> str:
    kind, colon, reason = cell.partition(": ")
    if not colon:
        return "✓ʰ" if cell == "hook, one layer" else "✓"
    reason = METHOD.sub("", reason).replace(name, "NAME")
    reason = re.sub(r"'[^']*'", "a layer", reason)
    reason = re.sub(r"\(\d[\d, ]*\)", "(…)", reason)
    number = notes.setdefault(reason, len(notes) + 1)
    return f"✓ {number}" if kind == "partly" else str(number)


def main(names: list[str]) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from support.families import MEMBERS
    from support.family_checks import Checks

    known = {row["name"]: row for row in json.loads(DATA.read_text())} if DATA.exists() else {}
    for name in names or MEMBERS:
        known[name] = Checks(name).run().summarise()
        print(name, known[name]["error"], flush=True)
    store([known[name] for name in MEMBERS if name in known])


def store(rows: list[dict]) -> None:
    """Write the data and the page."""
    rows = sorted(rows, key=lambda row: (row["family"], row["name"]))
    DATA.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(write_page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
