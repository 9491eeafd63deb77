"""``make predict ckpt=FILE images=DIR``: every class's probability for each picture, as a table."""

from __future__ import annotations

from convlens.cli.words import extract, whole_number
from convlens.core.errors import UserError


def run(words: list[str]) -> int:
    asked, words = extract(words, "ckpt", "images", "run_dir", "batch")
    batch = whole_number({"batch": asked["batch"] or "64"}, "batch")
    if asked["images"] is None:
        raise UserError("predict needs images=DIR, a folder of pictures (or one picture)")
    if asked["ckpt"] is None and not words:
        raise UserError(
            "predict needs ckpt=FILE; ckpt=last is the newest run's best, ckpt=example the network "
            "that comes with convlens, and model=NAME model.head=imagenet a library's network"
        )
    from convlens.experiment.data import used_images
    from convlens.experiment.inputs import checkpoint_path, picture_files, walk_from
    from convlens.experiment.networks import network_of
    from convlens.experiment.predict import TABLE, predict_files, predictions_folder

    explainer, network = network_of(asked["ckpt"], words)
    walk = walk_from(asked["images"])
    files = list(picture_files(walk))
    table = predictions_folder(asked["run_dir"]) / TABLE
    print(f"{len(files)} pictures, {network}")
    for line in walk.notes(f"in {asked['images']}"):
        print(f"! {line}")
    done = predict_files(explainer, files, table, batch=batch)
    for name, count in sorted(done.counts.items(), key=lambda pair: -pair[1])[:10]:
        print(f"  {count:>8} {name}")
    for line in done.refused[:5]:
        print(f"! {line}")
    if done.refused:
        print(f"{len(done.refused)} of {len(files)} files refused; the column error says why")
    if asked["ckpt"] and (line := used_images(files, checkpoint_path(asked["ckpt"]))):
        print(f"! {line}")
    print(f"{done.seconds:.1f} s, {len(files) / max(done.seconds, 1e-9):.0f} pictures/s")
    print(f"predictions  {table}")
    if len(done.refused) == len(files):
        raise UserError(f"none of the files of {asked['images']} is a picture")
    return 0
