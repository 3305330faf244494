"""Parts of the segmentation task; its command line is in test_segmentation_cli.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from cnsn import CNSNSpec, crossnorm_active, insert
from cnsn.insert import crossnorm_sites
from cnsn.layers import CrossNorm, SelfNorm
from cnsn.nets import ThinResNet50
from data.segmentation.labels import CLASSES, train_ids
from tasks.engine.base import CrossNormTraining
from tasks.engine.metrics import ConfusionMatrices
from tasks.engine.optim import OptimizerSpec
from tasks.segmentation.inference import EvaluationSpec, centre_of, segment
from tasks.segmentation.metrics import iou_of
from tasks.segmentation.module import Segmentation, pixel_cross_entropy
from tasks.segmentation.networks import FCNResNet50, SmallFPN, SMPNetwork, ThinResNetFPN
from tasks.segmentation.pictures import Example, error_map, grid, log_examples, overlay
from tasks.segmentation.weights import load_pretrained

METHOD = CNSNSpec(kind="cnsn", position="residual", cn_position="out", crop="style")


# --------------------------------------------------------------------------------------- metrics


def test_scores_equal_torchmetrics_for_any_batches() -> None:
    predicted, label = torch.randint(19, (6, 20, 30)), torch.randint(17, (6, 20, 30))
    label[:, :4] = 255
    matrices = ConfusionMatrices(2, 19, ignore=255)
    for part in torch.arange(6).split(4):
        matrices.update(predicted[part], label[part], 1)
    counts = matrices.compute()
    assert counts[0].sum() == 0 and counts[1].sum() == (label != 255).sum()
    scores = iou_of(counts[1])
    reference = MulticlassJaccardIndex(19, average=None, ignore_index=255)(predicted, label)
    # The last two are never true: what is predicted of them is all wrong, and counts.
    torch.testing.assert_close(scores["iou"].float(), reference)
    assert scores["iou"][17:].tolist() == [0, 0]
    torch.testing.assert_close(scores["miou"].float(), reference.mean())
    accuracy = MulticlassAccuracy(19, average="micro", ignore_index=255)(predicted, label)
    torch.testing.assert_close(scores["accuracy"].float(), accuracy)


def test_absent_classes_are_nan_and_missed_and_invented_ones_0() -> None:
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    confusion[0, 0], confusion[0, 2], confusion[1, 0] = 6, 2, 2  # class 2 is predicted, never true
    scores = iou_of(confusion)
    assert scores["iou"].tolist()[:3] == [0.6, 0.0, 0.0] and scores["iou"][3].isnan()
    assert scores["miou"].item() == pytest.approx(0.2)
    assert iou_of(torch.zeros(3, 3))["miou"].isnan()


def labelled_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Label ids of truth and prediction: some classes are in neither, some in one alone."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 3, 4, 7, 8, 11, 18, 21, 23, 29], (40, 50))
    guess = rng.choice([7, 8, 11, 17, 21, 26, 33], truth.shape)  # also where truth is void
    return truth, np.where(rng.random(truth.shape) < 0.5, guess, np.where(truth > 6, truth, 7))


def test_miou_is_that_of_cityscapes_by_its_definition() -> None:
    """Sets of pixels, from label ids; nothing of the suite's tables or matrices."""
    evaluated = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    truth, predicted = labelled_scene(0)
    predicted[predicted == 18], predicted[predicted == 29] = 17, 26  # no network predicts these
    counted = np.isin(truth, evaluated)
    iou = {}
    for c in evaluated:
        inside = int(((truth == c) & (predicted == c) & counted).sum())
        union = int((((truth == c) | (predicted == c)) & counted).sum())
        if union:
            iou[c] = inside / union
    assert {17, 26, 33} <= iou.keys() and 24 not in iou  # invented ones; one in neither
    found = suite_scores(truth, predicted)
    assert found["miou"].item() == pytest.approx(sum(iou.values()) / len(iou), abs=1e-12)
    assert found["iou"].tolist() == pytest.approx(
        [iou.get(c, np.nan) for c in evaluated], nan_ok=True
    )


