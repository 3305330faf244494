"""A network whose outputs are NaN or infinite gets no score, in any task."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from benchmarks.waiting_cases import Case, cases
from cnsn.nets import wide_resnet
from tasks.classification.module import main
from tasks.engine.metrics import ConfusionMatrices, GroupedErrors
from tasks.runs.same_run import RunCheckpoint
from tasks.segmentation.inference import NO_CLASS, EvaluationSpec, segment
from tests.command_line import places, refusal

TASKS = {
    "classification": "clean",
    "fixmatch, none, 0 unlabelled images a labelled one": "clean (raw weights)",
    "segmentation, none": "the source's images",
    "adaptation, source, style of the source, adversary 0": "the target's images",
    "text, crop neither": "sst2-dev",
}
VALUES = [math.nan, math.inf, -math.inf]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    found = cases(tmp_path_factory.mktemp("not_finite"))
    found["adaptation, source, style of the source, adversary 0"] = found[
        "adaptation, mixed, style of the target, adversary 0"
    ]
    return found


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path))


def one_output(value: float, samples: slice = slice(-1, None)) -> Callable[..., Any]:
    """A hook that gives the first class of a batch's last sample, or others, this logit."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if module.training:
            return output
        output = output.clone()
        output[samples, 0] = value
        return output

    return hook


def trainer(root: Path, **more: Any) -> L.Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "limit_test_batches": 2,
        "limit_val_batches": 2,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(root),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return L.Trainer(**{**options, **more})


@pytest.mark.parametrize("name", TASKS)
def test_one_such_output_ends_a_test(made: dict[str, Case], name: str, tmp_path: Path) -> None:
    module, data = made[name]()
    data.corruptions = ()  # which take long to make
    module.network.register_forward_hook(one_output(math.inf))
    for run in (trainer(tmp_path).test, trainer(tmp_path).validate):
        with pytest.raises(ValueError, match="Expected finite outputs") as stop:
            run(module, datamodule=data, verbose=False)
        assert TASKS[name] in str(stop.value)
        assert not hasattr(module, "metrics")


def test_the_average_of_fixmatch_is_judged_too(made: dict[str, Case], tmp_path: Path) -> None:
    module, data = made["fixmatch, none, 0 unlabelled images a labelled one"]()
    data.corruptions = ()
    module.ema.register_forward_hook(one_output(math.nan))  # type: ignore[operator, union-attr]
    with pytest.raises(ValueError, match=r"clean \(ema weights\)"):
        trainer(tmp_path).test(module, datamodule=data, verbose=False)


@pytest.mark.parametrize("name", TASKS)
def test_best_follows_no_such_validation(
    made: dict[str, Case], name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    module, data = made[name]()
    networks = [module.network, *([module.ema] if hasattr(module, "ema") else [])]
    hook = one_output(math.inf, slice(None))
    handles = [network.register_forward_hook(hook) for network in networks]
    monitor, mode = module.MONITOR or ("val/accuracy", "max")
    best = RunCheckpoint(dirpath=tmp_path, filename="best", monitor=monitor, mode=mode)
    figures: list[float] = []
    kept: list[str] = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
            figures.append(trainer.callback_metrics[monitor].item())
            for handle in handles:
                handle.remove()  # the second validation is sound

        def on_train_epoch_start(self, *_: Any) -> None:
            kept.append(best.best_model_path)

    trainer(
        tmp_path,
        max_epochs=2,
        limit_train_batches=1,
        enable_checkpointing=True,
        callbacks=[best, Watch()],
    ).fit(module, data)
    assert math.isnan(figures[0]) and kept == ["", ""]
    assert math.isfinite(figures[1]) and Path(best.best_model_path).name == "best.ckpt"
    assert any("NaN or infinite on" in str(warning.message) for warning in recwarn)
    if name.startswith("fixmatch"):
        assert len(module.evaluations) == 1  # type: ignore[arg-type]


def test_condition_by_condition() -> None:
    logits = torch.tensor([[1.0, 0.0], [math.inf, 0.0], [3.0, 0.0], [0.0, -math.inf]])
    metric = GroupedErrors(4)
    metric.update(logits, torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 2, 1]))
    values = metric.compute()
    assert values["error"].tolist()[::2] == [0, 1]
    assert values["error"].isnan().tolist() == values["ece"].isnan().tolist() == [0, 1, 0, 1]
    assert values["n"].tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize(
    "spec",
    [
        EvaluationSpec(),
        EvaluationSpec(mode="slide", window=4),
        EvaluationSpec(scales=(1.0, 2.0), flip=True),
    ],
)
@pytest.mark.parametrize("value", VALUES)
def test_pixels_without_a_class(spec: EvaluationSpec, value: float) -> None:
    logits = torch.randn(2, 3, 6, 6)

    def network(images: Tensor) -> Tensor:
        # Of the pixel that is marked in the image, wherever it has gone.
        own = torch.zeros(len(images), 3, *images.shape[-2:])
        return own.masked_fill(
            (images.amax((1, 2, 3), keepdim=True) == images) & (images > 0.5), value
        )

    images = torch.zeros(2, 1, 6, 6)
    images[1, 0, 0, 0] = 1
    found = segment(network, images, spec)
    assert found[1, 0, 0] == NO_CLASS
    assert (found[0] >= 0).all() and (found[1, 3:, 3:] >= 0).all()
    assert (segment(lambda x: logits[..., : x.shape[2], : x.shape[3]], images, spec) >= 0).all()


