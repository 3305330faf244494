"""The adaptation task: where styles come from, what statistics are used, and its command line."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cnsn import CNSNSpec
from cnsn.functional import instance_stats
from cnsn.insert import crossnorm_sites
from cnsn.nets import NarrowResNet
from data.domains import module as domains
from data.generated import domains as generated_domains
from tasks.adaptation.adversary import AdversarySpec
from tasks.adaptation.module import Adaptation, main
from tasks.engine.base import CrossNormTraining
from tasks.engine.results import read_results
from tasks.tables.lines import gather, stands
from tasks.tables.spec import Row, Table
from tests.command_line import stop_and_resume
from tests.reliability.launcher import Launcher
from tests.reliability.together import finished, together

SOURCE = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TARGET = 3 * torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 2
BATCH: dict[str, Any] = {
    "image": SOURCE, "target": TARGET, "label": torch.arange(6) % 3, "number": 0, "epoch": 0
}  # fmt: skip


def module(kind: str = "none", **options: Any) -> Adaptation:
    torch.manual_seed(0)
    net = NarrowResNet(width=4, blocks=(1, 1), num_classes=3)
    made = Adaptation(
        net, CNSNSpec(kind=kind), CrossNormTraining(p=1.0, k=2), **options  # type: ignore[arg-type]
    )  # fmt: skip
    made.log = made.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    made.trainer = SimpleNamespace(  # type: ignore[assignment]
        estimated_stepping_batches=10, accumulate_grad_batches=1, global_rank=0
    )
    return made.train()


def observed(task: Adaptation) -> list[tuple[Tensor, Tensor]]:
    """Input and output of every active CrossNorm in one training step."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(site: Any, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if site.active:
            seen.append((inputs[0].detach().clone(), out.detach().clone()))

    handles = [site.register_forward_hook(hook) for site in crossnorm_sites(task.network)]
    task.training_step(BATCH, 0)
    for handle in handles:
        handle.remove()
    return seen


def donors(maps: Tensor, out: Tensor) -> list[int]:
    """Whose statistics each output map has."""
    before, after = (torch.cat(instance_stats(x), 1).flatten(1) for x in (maps, out))
    distance = torch.cdist(after, before)
    assert distance.min(1).values.max() < 1e-2
    return distance.argmin(1).tolist()


@pytest.mark.parametrize("style", ["source", "target"])
@pytest.mark.parametrize("adversary", [0.0, 1.0])
def test_styles_come_from_the_domain_asked_for(style: str, adversary: float) -> None:
    task = module("cn", style=style, adversary=AdversarySpec(weight=adversary, hidden=4))
    seen = observed(task)
    assert len(seen) == 2
    for maps, out in seen:
        taken = donors(maps, out)
        if style == "target":
            assert len(maps) == 12 and sorted(taken[:6]) == list(range(6, 12))
        else:
            assert sorted(taken[:6]) == list(range(6))
        # Target images keep their own style.
        assert taken[6:] == list(range(6, len(maps)))


def test_source_style_is_the_same_with_and_without_target_images() -> None:
    """The target beside it changes neither the source's draws nor its statistics."""
    losses = []
    for options in ({}, {"batch_norm": "per_domain", "adversary": AdversarySpec(1e-30, 4)}):
        task = module("cnsn", **options)
        losses.append(task.training_step(BATCH, 0).item())
        norms = {k: v for k, v in task.network.state_dict().items() if "running" in k}
        losses.append(torch.cat([v.flatten() for v in norms.values()]).sum().item())
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)
    assert losses[1] == pytest.approx(losses[3], rel=1e-5)


@pytest.mark.parametrize("batch_norm", ["source", "mixed", "per_domain", "reestimated"])
def test_which_images_the_running_averages_see(batch_norm: str) -> None:
    task = module("cn", style="target", batch_norm=batch_norm)
    first: Any = task.network.bn1  # before any CrossNorm
    mixed = torch.cat([SOURCE, TARGET]) if batch_norm == "mixed" else SOURCE
    with torch.no_grad():
        maps = task.network.conv1(mixed)  # type: ignore[operator]
        target = task.network.conv1(TARGET)  # type: ignore[operator]
    task.training_step(BATCH, 0)
    torch.testing.assert_close(first.running_mean, 0.1 * maps.mean((0, 2, 3)))
    if batch_norm == "per_domain":
        torch.testing.assert_close(first.target_mean, 0.1 * target.mean((0, 2, 3)))
    else:
        assert not hasattr(first, "target_mean")


