"""``make eval ckpt=FILE [key=value …]``: the test results and predictions of a checkpoint.

By default it uses the test split of the run; with ``data.dir=OTHER``, another labelled folder.
Images that the run used for training or validation are never tested.
"""

from __future__ import annotations

from convlens.cli.results import format_seconds, print_details, print_results
from convlens.cli.words import RECIPE, TEMPERATURE, Keys, Word, Words, extract_words, read_switch
from convlens.core.errors import UserError
from convlens.core.loading import loading_libraries
from convlens.core.processes import is_first_process
from convlens.core.stopwatch import with_stopwatch
from convlens.experiment.inputs import find_checkpoint
from convlens.rundir import log as logs

WORDS: Words = {
    "ckpt": Word("the checkpoint; last is the newest run's best one", form="FILE"),
    "run": Word(
        "instead of ckpt: the run whose best checkpoint is tested; last is the newest run",
        form="RUN_DIR", synonyms=("run_dir",),
    ),
    "tta": Word(
        "test-time augmentation: flip averages the probabilities of an image and its mirror image",
        form="flip", values=("flip",),
    ),
    "temperature": TEMPERATURE,
    "config_dir": RECIPE["config_dir"],
}  # fmt: skip
KEYS = Keys(
    ("data.", "trainer.", "precision", "training.eval_batch_size"),
    refused=("trainer.fast_dev_run",), is_composed=False,
    hidden=("data.name", "data.augment."),  # data=NAME sets the first, evaluation ignores the rest
)  # fmt: skip


@with_stopwatch
def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    ckpt, home = values["ckpt"], values["run"]
    temperature = read_switch(values, "temperature")
    if values["tta"] not in (None, "flip"):
        raise UserError(f"tta={values['tta']}: expected flip")
    if ckpt is None and home is None:
        raise UserError("eval needs ckpt=FILE or run=RUN_DIR; last is the newest run")
    if ckpt is not None and home is not None:
        raise UserError(f"ckpt={ckpt} run={home}: both name a checkpoint; leave one of them out")
    path = find_checkpoint(ckpt, home)
    with loading_libraries():
        from convlens.experiment.evaluate import evaluate
        from convlens.experiment.summary import seconds_by_name

    logs.silence_libraries()  # Lightning has added its own handler on import
    evaluation = evaluate(
        path, overrides, print, mirrors=values["tta"] == "flip", temperature=temperature
    )
    if is_first_process():
        tested_on = evaluation.tested_on
        name = "test" if tested_on.is_own_split else tested_on.place
        print_results(f"{path}, after epoch {evaluation.epoch}", {name: evaluation.results})
        print_details(evaluation.details)
        print(format_seconds(seconds_by_name()))
        print(f"predictions, worst mistakes, results.json  {evaluation.home}")
    return 0
