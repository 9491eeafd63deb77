"""The callbacks in somebody else's Lightning project: three lines, no convlens around them."""

from __future__ import annotations

import pytest
import pytorch_lightning as L
import torch
from convlens.callbacks import (
    ActivationGrids,
    ClassMeans,
    ConfusionMatrix,
    FilterVisuals,
    GradCam,
    Looks,
    Mistakes,
    Scores,
)
from convlens.callbacks.logging.writing import write_picture
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

NAMES = ("cat", "dog")


class Theirs(L.LightningModule):
    """Batches are (pictures, labels), pictures normalised, nothing is returned from validation."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 2))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def normalised(pictures):
    return (pictures - 0.5) / 0.25


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(22, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def fit(folder, pictures, callbacks, module=None, labels=None):
    torch.manual_seed(0)
    module = Theirs() if module is None else module
    labels = torch.arange(len(pictures)) % 2 if labels is None else labels
    data = torch.utils.data.TensorDataset(normalised(pictures), labels)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, num_sanity_val_steps=1,
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
    )  # fmt: skip
    trainer.fit(
        module,
        torch.utils.data.DataLoader(data, 4, shuffle=True),
        torch.utils.data.DataLoader(data, 7),
    )
    return module, trainer


def test_every_callback_alone_and_weights_unchanged(tmp_path, pictures):
    labels = torch.arange(22) % 2
    callbacks = [
        kind.watch(pictures[:4], labels[:4], NAMES, preprocess=normalised)
        for kind in (
            GradCam(), Scores(), Mistakes(), ConfusionMatrix(), ClassMeans(), ActivationGrids(),
            FilterVisuals(units=1, full_units=1, steps=2),
        )
    ]  # fmt: skip
    module, trainer = fit(tmp_path / "on", pictures, callbacks)
    alone, _ = fit(tmp_path / "off", pictures, [])
    for (name, a), (_, b) in zip(
        module.state_dict().items(), alone.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name

    events = EventAccumulator(str(tmp_path / "on"), {"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    wanted = {
        "grad_cam/00", "layers/activations/features.0/00", "layers/filters/features.0",
        "predictions/confusion_matrix", "grad_cam_means", "predictions/mistakes",
        "predictions/random", "predictions/breakdown",
    }  # fmt: skip
    assert wanted <= set(tags["images"])
    assert [event.step for event in events.Images("grad_cam/00")] == [0, 1, 2]
    assert {"explain/drift", "explain/confident_mistakes"} <= set(tags["scalars"])

    # the answers are those of a pass of one's own
    module.eval()
    with torch.no_grad():
        shares = module(normalised(pictures)).softmax(1)
    found = Looks.of(trainer).predictions.latest["val"]
    assert found.rows.tolist() == list(range(22))
    assert found.labels.tolist() == labels.tolist()
    assert found.predicted.tolist() == shares.argmax(1).tolist()
    torch.testing.assert_close(torch.from_numpy(found.confidences), shares.amax(1))
    torch.testing.assert_close(
        torch.from_numpy(found.true_confidences), shares[torch.arange(22), labels]
    )
    wrong = [i for i in range(22) if shares[i].argmax() != labels[i]]
    order = sorted(wrong, key=lambda i: -float(shares[i].max()))
    assert found.mistakes(5).tolist() == order[:5] and len(order) > 1


def test_without_names_classes_are_numbered(tmp_path, pictures):
    matrix = ConfusionMatrix().watch(pictures[:4], preprocess=normalised)
    fit(tmp_path, pictures, [matrix])
    assert matrix.class_names == ("class 0", "class 1")


def test_shapes_that_do_not_fit_are_refused(pictures):
    with pytest.raises(ValueError, match="3 labels"):
        GradCam().watch(pictures[:4], torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(N, 1 or 3, H, W\)"):
        GradCam().watch(torch.rand(4, 5, 8, 8))


class WandbLogger:
    def __init__(self):
        self.got = []

    def log_image(self, key, images, step=None, **more):
        self.got.append((key, images[0].shape, more["caption"]))


class MLFlowLogger:
    run_id = "r1"

    def __init__(self):
        self.got, self.experiment = [], self

    def log_image(self, run_id, image, artifact_file=None, key=None, step=None):
        self.got.append((run_id, key, image.shape, step))


class CometLogger:
    def __init__(self):
        self.got, self.experiment = [], self

    def log_image(self, image_data, name=None, step=None):
        self.got.append((name, image_data.shape, step))


def test_other_loggers_get_the_picture_in_their_own_words():
    import numpy as np

    picture = np.zeros((5, 7, 3), np.uint8)
    loggers = [WandbLogger(), MLFlowLogger(), CometLogger()]
    trainer = type("Trainer", (), {"loggers": loggers})()
    write_picture(trainer, None, "grad_cam/00", picture, 3)
    assert [logger.got for logger in loggers] == [
        [("grad_cam/00", (5, 7, 3), ["epoch 3"])],
        [("r1", "grad_cam.00", (5, 7, 3), 3)],
        [("grad_cam/00", (5, 7, 3), 3)],
    ]


class Ends(Theirs):
    """Their module with another end."""

    def __init__(self, end, outputs: int = 2):
        super().__init__()
        self.classifier[1] = nn.Linear(4, outputs)
        self.classifier[1].weight.data.mul_(6)
        if isinstance(end, nn.Module):
            self.end = end
        else:
            self.__dict__["end"] = end

    def forward(self, x):
        return self.end(super().forward(x))

    def logits(self, x):
        return super().forward(x)

    def training_step(self, batch, _):
        return self(batch[0]).float().mean()

    def validation_step(self, batch, _):
        self(batch[0])


def watched(tmp_path, pictures, module, **options):
    callbacks = [GradCam(), ConfusionMatrix()]
    for each in callbacks:
        each.watch(
            pictures[:4], torch.arange(4) % 2, NAMES, preprocess=normalised, folder=tmp_path,
            **options,
        )  # fmt: skip
    with torch.random.fork_rng():
        fitted, trainer = fit(tmp_path, pictures, callbacks, module)
    fitted.eval()
    return fitted, trainer, sorted(file.name for file in tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize(
    ("end", "outputs", "said"),
    [
        (nn.Softmax(1), 2, "auto"),
        (nn.LogSoftmax(1), 2, "auto"),
        (nn.Sigmoid(), 1, "auto"),
        (lambda z: nn.functional.softmax(z, 1), 2, "probabilities"),
        (lambda z: nn.functional.log_softmax(z, 1), 2, "probabilities"),
        (torch.sigmoid, 1, "probabilities"),
        (lambda z: z.squeeze(), 2, "auto"),
        (lambda z: z.squeeze(), 1, "auto"),
    ],
)  # fmt: skip
def test_answers_are_probabilities_once_whatever_a_module_ends_in(
    tmp_path, pictures, end, outputs, said
):
    # 22 pictures in batches of 7: the last one holds a single picture
    module, trainer, files = watched(tmp_path, pictures, Ends(end, outputs), outputs=said)
    with torch.no_grad():
        logits = module.logits(normalised(pictures))
    shares = logits.softmax(1) if outputs == 2 else torch.cat([-logits, logits], 1).sigmoid()
    found = Looks.of(trainer).predictions.latest["val"]
    assert found.rows.tolist() == list(range(22))
    torch.testing.assert_close(
        torch.from_numpy(found.confidences), shares.amax(1), atol=1e-5, rtol=1e-4
    )
    assert len(files) > 3 and not Looks.of(trainer).ledger.failures


@pytest.mark.parametrize(
    ("end", "outputs", "said"),
    [
        (lambda z: nn.functional.softmax(z, 1), 2, "outputs=probabilities"),
        (torch.sigmoid, 1, "a sigmoid computed them"),
        (nn.Sigmoid(), 2, "multi-label"),
        (nn.Identity(), 3, "returns 3 outputs per image, but there are 2 classes"),
        (lambda z: z.flatten(), 2, "returns (8,) for 4 images"),
    ],
)
def test_outputs_that_cannot_be_read_are_told_and_nothing_is_drawn(
    tmp_path, pictures, end, outputs, said
):
    _, trainer, files = watched(tmp_path, pictures, Ends(end, outputs))
    assert not files
    failures = Looks.of(trainer).ledger.failures
    assert set(failures) == {"GradCam", "ConfusionMatrix"}
    # of two probes where the outputs of two images are asked for
    assert all(said.replace("(8,) for 4", "(4,) for 2") in line for line in failures.values())


@pytest.mark.parametrize("labels", ["one_hot", "beyond", "floats"])
def test_labels_of_another_kind_do_not_end_their_training(tmp_path, pictures, labels, caplog):
    module = Ends(nn.Identity())
    kinds = {
        "one_hot": nn.functional.one_hot(torch.arange(22) % 2).float(),
        "beyond": torch.arange(22) % 3,
        "floats": (torch.arange(22) % 2).float(),
    }
    matrix = ConfusionMatrix().watch(pictures[:4], class_names=NAMES, preprocess=normalised)
    with caplog.at_level("WARNING", "convlens"):
        _, trainer = fit(tmp_path, pictures, [matrix], module, kinds[labels])
    found = Looks.of(trainer).predictions.latest.get("val")
    if labels == "floats":
        assert found.labels.tolist() == kinds["floats"].long().tolist()
    else:
        said = "class numbers (B,)" if labels == "one_hot" else "a label is 2, but the network"
        assert said in caplog.text
