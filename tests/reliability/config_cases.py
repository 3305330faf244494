"""Mistakes in a configuration, of all six tasks: generated from signatures, and written by hand."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from jsonargparse._parameter_resolvers import get_signature_parameters
from lightning import LightningDataModule
from torch import nn

# What each task's command line starts from: its configs, data module and network.
BASES = {
    "classification": ("digits", "data.classification.Digits", "cnsn.nets.WideResNet"),
    "imagenet": ("imagenet imagenet_small", "data.imagenet.ImageNet", "cnsn.nets.WideResNet"),
    "fixmatch": ("fixmatch_digits", "data.fixmatch.Digits", "cnsn.nets.WideResNet"),
    "segmentation": (
        "scenes",
        "data.segmentation.SourceAndTarget",
        "tasks.segmentation_networks.SmallFPN",
    ),
    "text": ("sst2", "data.text.IMDbToSST2", "cnsn.nets.TextCNN"),
    "adaptation": ("domains", "data.domains.DomainPair", "cnsn.nets.NarrowResNet"),
}


class Mistake(NamedTuple):
    """One option that is wrong; `words` are in the message: key, value, and what is allowed."""

    task: str
    options: tuple[str, ...]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.task} {' '.join(self.options)}"


def module_of(task: str) -> Any:
    name = "classification" if task == "imagenet" else task
    return importlib.import_module(f"tasks.{name}")


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# -------------------------------------------------------------------------- from the signatures


def parameters(prefix: str, made: Any) -> Iterator[tuple[str, Any]]:
    """Option and type of every parameter of a class, those of dataclasses in it one by one."""
    for option in get_signature_parameters(made):
        if dataclasses.is_dataclass(option.annotation):
            yield from parameters(f"{prefix}.{option.name}", option.annotation)
        elif option.annotation is not inspect.Parameter.empty:
            yield f"{prefix}.{option.name}", option.annotation


def options_of(task: str) -> Iterator[tuple[str, Any]]:
    _, data, network = BASES[task]
    yield from parameters("model", module_of(task).TASK)
    yield from parameters("data", named(data))
    if inspect.isclass(named(network)):
        yield from parameters("model.network", named(network))
    yield "trainer.max_epochs", int | None
    yield "trainer.accumulate_grad_batches", int


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, without None."""
    union = get_origin(hint) in (Union, types.UnionType)
    return tuple(t for t in get_args(hint) if t is not type(None)) if union else (hint,)


def wrong_type(hint: Any) -> tuple[str, str] | None:
    """A value that no type of `hint` takes, and a word that says what is allowed."""
    kinds = alternatives(hint)
    objects = (str, LightningDataModule, nn.Module)
    if any(inspect.isclass(kind) and issubclass(kind, objects) for kind in kinds):
        return None
    first = kinds[0]
    if get_origin(first) is Literal:
        return "nonsense", str(get_args(first)[0])
    if first in (int, float, bool):
        return "nonsense", first.__name__
    if get_origin(first) in (tuple, list) or "Sequence" in str(first):
        return "{nonsense: 1}", "a list"
    return None


def wrong_number(hint: Any) -> str | None:
    """A number that no count, size, rate or probability is."""
    kinds = alternatives(hint)
    return ".nan" if float in kinds else "-1" if int in kinds else None


FREE = {  # Options for which any whole number is right.
    "seed",
    "label_seed",
    "subset_seed",
    # The data say it, whatever is typed.
    "vocabulary_size",
}


def generated() -> list[Mistake]:
    """Wrong types and numbers of every option, once where tasks share it."""
    found: list[Mistake] = []
    seen: set[tuple[str, str]] = set()
    for task in BASES:
        for key, hint in options_of(task):
            name = key.rpartition(".")[2]
            if name == "seed" or (key, str(hint)) in seen:
                continue
            seen.add((key, str(hint)))
            typed = wrong_type(hint)
            if typed is not None:
                value, allowed = typed
                shown = "nonsense"
                found.append(Mistake(task, (f"--{key}={value}",), (name, shown, allowed)))
            number = wrong_number(hint)
            if number is not None and name not in FREE:
                words = (name, number.lstrip("."), "Expected", " to be ")
                found.append(Mistake(task, (f"--{key}={number}",), words))
        found.append(Mistake(task, ("--model.nonsense=1",), ("--model.nonsense=1", "--help")))
        found.append(Mistake(task, ("--data.nonsense=1",), ("nonsense", "--data.help")))
    return found


# ------------------------------------------------------------------------------------- by hand

CN = "--model.cnsn.kind=cn"
ACCUMULATE = (
    "--trainer.callbacks=[{class_path: GradientAccumulationScheduler, "
    "init_args: {scheduling: {0: 2}}}]"
)
CALLBACK = "--trainer.callbacks=[{class_path: %s}]"
AUGMIX = "--data.augment=[{class_path: data.augmentations.AugMix}]"