def suite_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, Tensor]:
    """In two parts and two processes' worth of sums."""
    mapped = [
        torch.from_numpy(train_ids(x.astype(np.uint8), "ids")).long() for x in (predicted, truth)
    ]
    parts = []
    for rows in (slice(0, 15), slice(15, None)):
        matrices = ConfusionMatrices(1, 19, ignore=255)
        matrices.update(*(x[rows] for x in mapped), 0)
        parts.append(matrices.compute()[0])
    return iou_of(parts[0] + parts[1])


def test_miou_is_that_of_cityscapes_own_scripts() -> None:
    scripts = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    for seed in range(3):
        truth, predicted = labelled_scene(seed)
        predicted[predicted == 18], predicted[predicted == 29] = 17, 26
        matrix = scripts.generateMatrix(scripts.args)
        np.add.at(matrix, (truth, predicted), 1)
        labels = {c: scripts.getIouScoreForLabel(c, matrix, scripts.args) for c in range(34)}
        expected = scripts.getScoreAverage(labels, scripts.args)
        assert suite_scores(truth, predicted)["miou"].item() == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------------------------------------------ loss


def test_loss_is_the_mean_over_labelled_pixels() -> None:
    logits, label = torch.randn(2, 19, 5, 7), torch.randint(19, (2, 5, 7))
    label[:, :2] = 255
    expected = F.cross_entropy(logits, label, ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, label), expected)


def test_a_batch_without_labels_gives_0_and_no_nan() -> None:
    logits = torch.randn(2, 19, 5, 7, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((2, 5, 7), 255))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and (logits.grad == 0).all()


# ------------------------------------------------------------------------------------- inference


def pointwise(images: Tensor) -> Tensor:
    """A network without context: windows, flips and whole images must agree."""
    return torch.cat([images, -images[:, :1]], 1) * 3


def test_every_mode_agrees_where_context_does_not_matter() -> None:
    images = torch.randn(2, 3, 37, 50)
    expected = pointwise(images).argmax(1)
    for spec in (
        EvaluationSpec(),
        EvaluationSpec(mode="slide", window=16, overlap=0.25),
        EvaluationSpec(mode="slide", window=99),
        EvaluationSpec(flip=True),
        EvaluationSpec(mode="slide", window=20, flip=True),
    ):
        assert torch.equal(segment(pointwise, images, spec), expected)
    centre = segment(pointwise, images, EvaluationSpec(mode="centre", window=16))
    assert torch.equal(centre, expected[:, 10:26, 17:33])
    assert centre_of(images, 99).shape == images.shape


def test_windows_cover_everything_and_have_their_size() -> None:
    seen: list[tuple[int, int]] = []

    def network(x: Tensor) -> Tensor:
        seen.append((x.shape[-2], x.shape[-1]))
        return pointwise(x)

    segment(network, torch.randn(1, 3, 40, 25), EvaluationSpec(mode="slide", window=30, overlap=0))
    assert seen == [(30, 25), (30, 25)]


