"""The command line of the segmentation task, from options to result line and pictures."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from cnsn import insert
from data.segmentation.labels import CLASSES, train_ids
from reproduce import TABLES
from tasks.engine.results import is_final, read_results
from tasks.segmentation.module import Segmentation, main
from tasks.segmentation.networks import SmallFPN
from tasks.segmentation.overlays import main as compare
from tasks.tables.spec import Table
from tests.command_line import refusal, stop_and_resume
from tests.reliability.launcher import Launcher
from tests.reliability.together import finished, together
from tests.segmentation_fakes import write_cityscapes, write_gta5
from tests.tasks.segmentation.test_segmentation import METHOD

SCENES = [
    "--config=configs/scenes.yaml",
    "--data.source_root=source",
    "--data.target_root=target",
    "--data.crop_size=16",
    "--data.batch_size=4",
    "--data.workers=0",
    "--model.network.init_args.width=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
CNSN = [
    "--model.cnsn.kind=cnsn",
    "--model.cnsn.position=residual",
    "--model.cnsn.cn_position=out",
    "--model.cnsn.crop=style",
]


pytestmark = pytest.mark.usefixtures("in_the_repository")


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Small source and target: 8 + 2 and 5 images."""
    write_gta5(tmp_path / "source", 12)
    write_cityscapes(tmp_path / "target", 5)
    return tmp_path


def places(folder: Path, sets: Path) -> list[str]:
    return [f"--data.root={sets}", f"--runs={folder / 'runs'}", f"--results={folder / 'results'}"]


def run_directory(folder: Path) -> Path:
    (path,) = (folder / "runs").glob("segmentation/*/seed*")
    return path


def final_state(folder: Path) -> dict[str, Any]:
    path = run_directory(folder) / "checkpoints" / "last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


def predicted_by_hand(directory: Path, paths: list[Path]) -> list[np.ndarray]:
    """Training ids from the stored weights, without the suite's loaders and metrics."""
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    net = insert(SmallFPN(width=4), METHOD).eval()
    net.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    net.to(memory_format=torch.channels_last)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = []
    for path in paths:
        x = (torch.from_numpy(np.array(Image.open(path))).float() / 255 - mean) / std
        with torch.inference_mode():
            found.append(net(x.permute(2, 0, 1)[None]).argmax(1)[0].numpy())
    return found


def iou_by_hand(predicted: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, float]:
    """Of each class in truth or prediction, pixel by pixel, from label ids."""
    p, t = np.stack(predicted), np.stack(truth)
    scored, found = t != 0, {}
    for c, name in enumerate(CLASSES):
        true = t == {0: 7, 10: 23, 13: 26}.get(c, -1)
        inside, union = ((p == c) & true)[scored], ((p == c) | true)[scored]
        if union.any():
            found[name] = inside.sum() / union.sum()
    return found