def by_hand() -> list[Mistake]:
    """Unknown names, numbers out of range, and options that are right alone and wrong together."""
    cases = {
        "classification": [
            (["--model.cnsn.kind=cnn"], ["kind", "cnn", "cnsn"]),
            (["--model.cnsn.kind=sn", "--model.cnsn.position=middle"], ["middle", "residual"]),
            ([CN, "--model.cnsn.stages=[0]"], ["stages", "from 1", "0"]),
            ([CN, "--model.cnsn.stages=[9]"], ["stages", "9"]),
            ([CN, "--model.cnsn.image=true", "--model.cnsn.cn_position=pre"], ["image", "pre"]),
            ([CN, "--model.crossnorm.k=99"], ["crossnorm.k", "99", "at most"]),
            ([CN, "--model.cnsn.beta=.inf"], ["beta", "inf", "positive"]),
            (["--model.crossnorm.consistency=1e999"], ["consistency", "inf", "0 or more"]),
            (["--model.augmix=.inf"], ["augmix", "inf", "0 or more"]),
            (["--model.crossnorm.p=1.5"], ["p", "1.5", "[0, 1]"]),
            (["--model.weights=No_Weights.V1"], ["weights", "No_Weights.V1", "ResNet50_Weights"]),
            (["--model.official=/nowhere.pth"], ["/nowhere.pth", "no such file"]),
            (["--model.network.class_path=cnsn.nets.NoNet"], ["network", "NoNet"]),
            (
                ["--model.network.class_path=subprocess.Popen"],
                ["network", "subprocess.Popen", "subclass of Module"],
            ),
            (["--model.network.depth=11"], ["depth", "11"]),
            (["--model.network.num_classes=7"], ["num_classes", "7", "10"]),
            (["--model.network.colour=red"], ["colour", "--model.network.help"]),
            (["--data.class_path=data.nothing.Digits"], ["data.nothing.Digits"]),
            (["--data.class_path=data.text.IMDbToSST2"], ["data", "IMDbToSST2"]),
            (["--data.corruptions=[rain]"], ["corruptions", "rain", "fog"]),
            (["--data.batch_size=0"], ["batch_size", "0", "at least"]),
            (["--data.jitter=2"], ["jitter", "2", "[0, 1]"]),
            (["--data.augment=[{class_path: data.augmentations.Blur}]"], ["augment", "Blur"]),
            ([AUGMIX, "--model.adversarial={}"], ["adversarial", "AugMix", "both"]),
            (["--model.optimizer.algorithm=sgdm"], ["algorithm", "sgdm", "adam"]),
            (["--model.optimizer.momentum=1"], ["momentum", "1", "[0, 1)"]),
            (["--model.optimizer.milestones=[0.5, 0.2]"], ["milestones", "0.5", "rising"]),
            (["--model.attacks=[laser]"], ["attacks", "laser"]),
            (["--seed_everything=-1"], ["seed_everything", "-1", "2^32"]),
            (["--seed_everything=true"], ["seed", "True", "int"]),
            (["--name=../elsewhere"], ["name", "../elsewhere", "a/b/c"]),
            (["--name=/tmp/elsewhere"], ["name", "/tmp/elsewhere", "a/b/c"]),
            (["--nonfinite=ignore"], ["nonfinite", "ignore", "skip"]),
            (["--ckpt_path=/nowhere.ckpt"], ["ckpt_path", "/nowhere.ckpt"]),
            (["--config=configs/missing.yaml"], ["config", "configs/missing.yaml"]),
            (["--name=" + "/".join(2000 * "a")], ["name", "at most 200", "3999"]),
            (["--model.network.depth=null"], ["model.network.depth", "null", "int"]),
            (["--model.optimizer.lr=1e308"], ["model.optimizer.lr", "1e+308", "at most"]),
            (["--data.workers=9999"], ["data.workers", "9999", "at most"]),
            ([f"--data.batch_size={10**30}"], ["data.batch_size", str(10**30), "at most"]),
            (["--fresh=perhaps"], ["fresh", "perhaps", "bool"]),
            (["--save_every=-1"], ["save_every", "-1", "0"]),
            (["--trainer.precision=17"], ["precision", "17", "bf16-mixed"]),
            (["--trainer.max_epochs=-1"], ["max_epochs", "-1"]),
            (["--trainer.accelerator=abacus"], ["accelerator", "abacus", "cpu"]),
            (["--trainer.devices=0"], ["devices", "0", "from 1"]),
            (
                ["--trainer.limit_train_batches=2.5"],
                ["limit_train_batches", "2.5", "[0.0, 1.0] or an int"],
            ),
            (["--trainer.accumulate_grad_batches=0"], ["accumulate_grad_batches", "0"]),
            (
                ["--trainer.accumulate_grad_batches=9999999999"],
                ["accumulate_grad_batches", "9999999999", "at most"],
            ),
            (["--trainer.max_epochs=null"], ["max_epochs", "null", "0 or more"]),
            (["--trainer.val_check_interval=0"], ["val_check_interval", "0", "(0, 1]"]),
            (["--trainer.check_val_every_n_epoch=0"], ["check_val_every_n_epoch", "0", "1"]),
            (["--trainer.gradient_clip_val=-1"], ["gradient_clip_val", "-1", "0 or more"]),
            (["--trainer.log_every_n_steps=-1"], ["log_every_n_steps", "-1", "0 or more"]),
            (["--trainer.precision=bf16-true"], ["precision", "bf16-true", "bf16-mixed"]),
            (["--trainer.max_time=00:02:00:00"], ["max_time", "00:02:00:00", "SIGTERM"]),
            (["--trainer.overfit_batches=2"], ["overfit_batches", "2", "limit_train_batches"]),
            (
                ["--trainer.use_distributed_sampler=true"],
                ["use_distributed_sampler", "true", "false"],
            ),
            (
                ["--trainer.reload_dataloaders_every_n_epochs=1"],
                ["reload_dataloaders_every_n_epochs", "1", "0"],
            ),
            (
                [ACCUMULATE],
                ["trainer.callbacks", "GradientAccumulationScheduler", "accumulate_grad_batches"],
            ),
            ([CALLBACK % "SpikeDetection"], ["trainer.callbacks", "SpikeDetection", "nonfinite"]),
            ([CALLBACK % "Timer"], ["trainer.callbacks", "Timer", "SIGTERM"]),
            (
                [CALLBACK % "BatchSizeFinder"],
                ["trainer.callbacks", "BatchSizeFinder", "batch_size"],
            ),
            (["--trainer.barebones=true"], ["barebones", "true", "false"]),
            (["--trainer.enable_checkpointing=false"], ["enable_checkpointing", "false"]),
            (["--model.cnsn=[cn]"], ["model.cnsn", "[cn]", "load config"]),
            (["--trainer=null"], ["trainer", "null", "load config"]),
            (["--data=null"], ["data", "null", "key: value"]),
            (["--nonsense=1"], ["--nonsense=1", "--help"]),
            (["--model.crossnom.p=1"], ["--model.crossnom.p=1", "--model.crossnorm.p is one"]),
        ],
        "imagenet": [
            (["--data.resize=100", "--data.image_size=224"], ["resize", "100", "224"]),
            (["--data.image_size=4"], ["image_size", "4", "at least 8"]),
            (["--data.severities=[6]"], ["severities", "6", "5"]),
            (["--data.severities=[]"], ["severities", "at least one"]),
        ],
        "fixmatch": [
            (["--model.threshold=1.5"], ["threshold", "1.5", "[0, 1]"]),
            (["--model.temperature=.inf"], ["temperature", "inf", "positive"]),
            (["--model.unlabelled_weight=.inf"], ["unlabelled_weight", "inf", "0 or more"]),
            (["--model.temperature=0"], ["temperature", "0", "positive"]),
            (["--model.ema_decay=1"], ["ema_decay", "1", "[0, 1)"]),
            (["--model.crossnorm.consistency=1"], ["consistency", "1", "0"]),
            (
                ["--model.crossnorm_rows=strong", "--data.unlabelled_ratio=0"],
                ["crossnorm_rows", "strong", "unlabelled_ratio"],
            ),
            (["--model.crossnorm_rows=weak"], ["crossnorm_rows", "weak", "labelled"]),
            (["--data.labels=0"], ["labels", "0", "at least"]),
            (["--data.unlabelled=some"], ["unlabelled", "some", "rest"]),
        ],
        "segmentation": [
            (["--model.crossnorm.consistency=1"], ["consistency", "1", "0"]),
            (["--data.scale=[2, 1]"], ["scale", "2", "rising"]),
            (["--data.flip=null"], ["data.flip", "null", "bool"]),
            (["--data.mean=[0.5]"], ["mean", "[0.5]", "three"]),
            (["--data.std=[1, 1, 0]"], ["std", "[1.0, 1.0, 0.0]", "positive"]),
            (["--data.rotate=200"], ["rotate", "200", "180"]),
            (["--data.crop_size=0"], ["crop_size", "0", "at least"]),
            (["--model.evaluation.mode=slice"], ["mode", "slice", "slide"]),
            (["--model.evaluation.overlap=1"], ["overlap", "1"]),
            (["--model.auxiliary=-1"], ["auxiliary", "-1", "0 or more"]),
        ],
        "text": [
            (["--model.network.freeze_embedding=true"], ["freeze_embedding", "glove"]),
            (["--data.sst2_splits=[exam]"], ["sst2_splits", "exam", "dev"]),
            (["--data.max_length=0"], ["max_length", "0", "at least"]),
            ([CN, "--model.crossnorm.k=99"], ["crossnorm.k", "99", "at most"]),
            (["--config=configs/digits.yaml"], ["network", "WideResNet", "TextNetwork"]),
        ],
        "adaptation": [
            (["--model.style=target"], ["style", "target", "cnsn.kind"]),
            (["--model.style=both"], ["style", "both", "source"]),
            (["--model.batch_norm=none"], ["batch_norm", "none", "mixed"]),
            (["--data.min_area=0"], ["min_area", "0", "(0, 1]"]),
            (["--data.crop=0"], ["crop", "0", "at least"]),
            (["--model.adversary.weight=-1"], ["weight", "-1", "0 or more"]),
        ],
    }
    return [
        Mistake(task, tuple(options), tuple(words))
        for task, rows in cases.items()
        for options, words in rows
    ]
