"""Words to config: what is typed arrives or is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convlens.cli.words import Word, parse_words, split_make_words
from convlens.config.compose import apply_overrides, compose
from convlens.config.folder import list_groups
from convlens.core.errors import UserError

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def test_the_default_is_scratch_on_shapes():
    config = compose([])
    assert (config.experiment, config.data.name) == ("scratch", "shapes")


def test_what_is_typed_wins_over_the_experiment():
    config = compose(["exp=reproduce/cats_dogs_regularized", "data=shapes", "optimizer.lr=0.5"])
    assert config.data.name == "shapes"
    assert config.optimizer.lr == 0.5
    assert config.data.augment.rotation_degrees == 40


def test_experiment_and_exp_are_one_word():
    assert compose(["experiment=reproduce/mnist_dense"]) == compose(["exp=reproduce/mnist_dense"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["exp=scrach"],
            "experiment=scrach: no such experiment; did you mean scratch or scratch_vit?",
        ),
        (["data=minst"], "data=minst: no such data; did you mean mnist?"),
        (["modle=scratch"], "modle: no such key; did you mean model"),
        (["data.dri=x"], "data.dri: no such key; did you mean data.dir"),
        (["model.filtres=[3]"], "model.filters"),
        (["training.epochs=abc"], "expected a whole number"),
        (["training.epochs=0"], "training.epochs=0"),
        (["training.epochs=2.5"], "expected a whole number"),
        (["data.augment.horizontal_flip=yess"], "expected true or false"),
        (["model.filters=32"], "expected a list"),
        (["model=3"], "model=3: no such model"),
        (["fast"], "expected key=value"),
        (["+data.new=1"], "cannot be added"),
        (["precision=8"], "precision=8"),
        (["optimizer.lr=-1"], "optimizer.lr=-1"),
        (["training.steps_per_epoch=many"], "training.steps_per_epoch=many"),
        (["seed=-1"], "seed=-1"),
    ],
)
def test_mistakes_are_named_in_one_line(words, said):
    with pytest.raises(UserError) as caught:
        compose(words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("callbacks.filter_visuals.units=2", "callbacks.filter_visuals=null"),
        ("callbacks.filter_visuals.recipe=a=b", "callbacks.filter_visuals=Null"),
        ("model.head.dropout=0.1", "model.head=null"),
        ("data.split.validation=0.1", "data.split=null"),
        ("finetune.phases.0.epochs=3", "finetune.phases=null"),
    ],
)
def test_a_key_and_null_above_it_contradict_each_other(below, above):
    for words in ([below, above], [above, below]):
        with pytest.raises(UserError, match="leaves no such key; leave one of them out") as caught:
            compose(["exp=finetune_vgg16", *words])
        assert str(caught.value).startswith(f"{below}: {above} leaves")


def test_a_key_and_a_shorter_list_above_it_contradict_each_other():
    words = ["exp=finetune_vgg16", "finetune.phases.1.epochs=3", "finetune.phases=[{epochs:2}]"]
    with pytest.raises(UserError, match="leaves no such key"):
        compose(words)


@pytest.mark.parametrize(
    "path", ["/a b/c", "~/pics (1)=x", "/weird,[name]{1}", "it's", 'quote"d', "back\\slash", "ä€"]
)
def test_any_path_arrives(path):
    assert compose([f"data.dir={path}"]).data.dir == str(Path(path).expanduser())


def test_home_is_expanded_in_lists():
    files = compose(["probes.files=[~/a.png,b.png]"]).probes.files
    assert files == [str(Path("~/a.png").expanduser()), "b.png"]


def test_every_choice_composes():
    for group, names in list_groups().items():
        for name in names:
            compose([f"{group}={name}"])


def test_slurm_takes_the_jobs_number_of_nodes(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    config = compose(["trainer=slurm"])
    assert config.trainer.num_nodes == 1
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    assert compose(["trainer=slurm"]).trainer.num_nodes == 4
    assert apply_overrides(config, ["trainer=slurm"]).trainer.num_nodes == 4


def test_changed_takes_keys_and_sources():
    config = compose([])
    assert apply_overrides(config, ["data.size=96"]).data.size == 96
    assert apply_overrides(config, ["data=mnist"]).data.name == "mnist"
    assert config.data.size == compose([]).data.size
    with pytest.raises(UserError, match="did you mean data.size"):
        apply_overrides(config, ["data.siz=96"])


def test_a_command_takes_exactly_its_words():
    table = {"src": Word("the folder", required=True), "seed": Word("the seed", default="0")}
    assert parse_words(["src=a"], "split", table) == {"src": "a", "seed": "0"}
    for words, said in (
        (["src"], "key=value"), (["sr=a"], "did you mean src"), ([], "needs src="),
        (["--src=a"], "write src=… without --"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            parse_words(words, "split", table)


@pytest.mark.parametrize(
    "typed",
    [
        ["data.dir=~/my pics", "exp=reproduce/mnist_dense"],
        ["probes.files=[a b.png,c.png]"],
        ["x=a$b", "y=$(HOME)", "z=it's", 'q="', "h=a#b", "b=back\\slash", "s=a;b|c&d<e>f*?"],
        ["=".join(["k", "v=w"])],
        ["TORCH_BACKEND=cpu", "k=v"],
        ["k="],
    ],
)
def test_every_word_typed_after_make_arrives(typed, tmp_path):
    """Through the real Makefile's spelling of the words and a real make."""
    words = [line for line in MAKEFILE.read_text().splitlines() if line.startswith("WORDS =")]
    script = "import sys, json; print(json.dumps(sys.argv[1:]))"
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"{words[0]}\nshow:\n\t@{sys.executable} -c '{script}' $(WORDS)\n")
    # `make test args=…` passes its own words on
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-s", "-f", makefile, "show", *typed],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    import json

    arrived = split_make_words(json.loads(done.stdout))
    assert sorted(arrived) == sorted(w for w in typed if not w.startswith("TORCH_BACKEND"))