def test_per_domain_follows_the_target_without_crossnorm_too() -> None:
    task = module("none", batch_norm="per_domain")
    loss = task.training_step(BATCH, 0)
    alone = module("none").training_step(BATCH, 0)
    torch.testing.assert_close(loss, alone)
    with torch.no_grad():
        target = task.network.conv1(TARGET)  # type: ignore[operator]
    torch.testing.assert_close(
        task.network.bn1.target_mean,  # type: ignore[union-attr]
        0.1 * target.mean((0, 2, 3)),
    )


def test_the_test_uses_reestimated_statistics_and_puts_them_back() -> None:
    task = module("cnsn", batch_norm="reestimated")
    task.training_step(BATCH, 0)
    task.eval()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    data = SimpleNamespace(target_batches=lambda device: iter([TARGET]))
    with task.target_view(data), torch.no_grad():
        logits = task(TARGET)
    # With momentum 1, one batch in training mode leaves its own statistics as running ones.
    reference = module("cnsn", batch_norm="reestimated")
    reference.load_state_dict(before)
    for part in reference.modules():
        if hasattr(part, "momentum"):
            part.momentum = 1.0
    with torch.no_grad():
        reference.train()(TARGET)
        torch.testing.assert_close(logits, reference.eval()(TARGET), rtol=1e-4, atol=1e-5)
    for key, value in task.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_consistency_loss_has_three_views() -> None:
    torch.manual_seed(0)
    net = NarrowResNet(width=4, blocks=(1, 1), num_classes=3)
    training = CrossNormTraining(p=1.0, k=1, consistency=10.0)
    task = Adaptation(net, CNSNSpec(kind="cn"), training, style="target").train()
    logged: dict[str, Tensor] = {}
    task.log_losses = lambda **losses: logged.update(losses)  # type: ignore[method-assign]
    task.trainer = SimpleNamespace(global_rank=0)  # type: ignore[assignment]
    loss = task.training_step(BATCH, 0)
    clean = module("none").training_step(BATCH, 0)
    torch.testing.assert_close(logged["ce"], clean)
    assert logged["jsd"] > 0
    torch.testing.assert_close(loss, logged["ce"] + 10 * logged["jsd"])


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match=r"`cnsn\.kind` to be cn or cnsn for `style: target`"):
        module("sn", style="target")
    with pytest.raises(ValueError, match=r"`cnsn\.restyle` to take styles from other samples"):
        Adaptation(
            torch.nn.Conv2d(3, 4, 3), CNSNSpec(kind="cn", restyle="dsu", image=True), style="target"
        )
    with pytest.raises(ValueError, match="`batch_norm` to be one of"):
        module("none", batch_norm="adabn")


# ---------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains") / "made"
    generated_domains.make(Namespace(root=folder, images=4, size=32, seed=0))
    return folder


pytestmark = pytest.mark.usefixtures("in_the_repository")


ALL = [
    "--model.cnsn.kind=cnsn",
    "--model.style=target",
    "--model.batch_norm=per_domain",
    "--model.adversary.weight=1",
    "--model.adversary.hidden=8",
]


def options(root: Path, folder: Path, *more: str) -> list[str]:
    return [
        "--config=configs/domains.yaml",
        f"--data.root={root}",
        "--data.source=plain",
        "--data.target=dim",
        "--data.resize=32",
        "--data.crop=24",
        "--data.batch_size=8",
        "--model.network.init_args.width=4",
        "--model.network.init_args.blocks=[1,1]",
        "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--runs={folder / 'runs'}",
        f"--results={folder / 'results'}",
        *more,
    ]


def final_state(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "runs").glob("adaptation/*/seed*/checkpoints/last.ckpt")
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same_training(one: dict[str, Any], two: dict[str, Any]) -> None:
    for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