def test_scales_and_mirrors_average_probabilities() -> None:
    images = torch.randn(1, 3, 20, 30)
    spec = EvaluationSpec(scales=(0.5, 1.0), flip=True)

    def network(x: Tensor) -> Tensor:  # depends on place, so that mirroring matters
        ramp = torch.linspace(0, 2, x.shape[-1])
        return pointwise(x) + torch.stack([ramp * i for i in range(4)])[None, :, None]

    total = torch.zeros(1, 4, 20, 30)
    for size in ((10, 15), (20, 30)):
        x = F.interpolate(images, size, mode="bilinear", align_corners=False)
        for flip in (False, True):
            y = network(x.flip(-1)).flip(-1) if flip else network(x)
            y = F.interpolate(y, (20, 30), mode="bilinear", align_corners=False)
            total += y.softmax(1)
    assert torch.equal(segment(network, images, spec), total.argmax(1))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"mode": "all"}, "mode"), ({"window": 0}, "window"), ({"overlap": 1}, "overlap"),
     ({"scales": ()}, "scales"), ({"scales": (0.0,)}, "scales")],
)  # fmt: skip
def test_bad_evaluation_options(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        EvaluationSpec(**options)


# -------------------------------------------------------------------------------------- networks


def test_fcn_equals_torchvisions() -> None:
    ours = FCNResNet50(num_classes=19).eval()
    reference = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=19, aux_loss=True
    ).eval()
    reference.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(1, 3, 33, 49)
    with torch.inference_mode():
        found, expected = ours(images), reference(images)
    assert found.keys() == {"out", "aux"}
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert "aux_classifier.0.weight" not in FCNResNet50(aux=False).state_dict()


@pytest.mark.parametrize(
    ("network", "sites"),
    [
        (FCNResNet50, 16),
        (lambda: FCNResNet50(ibn="a"), 16),
        (lambda: FCNResNet50(ibn="b"), 16),
        (lambda: SMPNetwork(arch="deeplabv3plus", encoder="resnet18"), 8),
        (lambda: SMPNetwork(arch="unet", encoder="resnet18"), 8),
        (lambda: SMPNetwork(arch="fpn", encoder="resnet50"), 16),
        (lambda: SmallFPN(width=4), 8),
        (ThinResNetFPN, 16),
    ],
)
def test_the_layers_fit_into_every_network(network: Any, sites: int) -> None:
    torch.manual_seed(0)
    net = insert(network(), METHOD)
    assert len(crossnorm_sites(net)) == sites
    assert sum(isinstance(module, SelfNorm) for module in net.modules()) == sites
    images = torch.randn(2, 3, 37, 50)
    with crossnorm_active(net, 1, torch.Generator().manual_seed(1)):
        outputs = net(images)
    heads = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    assert all(out.shape == (2, 19, 37, 50) for out in heads)
    sum(out.square().mean() for out in heads).backward()
    gates = [m.g_fc.weight for m in net.modules() if isinstance(m, SelfNorm)]
    assert all(gate.grad is not None and gate.grad.abs().sum() > 0 for gate in gates)


def test_weights_of_the_thin_resnet_fit_its_pyramid(tmp_path: Path) -> None:
    backbone, net = ThinResNet50(num_classes=5), ThinResNetFPN()
    torch.save(backbone.state_dict(), tmp_path / "backbone.pt")
    assert not load_pretrained(net, str(tmp_path / "backbone.pt"), Segmentation.HEADS)
    state = net.backbone.state_dict()
    for name, value in backbone.state_dict().items():
        assert name.startswith("fc.") or torch.equal(state.pop(name), value)
    assert not state


def test_stages_can_be_chosen() -> None:
    net = insert(SmallFPN(width=4), CNSNSpec(kind="cn", position="out", stages=(1, 2)))
    sites = [name for name, m in net.named_modules() if isinstance(m, CrossNorm)]
    named = {name.split(".")[1] for name in sites}
    assert named == {"layer1", "layer2"}


def test_smp_takes_images_of_any_size_as_it_takes_padded_ones() -> None:
    net = SMPNetwork(arch="fpn", encoder="resnet18").eval()
    images = torch.randn(1, 3, 40, 64)
    with torch.inference_mode():
        expected = net.net(F.pad(images, (0, 0, 0, 24)))[..., :40, :]
        assert torch.equal(net(images), expected)
    with pytest.raises(ValueError, match=r"`encoder`.*resnet18.*'resnet19'"):
        SMPNetwork(encoder="resnet19")