def test_args_holds_words_as_a_shell_splits_them():
    assert split_make_words(["--make=args=exp=a\\ data.dir='b\\ c'"]) == ["exp=a", "data.dir=b c"]
    with pytest.raises(UserError, match="quotes"):
        split_make_words(["args=a='b"])


def test_make_refuses_a_word_that_is_no_target():
    done = subprocess.run(
        ["make", "-n", "-f", MAKEFILE, "train", "fast"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "fast: no such target" in done.stderr


def test_a_model_alone_brings_the_experiment_it_is_for():
    for model in ("vgg16", "inception_v3", "timm"):
        config = compose([f"model={model}", "data=image_folder"])
        assert config.experiment == f"finetune_{model}"
        assert config.data.name == "image_folder"
        assert "filters" not in config.model.plain()


def test_the_documents_vgg16_recipes_do_not_follow_todays_head():
    for name in ("features", "frozen", "finetune"):
        config = compose([f"exp=reproduce/vgg16_{name}"])
        assert (config.data.size, config.optimizer.name) == (150, "rmsprop")
        assert (config.model.head.pool, config.training.label_smoothing) == ("flatten", 0)
        assert {phase.lr["head"] for phase in config.finetune.phases} <= {2e-5, 4e-6}


def test_entries_of_lists_can_be_set():
    phases = compose(["exp=finetune_vgg16", "finetune.phases.1.epochs=4"]).finetune.phases
    assert (phases[0].epochs, phases[1].epochs) == (12, 4)
    with pytest.raises(UserError, match=r"finetune\.phases\.1\.epochs"):
        compose(["exp=finetune_vgg16", "finetune.phases.1.epoch=3"])
    with pytest.raises(UserError, match="expected a whole number"):
        compose(["exp=finetune_vgg16", "finetune.phases.1.epochs=few"])


def test_the_own_head_stands_in_place_of_a_new_heads_keys():
    assert compose(["exp=finetune_timm", "model.head=imagenet"]).model.head == "imagenet"
    with pytest.raises(UserError, match="model.head=imagent"):
        compose(["exp=finetune_timm", "model.head=imagent"])


@pytest.mark.parametrize(
    "words",
    [
        # one value for all blocks where the experiment has a list, and the other way round
        ["exp=reproduce/mnist_convnet", "model.pooling=none"],
        ["exp=reproduce/mnist_convnet", "model.pooling=average"],
        ["exp=reproduce/cifar10_convnet", "model.pooling=max"],
        ["model.kernel_size=[5,3,3,3]"],
        ["model.padding=[2,same,valid,0]", "model.kernel_size=[5,3,3,3]"],
        ["model.padding=1"],
        ["model.stride=[2,1,1,1]", "model.pool_size=[2,2,2,1]"],
        # other keys of several kinds
        ["exp=features_vgg16", "callbacks.filter_visuals.layers=auto"],
        ["trainer=gpu", "trainer.devices=[0,1]"],
        ["trainer=ddp_cpu", "trainer.devices=auto"],
        ["exp=finetune_vgg16", "finetune.phases.1.lr=1e-4"],
        ["exp=finetune_timm", "finetune.groups.base=backbone"],
        ["exp=finetune_vgg16", "finetune.groups.base={match: backbone, stage_decay: 0.5}"],
        ["exp=finetune_vgg16", "finetune.groups.base=[backbone.block1, backbone]"],
    ],
)
def test_a_key_of_several_kinds_takes_each_whatever_the_default_is(words):
    config = compose(words)
    # and so does a config that was stored
    stored = compose([word for word in words if word.startswith(("exp=", "trainer="))])
    typed = [word for word in words if not word.startswith(("exp=", "trainer="))]
    for word in typed:
        key = word.partition("=")[0]
        found, again = config.plain(), apply_overrides(stored, typed).plain()
        for part in key.split("."):
            part = int(part) if isinstance(found, list) else part
            found, again = found[part], again[part]
        assert found == again


def test_one_value_a_block_builds_what_a_list_of_it_builds():
    from convlens.models import build_model

    words = ["exp=reproduce/mnist_convnet", "model.padding=same"]
    for key, one, many in [
        ("pooling", "none", "[none,none,none]"), ("padding", "1", "[same,1,same]"),
        ("kernel_size", "5", "[5,5,5]"), ("stride", "1", "[1,1,1]"), ("pool_size", "2", "[2,2,2]"),
    ]:  # fmt: skip
        built = [
            build_model(compose([*words, f"model.{key}={text}"]).model, channels=1, size=28,
                        outputs=10)
            for text in (one, many)
        ]  # fmt: skip
        assert str(built[0]) == str(built[1])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.kernel_size=[3,x]", "or a list of such values"),
        ("model.kernel_size=big", "expected a whole number"),
        ("model.padding=[same,-1]", "valid, same or a whole number from 0 to 1000"),
        ("model.pooling=3", "expected max, average or none, or a list"),
        ("trainer.fast_dev_run=3", "expected true or false"),
    ],
)
def test_what_is_of_none_of_a_keys_kinds_is_refused(word, said):
    with pytest.raises(UserError) as caught:
        compose([word])
    assert word in str(caught.value) and said in str(caught.value)