def test_fit_and_test_leave_a_complete_record(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = options(root, tmp_path, "--model.batch_norm=reestimated")
    main(["fit", *arguments])
    main(["test", *arguments])
    (record,) = read_results(tmp_path / "results" / "adaptation.jsonl")
    assert record["dataset"] == "generated domains (72 images)"
    assert (record["source"], record["target"]) == ("plain", "dim")
    assert record["n_train"] == record["n_test"] == 24 and record["selection"] == "last epoch"
    confusion = torch.tensor(record["confusion"])
    assert confusion.sum(1).tolist() == [4] * 6
    accuracy = confusion.diagonal().sum().item() / 24
    assert record["summary"]["accuracy"] == pytest.approx(accuracy)
    assert "triangle" in capsys.readouterr().out
    # No checkpoint is chosen by target labels.
    (folder,) = (tmp_path / "runs").glob("adaptation/*/seed*/checkpoints")
    assert {p.name for p in folder.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_a_row_shows_the_test_of_what_another_row_trained(tmp_path: Path, root: Path) -> None:
    """And no test of anything else, however it is called."""
    adabn = {"model.batch_norm": "reestimated"}
    rows = [
        Row(name="source only", network="Net", setting="a to b"),
        Row(name="AdaBN", network="Net", setting="a to b", trained_as="source only", options=adabn),
    ]
    table = Table(
        key="toys", title="t", dataset="generated domains (72 images)", task="adaptation",
        configs=[], rows=rows, columns={"accuracy": "accuracy"}, metric="accuracy",
    )  # fmt: skip
    trains, tests = (f"--name={table.run_name(row)}" for row in rows)
    main(["fit", *options(root, tmp_path, trains)])
    (last,) = tmp_path.glob(
        "runs/adaptation/toys/Net/a_to_b/source_only/seed*/checkpoints/last.ckpt"
    )

    def tested(*more: str) -> dict[str, Any]:
        main(["test", *options(root, tmp_path, tests, f"--ckpt_path={last}", *more)])
        return list(read_results(tmp_path / "results" / "adaptation.jsonl"))[-1]

    asked = "--model.batch_norm=reestimated"
    other_recipe = tested(asked, "--model.optimizer.weight_decay=0.5")
    other_seed = tested(asked, "--seed_everything=1")
    (folder,) = (tmp_path / "runs").glob("adaptation/toys/Net/a_to_b/source_only/seed*")
    assert [stands(r, table, rows[1]) for r in (other_recipe, other_seed)] == [False, False]
    record = tested(asked)
    assert record["selection"] == "last epoch of toys/Net/a_to_b/source_only"
    assert record["changed"] == ["model.batch_norm"] and record["finished"]["steps"] == 6
    assert stands(record, table, rows[1]) and not stands(record, table, rows[0])
    # The file counts, not what a link to it is called.
    link = tmp_path / "link" / "last.ckpt"
    link.parent.mkdir()
    link.symlink_to(last.with_name("previous.ckpt"))
    assert not stands(tested(asked, f"--ckpt_path={link}"), table, rows[1])
    # A run of the trained row's name that continued another one has learnt something else.
    main(["fit", *options(root, tmp_path, trains, f"--ckpt_path={link}", "--fresh=true")])
    (begun,) = {path.parent for path in folder.parent.glob("*/finished.json")} - {folder}
    continued = tested(asked, f"--ckpt_path={begun / 'checkpoints' / 'last.ckpt'}")
    assert continued["changed"] == ["model.batch_norm", "start"]
    assert not stands(continued, table, rows[1])
    # The folder of a table's runs may lie elsewhere.
    runs = tmp_path / "runs" / "adaptation"
    (runs / "toys").rename(tmp_path / "toys")
    (runs / "toys").symlink_to(tmp_path / "toys")
    near = os.path.relpath(last), os.path.relpath(tmp_path / "runs")
    record = tested(asked, f"--ckpt_path={near[0]}", f"--runs={near[1]}")
    assert stands(record, table, rows[1])
    (folder / "finished.json").unlink()
    assert not stands(tested(asked), table, rows[1])
    shown = gather(table, tmp_path / "results")[0][table.dataset]
    assert shown[rows[1].key] == [record] and rows[0].key not in shown


def test_target_labels_never_reach_the_training(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training without target labels is bit for bit the training beside them."""
    main(["fit", *options(root, tmp_path / "plain", *ALL)])
    labels_of = domains.labels_of

    def poisoned(files: Any) -> Tensor:
        if "dim" in str(next(iter(files.values()))[0]):
            raise AssertionError("someone asked for the target's labels")
        return labels_of(files)

    monkeypatch.setattr(domains, "labels_of", poisoned)
    main(["fit", *options(root, tmp_path / "poisoned", *ALL, "--trainer.limit_val_batches=0")])
    assert_same_training(final_state(tmp_path / "poisoned"), final_state(tmp_path / "plain"))


def test_a_run_stopped_in_mid_epoch_ends_bit_identical(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["fit", *options(root, tmp_path / "whole", *ALL)])
    command = ["fit", *options(root, tmp_path / "parts", *ALL, "--save_every=1")]
    stop_and_resume(monkeypatch, Adaptation, main, command, {2: 1, 4: 2})
    assert_same_training(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    "flags",
    [
        [*ALL, "--trainer.precision=bf16-mixed"],
        ["--model.adversary.weight=1", "--model.batch_norm=mixed", "--data.min_area=0.3"],
        ["--model.cnsn.kind=cn", "--model.crossnorm.consistency=10", "--model.style=target"],
    ],
)
def test_flags_train_and_change_every_weight(tmp_path: Path, root: Path, flags: list[str]) -> None:
    main(["fit", *options(root, tmp_path / "short", *flags, "--trainer.max_epochs=1")])
    main(["fit", *options(root, tmp_path / "long", *flags)])
    short, long = (final_state(tmp_path / name)["state_dict"] for name in ("short", "long"))
    assert all(value.isfinite().all() for value in long.values())
    assert [key for key in long if torch.equal(long[key], short[key])] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data.target=sketch"], "domains in .*cluttered, dim, plain, but got 'sketch'"),
        (["--data.target=plain"], "another domain than `source`"),
        (["--data.batch_size=25"], "at least one batch of 25 images, but it has 24"),
        (["--data.root=/nowhere"], "data.prepare domains"),
        (["--model.style=target"], "`cnsn.kind` to be cn or cnsn"),
        (["--model.batch_norm=adabn"], "batch_norm"),
        (["--model.weights=NoNet_Weights.V1"], "no such file and no such name"),
    ],
)
def test_bad_options_end_with_one_sentence(
    tmp_path: Path,
    root: Path,
    change: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options(root, tmp_path, *change)])
    assert stop.value.code not in (0, None)
    said = f"{stop.value.code}{capsys.readouterr().err}"
    assert re.search(message, said), said
    assert "Union" not in said


def test_the_configuration_of_office31_trains(tmp_path: Path, root: Path) -> None:
    """With other images of the same folders, smaller, and without the pretrained weights."""
    for domain, name in (("plain", "amazon"), ("dim", "webcam")):
        (tmp_path / "office31").mkdir(exist_ok=True)
        (tmp_path / "office31" / name).symlink_to(root / domain)
    main(
        [
            "fit",
            "--config=configs/office31.yaml",
            f"--data.root={tmp_path}",
            "--data.source=amazon",
            "--data.target=webcam",
            "--data.resize=40",
            "--data.crop=32",
            "--data.batch_size=4",
            "--model.weights=null",
            "--model.cnsn.kind=cnsn",
            "--trainer.max_steps=1",
            "--trainer.max_epochs=null",
            "--trainer.limit_val_batches=0",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--runs={tmp_path / 'runs'}",
            f"--results={tmp_path / 'results'}",
        ]
    )
    (checkpoint,) = (tmp_path / "runs").glob("adaptation/*/seed*/checkpoints/last.ckpt")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    assert state["state_dict"]["network.fc.weight"].shape == (6, 2048)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-5


def test_two_processes_test_like_one(tmp_path: Path, root: Path, warm: Launcher) -> None:
    """Each trains on its share of the same batches; statistics and predictions are pooled."""
    arguments = options(root, tmp_path, *ALL[:2], "--model.batch_norm=reestimated")
    arguments += ["--data.eval_batch_size=12"]
    for action in ("fit", "test"):
        finished(together(warm, "adaptation", [action, *arguments]))
    main(["test", *arguments])
    parallel, alone = read_results(tmp_path / "results" / "adaptation.jsonl")
    assert sum(map(sum, parallel["confusion"])) == 24
    # The statistics' batches are cut differently, so that a borderline image may differ.
    assert abs(parallel["summary"]["accuracy"] - alone["summary"]["accuracy"]) < 2.1 / 24
