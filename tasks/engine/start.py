"""What a command starts from: the data that are given, a run's checkpoints, given weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from cnsn.checkpoint import key_report, not_finite, read_state_dict
from data.errors import DataNotFoundError
from data.locks import Lock
from tasks.engine.base import CNSNModule
from tasks.engine.options import rehearse
from tasks.runs.checkpoints import described, missing_parts, remove_parts, set_aside_damaged
from tasks.runs.directory import RunDirectory
from tasks.runs.recipe import digests_of, other_data

__all__ = [
    "Start",
    "describe_given",
    "is_missing",
]


class Start:
    """Where a command begins: in which directory, from which checkpoint or given weights.

    Args:
        module: the task's module class.
        task: its name.
        parser: of the subcommand.
        subcommand: its name.
        config: its options; takes the checkpoint that is found.
        recipe: what they ask for; takes what a run starts from, where that is no run's own.

    Attributes:
        fits: whether it trains.
        directory: of the run.
        digest: the hash of its recipe.
        checks: callbacks that compare what is tested with what was trained.

    Raises:
        ValueError: the checkpoint is not there, nothing was trained, or on other data.
        SystemExit: the run is finished.
    """

    def __init__(
        self,
        module: type[CNSNModule],
        task: str,
        parser: LightningArgumentParser,
        subcommand: str,
        config: Any,
        recipe: dict[str, Any],
    ) -> None:
        self.module, self.task, self.parser = module, task, parser
        self.config, self.recipe = config, recipe
        self.fits = subcommand == "fit"
        self.checks: list[L.Callback] = []
        self.lock: Lock | None = None
        if self.fits and config.ckpt_path is not None:
            start = Path(config.ckpt_path).resolve()
            if start != self._find_directory(fresh=False).last.resolve():
                # What the run starts from decides what it learns.
                recipe["start"] = str(start)
        self.directory = self._find_directory(fresh=config.fresh and self.fits)
        if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise ValueError(
                f"Expected `--ckpt_path` to be a checkpoint, but there is none at "
                f"{config.ckpt_path}."
            )
        self.asked = config.clone()

    def _find_directory(self, *, fresh: bool) -> RunDirectory:
        self.digest, *older = digests_of(self.recipe)
        return RunDirectory(
            Path(self.config.runs) / self.task / self.config.name,
            seed=self.config.seed_everything,
            digest=self.digest,
            older=older,
            fresh=fresh,
        )

    def release(self) -> None:
        """Let others train in the directory."""
        if self.lock is not None:
            self.lock.release()

    def find(self) -> None:
        """Look what there is to begin from, before anything is built."""
        if self.fits:
            if self.directory.path.exists():
                self._choose_start(self.config)
            else:
                rehearse(self.config, self.module)
        elif self.config.ckpt_path is None:
            self._choose_trained()
        if self.config.trainer.default_root_dir is None:  # `predict` may be told another place
            self.config.trainer.default_root_dir = str(self.directory.path)

    def check(self, model: Any, data: Any) -> None:
        """Compare what was built with what it begins from; a new run then gets its directory."""
        self._check_weights(model)
        network = self.recipe["model"].get("network", {}).get("init_args", {})
        asked, found = network.get("num_classes"), getattr(data, "num_classes", None)
        if None not in (asked, found) and asked != found:
            raise ValueError(
                f"Expected the network's `num_classes` to be {found}, as the data have, but got "
                f"{asked}: leave it out."
            )
        model.check_data(data)
        if self.fits and self.lock is None:
            # A new run's directory is made now that all options have been found to be sound.
            self._choose_start(self.asked)

    def _choose_start(self, config: Any) -> None:
        first = getattr(rank_zero_only, "rank", 0) == 0
        if first and self.directory.finished() is None:
            self.lock = self.directory.hold()
        finished, start = self.directory.finished(), self.directory.resume_point()
        # A finished run's checkpoints may have been deleted; one that is damaged is made again.
        if finished is not None and start in (None, self.directory.last):
            self._refuse_other_data(finished, describe_given(self.module, config.as_dict()))
            rank_zero_info(
                f"This run is finished ({finished['steps']} steps): {self.directory.path}. "
                "Nothing is done; `--fresh true` trains it again beside it."
            )
            raise SystemExit(0)
        if start is not None:
            config.ckpt_path = str(start)
            rank_zero_info(f"Resuming {self.directory.path} from {described(start)}.")
        if first:
            self.lock = self.lock or self.directory.hold()
            remove_parts(self.directory.checkpoints)
            if start is not None:
                set_aside_damaged(start)
                self.directory.reopen()
            text = self.parser.dump(config, skip_none=False, skip_link_targets=True)
            self.directory.write("config.yaml", text)

    def _choose_trained(self) -> None:
        config = self.config
        official = config.model.get("official")
        trained = self.directory.resume_point()
        if official is not None and trained is None:
            rank_zero_info(f"The weights are those of {official}: no run was trained from them.")
            return
        if trained is None:
            weights = config.model.get("weights")
            plain = config.model.cnsn.kind == "none"
            if weights is not None and (plain or Path(weights).expanduser().is_file()):
                return  # Whether they are a whole network is seen when they are loaded.
            raise self._untrained()
        if self.directory.finished() is None:
            rank_zero_info(f"{self.directory.path} is unfinished: its last checkpoint is used.")
        config.ckpt_path = str(trained)
        self.checks.append(LambdaCallback(on_test_start=self._check_tested_data))

    def _refuse_other_data(self, finished: dict[str, Any], given: dict[str, Any] | None) -> None:
        """A run of other data must never be taken for one of these."""
        trained = other_data(finished, given)
        if trained is not None and given is not None:
            raise ValueError(
                f"Expected the data that {self.directory.path} was trained on ({trained}), but got "
                f"{given['dataset']}, fingerprint {given['fingerprint']}: keep runs on other data "
                "apart by `--name` or `--runs`, or name the checkpoint to test by `--ckpt_path`."
            )

    def _check_tested_data(self, trainer: Any, *_: Any) -> None:
        finished = self.directory.finished()
        if finished is not None:
            self._refuse_other_data(finished, trainer.datamodule.describe())

    def _untrained(self, why: str = "") -> ValueError:
        return ValueError(
            f"Expected a trained run in {self.directory.path}, but there is none{why}: run `fit` "
            "with the same options first, or name a checkpoint by `--ckpt_path`."
        )

    def _check_weights(self, model: Any) -> None:
        """Without a run and an official checkpoint, the pretrained weights must be all there is."""
        config = self.config
        weights, official = config.model.get("weights"), config.model.get("official")
        if given := weights or official:
            _check_finite(given, model.state_dict(), "fetch or save them again")
        if self.fits or config.ckpt_path is not None or official is not None:
            return
        if not model.complete:
            raise self._untrained(f", and {weights} is not the whole network")
        rank_zero_info(f"The weights are those of {weights}: no run was trained from them.")

    def check_checkpoint(self, model: Any) -> None:
        """Refuse a checkpoint that the model cannot take, or that no run can go on from."""
        path = self.config.ckpt_path
        if path is None:
            return
        state = read_state_dict(path)
        if report := key_report(model, state):
            raise ValueError(
                f"Expected {path} to be a checkpoint of the network that the options describe, but "
                f"{report}. Give the options of the run that it comes from."
            )
        lacks = missing_parts(Path(path), training=self.fits)
        if lacks:
            raise ValueError(
                f"Expected {path} to be a checkpoint of a run, but it lacks {', '.join(lacks)}: "
                "weights alone are what `--model.weights` takes."
            )
        _check_finite(path, state, "give a checkpoint from before")


def _check_finite(source: str, state: dict[str, Any], remedy: str) -> None:
    """Of parameters and buffers: one NaN in a running average makes every output NaN."""
    if bad := not_finite(state):
        raise ValueError(
            f"Expected finite weights in {source}, but NaN or infinite are {bad}: {remedy}."
        )


def describe_given(task: type[CNSNModule], config: dict[str, Any]) -> dict[str, Any] | None:
    """What the data module's `describe` says; None where the data are not there.

    Args:
        task: the module whose data they are.
        config: of one subcommand, complete.

    Raises:
        ValueError: the data are there and cannot be used.
    """
    data = copy.deepcopy(config["data"])
    data["init_args"]["seed"] = config["seed_everything"]
    if "verify" in data["init_args"]:
        data["init_args"]["verify"] = False  # It changes nothing in what they are.
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    try:
        made = parser.instantiate(parser.parse_object({"data": data})).data
        return task.describe_data(made, config["model"]["network"]["init_args"])
    except Exception as error:
        if is_missing(error):
            return None
        raise


def is_missing(error: BaseException | None) -> bool:
    """Whether missing data are what went wrong, also where a parser has wrapped their error."""
    while error is not None:
        if isinstance(error, DataNotFoundError):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False