def test_the_keys_that_a_config_says_take_one_value_for_each_block_do():
    """The comments of model/scratch.yaml, line by line, against what is built."""
    from convlens.models import build_model

    lines = (MAKEFILE.parent / "configs" / "model" / "scratch.yaml").read_text().splitlines()
    each = {line.partition(":")[0] for line in lines if line.rstrip().endswith("per block")}
    assert each == {"kernel_size", "stride", "padding", "pooling", "pool_size"}
    spec = compose([]).model
    for key in ("activation", "batch_norm", "dropout", *each):
        value = [getattr(spec, key)] * len(spec.filters)
        if key in each:
            build_model(spec.replace(**{key: value}), channels=3, size=64, outputs=5)
        else:
            with pytest.raises(UserError, match=f"model.{key}"):
                apply_overrides(compose([]), [f"model.{key}=[{','.join(map(str, value)).lower()}]"])


@pytest.mark.parametrize(
    "experiment", [name for name in list_groups()["experiment"] if name.startswith("reproduce/")]
)
def test_reproduced_recipes_draw_activations_as_the_documents_do(experiment):
    grids = compose([f"exp={experiment}", "data=shapes"]).callbacks.looks["activation_grids"]
    wanted = {"rule": "reference", "order": "index", "channels": None, "limit": 16}
    assert wanted.items() <= grids.arguments.items()
    if experiment.endswith("mnist_dense"):
        assert not compose([f"exp={experiment}", "callbacks=none"]).callbacks.looks
