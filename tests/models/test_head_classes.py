"""A head of a library answers for the classes it was trained for, or by a stated mapping."""

from __future__ import annotations

import csv

import pytest
import torch
from timm.data import ImageNetInfo
from torchvision.models import ResNet18_Weights

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment.module import build_module
from convlens.models import build_model
from convlens.models.imagenet import select_outputs

# of another source than the code's: torchvision's for another network, timm's index by index
NAMES = list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
INFO = ImageNetInfo()
SYNSETS = [INFO.index_to_label_name(i) for i in range(1000)]
NUMBERS = sorted(str(number) for number in range(1000))  # as folders lie: 0, 1, 10, 100, …


def test_all_classes_in_their_order_need_no_word():
    assert select_outputs("order", NAMES) is None
    assert select_outputs("order", SYNSETS) is None
    assert sorted(SYNSETS) == SYNSETS  # so folders named by id lie in the head's order


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (NUMBERS, "class 0 of the data is 0, of the head tench"),
        (sorted(NAMES), "class 0 of the data is Afghan hound, of the head tench"),
        ([SYNSETS[0], *SYNSETS[:1:-1], SYNSETS[1]], "class 1 of the data is n15075141"),
        (SYNSETS[:10], r"the data has 10 \(n01440764"),
        (["cats", "dogs"], r"the data has 2 \(cats, dogs"),
        ([f"class {i}" for i in range(1000)], "class 0 of the data is class 0"),
    ],
)
def test_other_classes_are_refused_with_the_ways_out(classes, said):
    with pytest.raises(UserError, match=said) as caught:
        select_outputs("order", classes)
    for way in ("model.head_classes=names", "numbers", "CSV file", "omit model.head"):
        assert way in str(caught.value)


def test_stated_mappings(tmp_path):
    found = select_outputs("numbers", NUMBERS)
    assert [NAMES[output] for output in found] == [NAMES[int(name)] for name in NUMBERS]
    assert NAMES[found[NUMBERS.index("397")]] == "puffer"  # not the 397th in byte order
    chosen = ["tabby", "n02123159", "espresso"]
    assert select_outputs("names", chosen) == [281, 282, 967]
    with (tmp_path / "map.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("class", "output"), ("Kater", "n02123045"), ("Kaffee", 967), ("Hund", "Pug"),
             ("nobody", 3)]
        )  # fmt: skip
    with pytest.raises(UserError, match="Pug is not an ImageNet class .* did you mean pug"):
        select_outputs(str(tmp_path / "map.csv"), ["Kaffee", "Hund"])
    assert select_outputs(str(tmp_path / "map.csv"), ["Kaffee", "Kater"]) == [967, 281]
    assert select_outputs([3, 1, 2], ["a", "b", "c"]) == [3, 1, 2]


def test_mistakes_of_a_mapping_are_told(tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("class,output\na,1\nb,1\nc,1000\n")
    for asked, classes, said in (
        ("names", ["tabby", "Tabby"], "Tabby is not an ImageNet class .* did you mean tabby"),
        ("names", ["tabby", "n02123045"], "tabby and n02123045 are both output 281"),
        ("numbers", ["1", "01"], "1 and 01 are both output 1"),
        ("numbers", ["1", "one"], "'one' is not an output number"),
        ("numbers", ["1", "1000"], "'1000' is not an output number"),
        ("gone.csv", ["a"], r"choose order, names, numbers or a CSV file; gone.csv cannot be read"),
        (str(file), ["a", "b"], "a and b are both output 1"),
        (str(file), ["c"], "'1000' is not an output number"),
        (str(file), ["a", "d", "e"], r"no row for 2 of the classes \(d, e\)"),
        ([1, 2], ["a", "b", "c"], "a list of 2 outputs for 3 classes"),
        ([1, 1000], ["a", "b"], "'1000' is not an output number"),
    ):
        with pytest.raises(UserError, match=said):
            select_outputs(asked, classes)
    file.write_text("name,number\na,1\n")
    with pytest.raises(UserError, match="the file needs the columns class,output"):
        select_outputs(str(file), ["a"])


@pytest.fixture
def weights(at):
    """A ResNet18 with random weights, as a library would have it."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("resnet18", pretrained=False).eval()
    torch.save(network.state_dict(), at / "resnet18.pth")
    return network


def words(*more: str) -> list[str]:
    return ["exp=finetune_timm", "model.head=imagenet", "model.weights=resnet18.pth",
            "data.size=32", *more]  # fmt: skip


def test_a_run_answers_with_the_outputs_of_its_classes(weights):
    chosen = ["espresso", "tabby", "pug"]
    module = build_module(compose(words("model.head_classes=names")), chosen).eval()
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        normalised = module.model.normalise(picture)
        wanted = weights(normalised)[:, [NAMES.index(name) for name in chosen]]
        torch.testing.assert_close(module.model(picture), wanted)
    assert module.model.head_outputs == [967, 281, 254]
    # a checkpoint needs neither the names nor the file again
    config = compose(words("model.head_classes=[967,281,254]"))
    again = build_module(config, ["a", "b", "c"], pretrained=False)
    again.load_state_dict(module.state_dict())


@pytest.mark.parametrize("names", [NUMBERS, sorted(NAMES), ["cats", "dogs"]])
def test_a_run_over_other_classes_is_refused_also_out_of_a_checkpoint(weights, names):
    for pretrained in (True, False):
        with pytest.raises(UserError, match="model.head_classes=names"):
            build_module(compose(words()), names, pretrained=pretrained)


def test_one_logit_is_no_two_classes_of_the_head(weights):
    config = compose(words("training.loss=binary", "model.head_classes=names"))
    with pytest.raises(UserError, match="but 1 are needed"):
        build_module(config, ["tabby", "pug"])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnext_tiny.fb_in22k", "21841"),
        ("resnetv2_50x1_bit.goog_in21k", "21843"),
        ("convnext_tiny.in12k", "11821"),
        ("convnext_base.clip_laion2b", "640"),
    ],
)
def test_heads_of_other_sizes_are_refused_before_anything_is_fetched(at, name, count):
    spec = compose(["exp=finetune_timm", f"model.name={name}", "model.head=imagenet"]).model
    with pytest.raises(UserError, match=f"the weights of {name} have {count} classes"):
        build_model(spec, channels=3, size=64, outputs=1000)