def test_pixels_without_a_class_are_counted_where_they_are_labelled() -> None:
    matrices = ConfusionMatrices(2, 3, ignore=255)
    predicted = torch.tensor([[0, NO_CLASS, NO_CLASS, 2]])
    matrices.update(predicted, torch.tensor([[0, 1, 255, 1]]), 1)
    assert matrices.without_class().tolist() == [0, 1]
    assert matrices.compute()[1].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_no_prediction_is_written(made: dict[str, Case], tmp_path: Path) -> None:
    module, data = made["segmentation, none"]()
    module.network.register_forward_hook(one_output(math.nan))
    with pytest.raises(ValueError, match="Expected finite outputs"):
        trainer(tmp_path).predict(module, datamodule=data, return_predictions=False)
    assert not list(tmp_path.rglob("*.png"))


def saved(path: Path, place: str) -> Path:
    """Weights of a whole network, one value of which is NaN."""
    state = wide_resnet(depth=10, width=1).state_dict()
    state[place].view(-1)[0] = math.nan
    torch.save(state, path)
    return path


@pytest.mark.usefixtures("in_the_repository")
@pytest.mark.parametrize("place", ["bn1.running_var", "fc.weight"])
@pytest.mark.parametrize("option", ["--model.weights", "--model.official", "--ckpt_path"])
def test_such_weights_are_named_before_any_test(
    option: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "weights.ckpt", place)
    name = place
    if option == "--ckpt_path":
        name = f"network.{place}"
        state = {f"network.{k}": v for k, v in torch.load(path, weights_only=True).items()}
        loops = {"state_dict": state, "epoch": 1, "global_step": 1}
        torch.save({**loops, "pytorch-lightning_version": "2.6"}, path)
    command = ["test", "--config=configs/digits.yaml", f"{option}={path}", *places(tmp_path)]
    message = refusal(main, command, capsys)
    assert f"Expected finite weights in {path}" in message and name in message
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("in_the_repository")
def test_weights_that_overflow_leave_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = wide_resnet(depth=10, width=1).state_dict()
    state["fc.weight"].fill_(3e38)
    torch.save(state, tmp_path / "weights.pt")
    more = ["--data.corruptions=[]", "--trainer.accelerator=cpu", *places(tmp_path)]
    command = ["test", "--config=configs/digits.yaml", f"--model.weights={tmp_path}/weights.pt"]
    message = refusal(main, [*command, *more], capsys)
    assert "Expected finite outputs" in message and "on clean" in message
    assert not (tmp_path / "results" / "classification.jsonl").exists()
