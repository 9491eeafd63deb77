"""The peer: VGG16 in Keras on TensorFlow, to extract features and to train a head or block5.

    keras_vgg16.py vgg16_extract --data DIR ...      features of photographs, 20 at a time
    keras_vgg16.py vgg16_frozen --data DIR ...       training steps: a new head on the frozen base
    keras_vgg16.py vgg16_epoch --data DIR ...        the same, a whole epoch with its validation
    keras_vgg16.py vgg16_finetune --data DIR ...     training steps: block5 and a new head

The recipes are those of F. Chollet's book: `flow_from_directory` reads, resizes and rescales the
JPEG files, followed by `conv_base.predict` on each batch, or by `fit` on augmented batches. Two
things differ from the book, to run the peer at its fastest: `predict_on_batch` (or `--how call`)
instead of `predict`, which builds a loader for every batch, and TensorFlow's oneDNN kernels
(`--onednn`). Everything else is Keras's default.

An epoch of 2,000 images and the validation of 1,000 take minutes, so ``vgg16_epoch`` times steps of
both and scales them to the numbers of images in the folders.

Weights are random; they do not change the speed and need no download.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rounds import arguments, claim_stdout, serve

from peers.onednn import add_option, choose

BATCH = 20
BASE = 14_714_688
HEAD = 2_097_665
TRAINED = {False: HEAD, True: HEAD + 7_079_424}  # without and with block5
AUGMENTATION = dict(
    rotation_range=40,
    width_shift_range=0.2,
    height_shift_range=0.2,
    shear_range=0.2,
    zoom_range=0.2,
    horizontal_flip=True,
    fill_mode="nearest",
)


def make_base():
    """Build the 13 convolutions with their pooling, (150, 150, 3) to (4, 4, 512)."""
    from keras.applications import VGG16

    base = VGG16(weights=None, include_top=False, input_shape=(150, 150, 3))
    assert base.count_params() == BASE
    return base


def make_model(base, free: bool):
    """Build the base with dense 256, dropout 0.5 and one probability, at the recipe's rate.

    Args:
        base: VGG16's base.
        free: whether block5 is trained; everything else in the base is frozen.
    """
    from keras import Input, Sequential, layers, optimizers

    for layer in base.layers:
        layer.trainable = free and layer.name.startswith("block5")
    model = Sequential(
        [
            Input((150, 150, 3)),
            base,
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    assert sum(weight.numpy().size for weight in model.trainable_weights) == TRAINED[free]
    model.compile(
        loss="binary_crossentropy",
        optimizer=optimizers.RMSprop(learning_rate=1e-5 if free else 2e-5),
        metrics=["acc"],
    )
    return model


def make_batches(folder: Path, **augmentation):
    """Yield the images of a folder in batches of 20, endlessly."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(rescale=1.0 / 255, **augmentation).flow_from_directory(
        str(folder), target_size=(150, 150), batch_size=BATCH, class_mode="binary"
    )


def extraction(args):
    """Return a function that measures a round of extraction, and entries for the description."""
    base = make_base()
    batches = make_batches(args.data / "train")
    ways = {
        "predict": lambda images: base.predict(images, verbose=0),
        "predict_on_batch": base.predict_on_batch,
        "call": lambda images: base(images, training=False).numpy(),
    }
    forward = ways[args.how]

    def run(steps: int) -> int:
        count = 0
        while steps:
            images, _ = next(batches)
            if len(images) < BATCH:
                continue  # the last batch of a pass
            features = forward(images)
            assert features.shape == (BATCH, 4, 4, 512)
            count, steps = count + BATCH, steps - 1
        return count

    def measure() -> tuple[int, float]:
        run(args.warmup_steps)
        start = time.perf_counter()
        images = run(args.steps)
        return images, time.perf_counter() - start

    return measure, {"how": args.how}


def make_clock(args):
    """Return a callback that times from the last warm-up step to the last step."""
    import keras

    total = args.warmup_steps + args.steps

    class Clock(keras.callbacks.Callback):
        def begin(self, logs=None):
            self.done = 0
            self.start = time.perf_counter()

        def step(self, batch, logs=None):
            self.done += 1
            self.end = time.perf_counter()
            if self.done == args.warmup_steps:
                self.start = self.end
            self.model.stop_training = self.done == total

        on_train_begin = on_test_begin = begin
        on_train_batch_end = on_test_batch_end = step

    return Clock()


def finetuning(args):
    return training(args, free=True)


def frozen(args):
    return training(args, free=False)


def training(args, free: bool):
    """Return a function that measures a round of training, and entries for the description."""
    model = make_model(make_base(), free)
    batches = make_batches(args.data / "train", **AUGMENTATION)
    total = args.warmup_steps + args.steps
    clock = make_clock(args)

    def measure() -> tuple[int, float]:
        steps = min(total, len(batches))  # Keras restarts its loader for every pass
        passes = -(-total // steps)
        model.fit(batches, steps_per_epoch=steps, epochs=passes, verbose=0, callbacks=[clock])
        if clock.done != total:
            raise SystemExit(f"Keras ended after {clock.done} of {total} steps")
        return args.steps * BATCH, clock.end - clock.start

    return measure, {"jit_compile": bool(model.jit_compile)}


def epoch(args):
    """Return a function that measures an epoch of the frozen recipe, scaled from some steps."""
    model = make_model(make_base(), free=False)
    train = make_batches(args.data / "train", **AUGMENTATION)
    validation = make_batches(args.data / "validation")
    total = args.warmup_steps + args.steps
    clock = make_clock(args)

    def measure() -> tuple[int, float]:
        model.fit(train, steps_per_epoch=total, verbose=0, callbacks=[clock])
        seconds = (clock.end - clock.start) / (args.steps * BATCH) * train.n
        model.evaluate(validation, steps=total, verbose=0, callbacks=[clock])
        seconds += (clock.end - clock.start) / (args.steps * BATCH) * validation.n
        return train.n, seconds

    if total > min(len(train), len(validation)):
        raise SystemExit(f"{total} steps are more than a pass over the images")
    return measure, {"scaled_from": 2 * args.steps * BATCH, "jit_compile": bool(model.jit_compile)}


TASKS = {
    "vgg16_extract": extraction,
    "vgg16_frozen": frozen,
    "vgg16_epoch": epoch,
    "vgg16_finetune": finetuning,
}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument(
        "--how",
        choices=("predict", "predict_on_batch", "call"),
        default="predict_on_batch",
        help="forward pass of the extraction (default: %(default)s)",
    )
    add_option(parser)
    args = parser.parse_args()
    choose(args.onednn)
    out = claim_stdout()

    import keras
    import numpy
    import scipy
    import tensorflow

    measure, details = TASKS[args.task](args)
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
            "loading": 0 if args.task == "vgg16_extract" else 1,
        },
        "precision": keras.config.dtype_policy().name,
        "onednn": args.onednn,
        **details,
    }
    serve(out, about, measure)


if __name__ == "__main__":
    main()