def test_only_backbones_have_the_small_rate() -> None:
    spec = OptimizerSpec(lr=0.01, head_lr_factor=10)
    for network, heads in (
        (FCNResNet50(), ("classifier", "aux_classifier")),
        (SMPNetwork(encoder="resnet18"), ("net.decoder", "net.segmentation_head")),
        (SmallFPN(width=4), ("classifier", "lateral")),
        (ThinResNetFPN(), ("classifier", "lateral")),
    ):
        model = Segmentation(network, METHOD, optimizer=spec)
        rates = {
            id(p): group.get("lr", spec.lr)
            for group in model.parameter_groups()
            for p in group["params"]
        }
        for name, parameter in model.network.named_parameters():
            assert rates[id(parameter)] == (0.1 if name.startswith(heads) else 0.01), name


# --------------------------------------------------------------------------------------- weights


def random_resnet(name: str, classes: int = 1000) -> nn.Module:
    torch.manual_seed(7)
    net = getattr(torchvision.models, name)(num_classes=classes)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return net


def same(backbone: nn.Module, classifier: nn.Module) -> bool:
    own = backbone.state_dict()
    other = classifier.state_dict()
    return all(torch.equal(value, other[key]) for key, value in own.items()) and len(own) > 50


def test_a_classifiers_file_goes_into_the_backbone(tmp_path: Path) -> None:
    source = random_resnet("resnet50")
    torch.save(source.state_dict(), tmp_path / "resnet50.pth")
    model = Segmentation(FCNResNet50(), METHOD, weights=str(tmp_path / "resnet50.pth"))
    plain = {k: v for k, v in model.network.backbone.state_dict().items() if "cnsn" not in k}
    expected = source.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in plain.items())
    encoder = random_resnet("resnet18", classes=10)
    torch.save({"state_dict": {f"network.{k}": v for k, v in encoder.state_dict().items()}},
               tmp_path / "own.ckpt")  # fmt: skip
    smp = Segmentation(SMPNetwork(encoder="resnet18"), weights=str(tmp_path / "own.ckpt"))
    assert same(smp.network.backbone, encoder)
    with pytest.raises(ValueError, match=r"own\.ckpt differs.*missing"):
        Segmentation(FCNResNet50(), weights=str(tmp_path / "own.ckpt"))


def test_a_torchvision_name_is_fetched_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random_resnet("resnet50")
    name = "ResNet50_Weights.IMAGENET1K_V1"
    published = {name: dict(source.state_dict())}
    monkeypatch.setattr("tasks.engine.weights.named_state_dict", published.__getitem__)
    assert same(Segmentation(FCNResNet50(), weights=name).network.backbone, source)
    whole = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    torch.save(whole.state_dict(), tmp_path / "fcn.pth")
    model = Segmentation(FCNResNet50(), weights=str(tmp_path / "fcn.pth"))
    own, given = model.network.state_dict(), whole.state_dict()
    for key, value in own.items():
        # Heads of 21 classes start anew for 19.
        assert torch.equal(value, given[key]) != (".4." in key and "classifier" in key), key


def test_official_names_of_a_pretrained_sn_resnet50(tmp_path: Path) -> None:
    official = insert(random_resnet("resnet50"), CNSNSpec(kind="sn", position="residual"))
    shapes = {key: tuple(value.shape) for key, value in official.state_dict().items()}
    # Of the published checkpoint.
    assert len(shapes) == 416 and next(iter(shapes)) == "conv1.weight"
    assert shapes["layer1.0.cnsn.selfnorm.g_fc.weight"] == (256, 1, 2)
    assert shapes["layer4.2.cnsn.selfnorm.g_bn.num_batches_tracked"] == ()
    assert shapes["fc.weight"] == (1000, 2048)
    for parameter in official.parameters():
        parameter.data.uniform_(-1, 1)
    path = tmp_path / "official.pth.tar"
    state = {f"module.{key}": value for key, value in official.state_dict().items()}
    torch.save({"epoch": 90, "state_dict": state}, path)

    for method in (METHOD, CNSNSpec(kind="sn", position="residual")):
        model = Segmentation(FCNResNet50(), method, weights=str(path))
        assert same(model.network.backbone, official)
    with pytest.raises(ValueError, match=r"`cnsn.kind` to be sn or cnsn"):
        Segmentation(FCNResNet50(), CNSNSpec(kind="cn", position="out"), weights=str(path))
    with pytest.raises(ValueError, match="unexpected"):
        Segmentation(FCNResNet50(), CNSNSpec(kind="sn", position="residual", stages=(1,)),
                     weights=str(path))  # fmt: skip