def test_fit_test_and_predict(
    tmp_path: Path,
    sets: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = [*SCENES, *CNSN, *places(tmp_path, sets)]
    main(["fit", *options])
    directory = run_directory(tmp_path)
    assert {p.name for p in (directory / "pictures").iterdir()} == {
        "epoch_0001.png",
        "epoch_0002.png",
    }
    assert Image.open(directory / "pictures" / "epoch_0002.png").width == 4 * 384
    lists = json.loads((directory / "images.json").read_text())
    assert len(lists["source"]["train"]) == 8 and len(lists["target"]["val"]) == 5
    curves = (directory / "metrics" / "version_0" / "metrics.csv").read_text()
    assert "val/target_miou" in curves and "train/ce" in curves

    main(["test", *options])
    (record,) = read_results(tmp_path / "results" / "segmentation.jsonl")
    assert record["dataset"] == "generated scenes by day -> at dusk (8+2 and 5 images)"
    assert record["selection"] == "last epoch" and record["evaluation"] == "full images"
    paths = sorted((sets / "target" / "leftImg8bit").rglob("*.png"))
    truth = [
        np.array(Image.open(next((sets / "target" / "gtFine").rglob(f"{p.name[:20]}*"))))
        for p in paths
    ]
    predicted = predicted_by_hand(directory, paths)
    iou = record["iou"]["target"]
    expected = iou_by_hand(predicted, truth)
    assert {"road", "sky", "car"} < expected.keys()  # and some that are never true
    present = {name: value for name, value in iou.items() if value is not None}
    assert present == record["breakdown"] == pytest.approx(expected, abs=1e-3)
    mean = sum(present.values()) / len(present)
    assert record["summary"]["target_miou"] == pytest.approx(mean)
    confusion = json.loads((directory / "confusion.json").read_text())["confusion"]
    assert np.sum(confusion["target"]) == sum((t != 0).sum() for t in truth)
    assert Image.open(directory / "iou_by_class.png").width > 1000
    out = capsys.readouterr().out
    assert "2 source and 5 target images, mean of " in out and "mIoU" in out

    # Another way of scoring is another result, which tables pass over.
    main(["test", *options, "--model.evaluation.mode=centre", "--model.evaluation.window=16"])
    *_, centre = read_results(tmp_path / "results" / "segmentation.jsonl")
    assert set(centre["summary"]) == {
        f"{d}_{n} (centre crops of 16)" for d in ("source", "target") for n in ("miou", "accuracy")
    }
    assert is_final(record, "target_miou") and not is_final(centre, "target_miou")
    assert centre["config_hash"] == record["config_hash"]

    main(["predict", *options])
    (folder,) = (directory / "predictions").iterdir()
    assert f"Predictions are in {folder}" in caplog.text
    for path, mask in zip(paths, predicted, strict=True):
        name = path.name.replace("_leftImg8bit", "")
        ids = np.array(Image.open(folder / "ids" / name))
        assert ((ids == 7) == (mask == 0)).mean() > 0.99
        assert (folder / "colour" / name).is_file() and (folder / "overlay" / name).is_file()

    arguments = [f"--target={sets / 'target'}", f"--out={tmp_path / 'side.png'}", "--frames=2"]
    compare([f"ours={directory}", *arguments])
    panel = np.array(Image.open(tmp_path / "side.png"))[16 : 16 + 288, 768:1152]
    second = np.array(Image.open(folder / "overlay" / f"{paths[1].name[:20]}.png"))
    assert (panel[::12, ::12] == second).all()
    assert "predict" in refusal(compare, [f"ours={tmp_path}", *arguments], capsys)


def test_predictions_of_other_weights_and_images_lie_apart(
    tmp_path: Path, sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*SCENES, *places(tmp_path, sets), "--model.pictures=0", "--trainer.max_epochs=1"]
    main(["fit", *options])
    checkpoint = run_directory(tmp_path) / "checkpoints" / "last.ckpt"
    other = tmp_path / "other" / "last.ckpt"
    other.parent.mkdir()
    content = torch.load(checkpoint, weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith(("weight", "bias")):
            value *= -1
    torch.save(content, other)
    # As Cityscapes' test part: no labels.
    unseen = tmp_path / "leftImg8bit" / "test"
    for city in ("berlin", "bad-honnef"):
        (unseen / city).mkdir(parents=True)
        image = next((sets / "target").rglob("*_leftImg8bit.png"))
        shutil.copy(image, unseen / city / f"{city}_000001_000019_leftImg8bit.png")
        (unseen / city / f"._{city}_000001_000019_leftImg8bit.png").write_bytes(b"macOS")

    folder = tmp_path / "elsewhere" / "predictions"
    asked = ["predict", *options, f"--trainer.default_root_dir={folder.parent}"]
    contents: dict[Path, bytes] = {}
    for number, more in enumerate(
        ([], [f"--ckpt_path={other}"], [f"--data.predict_root={unseen}"],
         ["--model.evaluation.mode=centre", "--model.evaluation.window=8"], []), start=1,
    ):  # fmt: skip
        main([*asked, *more])
        assert len(list(folder.iterdir())) == min(number, 4)  # The last is the first again.
        assert all(path.read_bytes() == before for path, before in contents.items())
        contents = {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert (
        len(contents) == 3 * (5 + 5 + 2 + 5)
        and not (checkpoint.parents[1] / "predictions").exists()
    )

    (tested,) = folder.glob("test-last-*")
    about = json.loads((tested / "predictions.json").read_text())
    assert about["images"] == str(unseen) and about["checkpoint"] == str(checkpoint)
    # The server's pattern, for each of its truths.
    names = [path.name for path in (tested / "ids").iterdir()]
    for truth in ("berlin_000001_000019", "bad-honnef_000001_000019"):
        assert len(fnmatch.filter(names, f"{truth}*.png")) == 1
    said = refusal(compare, [f"ours={folder.parent}", f"--target={sets / 'target'}",
                             f"--out={tmp_path / 'side.png'}"], capsys)  # fmt: skip
    assert "one folder of predictions" in said and str(tested) in said
    said = refusal(main, ["test", *asked[1:]], capsys)
    assert "`trainer.default_root_dir` to be null" in said and "--results" in said


def relabel(path: Path, ids: np.ndarray, fault: str) -> None:
    """Write a label image of sky, road and cars with a fault."""
    if fault == "palette":
        order = [26, 0, 23, 7]
        image = Image.fromarray(np.vectorize(order.index)(ids).astype(np.uint8))
        image.putpalette(bytes([0, 0, 142, 0, 0, 0, 70, 130, 180, 128, 64, 128]))
    elif fault == "train ids":
        image = Image.fromarray(train_ids(ids, "ids"))
    elif fault == "centre":
        image = Image.fromarray(np.pad(ids[4:20, 8:24] * 0, ((4, 4), (8, 8)), constant_values=7))
    else:
        image = Image.fromarray(ids * 0 + 3 if fault == "unlabelled" else ids)
    image.save(path, "JPEG" if fault == "jpeg" else "PNG")


def test_labels_that_mean_something_else(
    tmp_path: Path, sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each ends in a sentence without a result line, or is read rightly."""
    options = [*SCENES, *places(tmp_path, sets), "--model.pictures=0", "--trainer.max_epochs=1"]
    main(["fit", *options])
    main(["test", *options])
    # By its path, for without one the run is refused for other data than its own.
    options += [f"--ckpt_path={run_directory(tmp_path) / 'checkpoints' / 'last.ckpt'}"]
    results = tmp_path / "results" / "segmentation.jsonl"
    labels = sorted((sets / "target" / "gtFine").rglob("*.png"))
    whole = [np.array(Image.open(path)) for path in labels]
    for fault, parts in {
        "palette": [],
        "jpeg": [str(labels[0]), "JPEG"],
        "train ids": ["label ids in the val part", "0, 10, 13, 255", "labelTrainIds.png"],
        "unlabelled": ["labelled pixels in the val part", "5 label images hold 3 alone"],
        "centre": ["labelled pixels in the target", "evaluation.mode"],
    }.items():
        for path, ids in zip(labels, whole, strict=True):
            relabel(path, ids, fault)
        if fault == "palette":
            main(["test", *options, "--data.verify=true"])
            before, after = (record["iou"] for record in read_results(results))
            assert str(before) == str(after)
            continue
        more = ["--model.evaluation.mode=centre", "--model.evaluation.window=16"]
        said = refusal(main, ["test", *options, *more * (fault == "centre")], capsys)
        assert all(part in said for part in parts), said
    assert len(list(read_results(results))) == 2


# With dropout, whose draws must not depend on what came before.
DROPOUT = [
    "--model.network=tasks.segmentation.networks.SMPNetwork",
    "--model.network.init_args.arch=fpn",
    "--model.network.init_args.encoder=resnet18",
]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_in_mid_epoch_ends_bit_identical(
    tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    network = DROPOUT if workers == 0 else []
    base = [option for option in SCENES if "width" not in option or not network]
    options = [*base, *CNSN, *network, "--model.pictures=0", "--trainer.limit_val_batches=0"]
    main(["fit", *options, *places(tmp_path / "whole", sets)])

    options += ["--save_every=1", *places(tmp_path / "parts", sets)]
    stop_and_resume(monkeypatch, Segmentation, main, ["fit", *options], {1: 0, 3: workers})
    one, two = final_state(tmp_path / "parts"), final_state(tmp_path / "whole")
    assert one["global_step"] == two["global_step"] == 4
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


def test_the_auxiliary_head_and_other_flags_train(tmp_path: Path, sets: Path) -> None:
    options = [option for option in SCENES if "width" not in option]
    options += [*CNSN, "--model.network=tasks.segmentation_networks.FCNResNet50"]
    options += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.batch_size=4"]
    options += ["--trainer.accumulate_grad_batches=2", "--trainer.precision=bf16-mixed"]
    options += ["--model.optimizer.head_lr_factor=10"]
    options += ["--model.pictures=2", "--trainer.limit_val_batches=1"]
    main(["fit", *options, *places(tmp_path, sets)])
    state = final_state(tmp_path)
    # Two forwards of 2 images make one step of the batch of 4.
    assert state["global_step"] == 1
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    directory = run_directory(tmp_path)
    assert "train/aux" in (directory / "metrics" / "version_0" / "metrics.csv").read_text()
    assert (directory / "pictures" / "epoch_0001.png").is_file()


def test_two_processes_score_the_same_pixels(tmp_path: Path, sets: Path, warm: Launcher) -> None:
    options = [*SCENES, *CNSN, *places(tmp_path, sets), "--trainer.max_epochs=1"]
    main(["fit", *options])
    finished(together(warm, "segmentation", ["test", *options]))
    path = run_directory(tmp_path) / "confusion.json"
    parallel = json.loads(path.read_text())
    assert np.sum(parallel["confusion"]["source"]) == 2 * (24 * 32 - 9)
    for batch_size in (1, 4):
        main(["test", *options, f"--data.eval_batch_size={batch_size}"])
        assert json.loads(path.read_text()) == parallel
    both, one, single = read_results(tmp_path / "results" / "segmentation.jsonl")
    assert both["summary"] == one["summary"] == single["summary"]
    assert one["config_hash"] == single["config_hash"] and one["dataset"] == both["dataset"]


@pytest.mark.slow
def test_two_processes_train(tmp_path: Path, sets: Path, warm: Launcher) -> None:
    options = [*SCENES, *CNSN, *places(tmp_path, sets)]
    finished(together(warm, "segmentation", ["fit", *options]))
    state = final_state(tmp_path)
    assert state["global_step"] == 4
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    lists = json.loads((run_directory(tmp_path) / "images.json").read_text())
    assert len(lists["source"]["train"]) == 8


def test_batch_normalisation_is_synchronised_on_gpus_only() -> None:
    model = Segmentation(SmallFPN(width=4))
    model.on_train_start()
    model.network = nn.SyncBatchNorm.convert_sync_batchnorm(model.network)
    with pytest.raises(ValueError, match=r"GPUs for `trainer\.sync_batchnorm`"):
        model.on_train_start()


def test_the_dashboard_gets_pictures_with_masks(
    tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb = "--config=configs/logging/wandb.yaml"
    options = [*SCENES, wandb, *places(tmp_path, sets), "--trainer.max_epochs=1"]
    main(["fit", *options, "--model.pictures=2", "--trainer.limit_train_batches=1"])
    media = run_directory(tmp_path) / "wandb"
    assert len(list(media.rglob("media/images/examples_*.png"))) == 2
    # Truth and prediction of each, with training ids as values.
    masks = [np.array(Image.open(path)) for path in media.rglob("media/images/mask/*.mask.png")]
    assert len(masks) == 4
    assert sum(set(np.unique(mask)) == {0, 10, 13, 255} for mask in masks) == 2


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--data.batch_size=1", ["batch_size", "at least 2"]),
        ("--data.crop_size=0", ["crop_size"]),
        ("--data.scale=[2,1]", ["`scale`"]),
        ("--model.crossnorm.consistency=3", ["consistency", "segmentation"]),
        ("--model.evaluation.mode=tiles", ["mode", "slide", "tiles"]),
        ("--model.cnsn.position=middle", ["position", "residual", "middle"]),
        ("--model.weights=ResNet50_Weights.NONE", ["ResNet50_Weights.NONE", "weights: null"]),
        ("--trainer.accumulate_grad_batches=3", ["batch_size", "accumulate_grad_batches"]),
        ("--data.croop_size=3", ["croop_size"]),
    ],
)
def test_bad_options_end_with_one_sentence(
    tmp_path: Path, sets: Path, capsys: pytest.CaptureFixture[str], option: str, parts: list[str]
) -> None:
    message = refusal(main, ["fit", *SCENES, *CNSN, *places(tmp_path, sets), option], capsys)
    assert all(part in message for part in parts), message
    assert "Traceback" not in message and not list(tmp_path.rglob("*.ckpt"))


def test_bad_data_end_with_one_sentence(
    tmp_path: Path, sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*SCENES, *places(tmp_path, sets)]
    missing = refusal(main, ["fit", *options, "--data.root=/nowhere"], capsys)
    assert "/nowhere/source" in missing and "/nowhere/target" in missing
    assert "python -m data.prepare scenes" in missing
    # Before the weights are looked for.
    paper = refusal(main, ["fit", "--config=configs/gta5.yaml", "--data.root=/nowhere"], capsys)
    assert "/nowhere/gta5" in paper and "/nowhere/cityscapes" in paper and "register" in paper
    label = sets / "source" / "labels" / "00003.png"
    whole = label.read_bytes()
    Image.fromarray(np.full((24, 32), 99, np.uint8)).save(label)
    for workers in (0, 1):
        message = refusal(main, ["fit", *options, f"--data.workers={workers}"], capsys)
        assert "00003.png" in message and "99 (768 pixels)" in message
        assert "Traceback" not in message and message.count("\n") < 5
    label.write_bytes(whole[:100])
    assert "00003.png" in refusal(main, ["fit", *options], capsys)
    label.unlink()
    assert "1 are missing: labels/00003.png" in refusal(main, ["fit", *options], capsys)
    assert "run `fit`" in refusal(main, ["predict", *options, "--name=other"], capsys)


def test_every_config_and_row_is_valid(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table.load(TABLES["gta5"])
    asked = [[f"--config=configs/{name}.yaml"] for name in ("scenes", "camvid")]
    for row in table.rows:
        options = {key: "null" if v is None else v for key, v in row.options.items()}
        asked.append([f"--config={config}" for config in table.configs])
        asked[-1] += [f"--{key}={value}" for key, value in options.items()]
    for arguments in asked:
        with pytest.raises(SystemExit) as stop:
            main(["fit", *arguments, "--print_config"])
        assert stop.value.code in (0, None), arguments
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["data"]["class_path"] == "data.segmentation.SourceAndTarget"
    for key in ("scenes", "camvid"):
        study = Table.load(TABLES[key])
        rows = {row.name: row.options for row in table.rows}
        assert all(row.options == rows[row.name] for row in study.rows)
