"""configs/methods/ against the tables' rows, and the first line of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.engine.cli import expected_recipe
from tasks.runs.recipe import digests_of
from tasks.tables.spec import Table
from tasks.tables.states import Places, Run

NAMES = {
    "cn": ("CN", "CN source style", "FixMatch+CN"),
    "sn": ("SN",),
    "cnsn": ("CNSN",),
    "cnsn_consistency": ("CNSN+consistency",),
    "cnsn_augmix": ("CNSN+AugMix", "CNSN+IBN+AugMix"),
}
# Of a method's file: the table whose row it is, and its first network.
TABLES = {
    "classification": ("cifar10c", "WideResNet-40-2"),
    "imagenet": ("imagenetc", ""),
    "fixmatch": ("fixmatch", ""),
    "segmentation": ("gta5", ""),
    "text": ("sst2", ""),
    "adaptation": ("office31", ""),
}
DATA = {
    "fixmatch": ["--data.labels=250"],
    "adaptation": ["--data.source=amazon", "--data.target=webcam"],
    "segmentation": ["--data.source_root=/s", "--data.target_root=/t"],
    "text": ["--data.imdb=/i", "--data.sst2=/s"],
}
FILES = sorted(Path(__file__).parents[2].glob("configs/methods/*/*.yaml"))
pytestmark = pytest.mark.usefixtures("in_the_repository")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_method_s_file_asks_for_what_the_paper_s_row_asks_for(file: Path) -> None:
    key, network = TABLES[file.stem]
    table = Table.load(Path("configs/paper") / f"{key}.yaml")
    row = next(
        r for r in table.rows if r.name in NAMES[file.parent.name] and network in ("", r.network)
    )
    own = DATA.get(table.task, [])
    files = [f for f in (*table.configs, *row.configs) if "augmix" not in f]
    relative = f"configs/methods/{file.parent.name}/{file.name}"
    asked = expected_recipe(
        table.task, ["fit", *(f"--config={f}" for f in (*files, relative)), *own]
    )
    run = Run(table=table, row=row, seed=0, places=Places(options=own)).recipe()
    assert asked is not None and run is not None
    assert digests_of(asked) == digests_of(run)
    assert asked == run


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            [],
            "Trains the baseline, without CrossNorm and SelfNorm. The method is one more file, "
            "such as `--config configs/methods/cnsn/classification.yaml`.",
        ),
        (
            ["--config=configs/methods/cnsn/classification.yaml", "--model.crossnorm.p=0.3"],
            "Trains CNSN: SelfNorm at `post`; CrossNorm at `post`, crop both, with p 0.3 a step on "
            "k 2 of its sites.",
        ),
        (
            ["--config=configs/methods/sn/classification.yaml", "--model.cnsn.stages=[1,3]"],
            "Trains SN: SelfNorm at `pre`, stages 1, 3.",
        ),
    ],
)
def test_the_first_line_says_what_is_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: list[str], line: str
) -> None:
    from tasks.classification import main

    main(
        [
            *("fit", "--config=configs/digits.yaml", *options, f"--runs={tmp_path}"),
            *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1"),
            *("--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"),
        ]
    )
    assert caplog.messages[0] == line