def test_smp_weight_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError
    from safetensors.torch import save_file

    source = random_resnet("resnet18")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")

    def fetched(repository: str, filename: str, **kwargs: Any) -> str:
        assert repository == "smp-hub/resnet18.imagenet"
        return str(tmp_path / filename)

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", fetched)
    model = Segmentation(SMPNetwork(encoder="resnet18"), METHOD, weights="imagenet")
    plain = model.network.backbone.state_dict()
    expected = source.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in plain.items() if "cnsn" not in k)

    def offline(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", offline)
    with pytest.raises(OSError, match=r"hf download smp-hub/resnet18\.imagenet .*weights null"):
        Segmentation(SMPNetwork(encoder="resnet18"), weights="imagenet")
    with pytest.raises(ValueError, match=r"imagenet, ssl, swsl.*'imagenett'"):
        Segmentation(SMPNetwork(encoder="resnet18"), weights="imagenett")


# ------------------------------------------------------------------------------- options, pictures


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary": -1.0}, "`auxiliary`"),
        ({"pictures": -1}, "`pictures`"),
        ({"crossnorm": CrossNormTraining(consistency=10)}, "`crossnorm.consistency` to be 0"),
        ({"cnsn": CNSNSpec(kind="cn"), "crossnorm": CrossNormTraining(k=9)}, "at most 8"),
    ],
)
def test_bad_options_of_the_task(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmentation(SmallFPN(width=4), **options)


def example(height: int = 20, width: int = 30) -> Example:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    truth = np.zeros((height, width), np.uint8)
    truth[:2] = 255
    predicted = truth.copy()
    predicted[:, :10] = 13
    return Example("source a", image, truth, predicted)


def test_overlays_and_error_maps_pixel_by_pixel() -> None:
    e = example()
    mixed = overlay(e.image, e.truth)
    assert (mixed[:2] == e.image[:2]).all()  # ignored: bare
    expected = (e.image[5, 20].astype(float) + np.array([128, 64, 128])) / 2
    assert np.abs(mixed[5, 20] - expected).max() <= 0.5
    wrong = error_map(e.truth, e.predicted)
    assert (wrong[:2] == 0).all()
    assert (wrong[2:, :10] == (224, 60, 40)).all() and (wrong[2:, 10:] == (214, 226, 232)).all()


def test_the_grid_shows_truth_and_prediction_in_the_classes_colours() -> None:
    sheet = np.asarray(grid([example(), example()]))
    assert sheet.shape[1] == 4 * 384
    panel = sheet[16 + 60 : 16 + 240]
    assert (panel[:, 384 + 200] == (128, 64, 128)).all()  # truth: road
    assert (panel[:, 768 + 20] == (0, 0, 142)).all()  # prediction: car
    assert (panel[:, 1152 + 20] == (224, 60, 40)).all()  # error


def test_loggers_that_take_images_get_class_masks() -> None:
    calls: list[dict[str, Any]] = []

    class Dashboard:
        def log_image(self, **kwargs: Any) -> None:
            calls.append(kwargs)

    log_examples([object(), Dashboard()], [example()], step=7)
    (call,) = calls
    assert call["step"] == 7 and call["caption"] == ["source a"]
    masks = call["masks"][0]
    assert masks["prediction"]["mask_data"][5, 5] == 13
    assert masks["truth"]["class_labels"][13] == "car" == CLASSES[13]
