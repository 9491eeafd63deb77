"""The peer: the recipe ``cats_dogs_regularized`` in Keras on TensorFlow, as its authors wrote it.

ImageDataGenerator reads, warps and rescales the JPEG files in every epoch, and `fit` trains on the
batches. Everything that the recipe does not set is Keras's default: nearest-neighbour resizing, one
loading thread that works ahead of training (`workers` 1), `jit_compile` "auto". `--workers` and
`--jit` change the last two, to check that the peer runs at its fastest. Its oneDNN kernels are on
(`--onednn`).

Two names differ in Keras 3: `lr` is `learning_rate`, and `fit_generator` is `fit`.
`shear_range=0.2` means degrees in this version; it costs the same.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rounds import arguments, claim_stdout, serve

from peers.onednn import add_option, choose

PARAMETERS = 3_453_121
BATCH = 20


def make_model(jit):
    """Build conv 32-64-128-128 with ReLU and pooling, dropout 0.5, dense 512, one probability."""
    from keras import Input, Sequential, layers, optimizers

    model = Sequential([Input((150, 150, 3))])
    for filters in (32, 64, 128, 128):
        model.add(layers.Conv2D(filters, (3, 3), activation="relu"))
        model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    assert model.count_params() == PARAMETERS
    model.compile(
        loss="binary_crossentropy",
        optimizer=optimizers.RMSprop(learning_rate=1e-4),
        metrics=["acc"],
        jit_compile=jit,
    )
    return model


def make_batches(folder: Path, workers: int):
    """Yield the training images, augmented, in batches of 20, endlessly."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rescale=1.0 / 255,
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        fill_mode="nearest",
    )
    batches = generator.flow_from_directory(
        str(folder), target_size=(150, 150), batch_size=BATCH, class_mode="binary"
    )
    batches.workers = workers
    return batches


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1, help="loading threads (Keras: 1)")
    parser.add_argument("--jit", choices=("auto", "true", "false"), default="auto", help="XLA")
    add_option(parser)
    args = parser.parse_args()
    choose(args.onednn)
    out = claim_stdout()

    import keras
    import numpy
    import scipy
    import tensorflow

    model = make_model({"auto": "auto", "true": True, "false": False}[args.jit])
    batches = make_batches(args.data / "train", args.workers)

    class Clock(keras.callbacks.Callback):
        """Counts from the end of the last warm-up step to the end of the last step."""

        def on_train_begin(self, logs=None):
            self.done, self.losses = 0, []
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.done += 1
            self.end = time.perf_counter()
            if self.done == args.warmup_steps:
                self.start = self.end
            self.losses.append(logs["loss"])
            self.model.stop_training = self.done == total

    clock = Clock()
    total = args.warmup_steps + args.steps

    def measure() -> tuple[int, float]:
        # Each round has its own `fit`, so that no loading thread runs between rounds. Keras 3
        # restarts its loader for every pass over the images; a round that is shorter than a pass
        # (the default: 90 steps of 100) contains no such pause.
        steps = min(total, len(batches))
        passes = -(-total // steps)
        model.fit(batches, steps_per_epoch=steps, epochs=passes, verbose=0, callbacks=[clock])
        if clock.done != total:
            raise SystemExit(f"Keras ended after {clock.done} of {total} steps")
        print(f"loss {clock.losses[0]:.3f} -> {clock.losses[-1]:.3f}", file=sys.stderr)
        return args.steps * BATCH, clock.end - clock.start

    threading = tensorflow.config.threading
    about = {
        "side": "keras",
        "versions": {
            "python": sys.version.split()[0],
            "tensorflow": tensorflow.__version__,
            "keras": keras.__version__,
            "scipy": scipy.__version__,
            "numpy": numpy.__version__,
        },
        "threads": {  # 0: TensorFlow's default, one for each core
            "intra_op": threading.get_intra_op_parallelism_threads(),
            "inter_op": threading.get_inter_op_parallelism_threads(),
            "loading": args.workers,
        },
        "precision": keras.config.dtype_policy().name,
        "onednn": args.onednn,
        "jit_compile": bool(model.jit_compile),
    }
    serve(out, about, measure)


if __name__ == "__main__":
    main()
