"""The command line of every task: LightningCLI with run directories, resume and results.

YAML files merge from left to right, then options; unknown keys are refused.

    python -m tasks.<task> fit --config A.yaml --config B.yaml --model.cnsn.kind cnsn

`fit` trains in one directory that is a function of what was asked; the same command resumes it or
says that it is finished, ``--fresh true`` starts another. `test` takes the last checkpoint of that
same run unless ``--ckpt_path`` names one, and adds a line to results/<task>.jsonl. It needs no run
where ``--model.official`` holds the weights, or ``--model.weights`` those of the whole network.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import sys
import time
import traceback
import warnings
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LambdaCallback, ProgressBar, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cnsn.checkpoint import key_report, not_finite, read_state_dict
from data.errors import NO_DATA
from data.locks import Lock
from data.workers import worker_failure
from tasks.base import CNSNModule
from tasks.checkpoint_callbacks import (
    ExactResume,
    RecipeInCheckpoint,
    StepCheckpoint,
    differences,
)
from tasks.checkpoint_io import (
    DurableCheckpointIO,
    described,
    missing_parts,
    recipe_in,
    remove_parts,
    set_aside_damaged,
)
from tasks.config_files import check_config_files
from tasks.given_data import describe_given, is_missing
from tasks.interruption import SaveOnInterruption, SwapBack, ended_in_words
from tasks.memory import keep_freed_memory
from tasks.numerics import NonFinite, WatchClasses, WatchNumbers
from tasks.option_checks import check_options, check_sections
from tasks.option_parser import TaskParser, own_options
from tasks.output import outlive_readers
from tasks.processes import end_with_parent, watch_processes
from tasks.progress import Curves, progress_bar
from tasks.published import OWN, check_own
from tasks.results import (
    FORMAT,
    PRETRAINED,
    append_result,
    check_writable,
    last_epoch_of,
)
from tasks.run_directory import (
    RunDirectory,
    digests_of,
    finished_fit,
    measured_of,
    name_of,
    other_data,
    portable,
    recipe_of,
)
from tasks.run_titles import Titles, titles_of
from tasks.same_run import RunCheckpoint, SameRun, place_users_checkpoints
from tasks.speed import SpeedMonitor, in_words
from tasks.trained_in import TrainedIn

__all__ = ["TaskCLI", "expected", "expected_data", "expected_recipe", "run"]


class TaskCLI(LightningCLI):
    """See the module's docstring; `task` names the task's directory and results file."""

    def __init__(self, model_class: type[CNSNModule], task: str, args: Any = None) -> None:
        self.task_class = model_class
        self.task = task
        self.asked = sys.argv[1:] if args is None else args
        self.started = time.monotonic()
        self.lock: Lock | None = None
        self.built = False  # until then, what goes wrong is in the options
        self.timer = Timer(verbose=False)
        self.checks: list[L.Callback] = []  # of what is tested
        self.speed = SpeedMonitor()
        self.trained_in = TrainedIn()
        try:
            self._begin(model_class, args)
        except Exception as error:
            if self.built or isinstance(error, _SAID):
                raise
            raise ValueError(
                f"The options cannot be used: {type(error).__name__}: {error}. With "
                "CNSN_TRACEBACK=1 the same command shows where."
            ) from error
        finally:
            if self.lock is not None:
                self.lock.release()

    def _begin(self, model_class: type[CNSNModule], args: Any) -> None:
        with self.ending():
            super().__init__(
                model_class,
                save_config_callback=None,
                parser_class=TaskParser,
                seed_everything_default=0,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                trainer_defaults={
                    "use_distributed_sampler": False,
                    "num_sanity_val_steps": 0,
                    "log_every_n_steps": 10,
                },
                args=args,
            )

    def say(self, sentence: str) -> None:
        """Tell what has been made of the options."""
        rank_zero_info(sentence)

    def ending(self) -> AbstractContextManager[None]:
        """Around all that it does: what is said where it is stopped."""
        return ended_in_words(self.outlook)

    def outlook(self) -> str:
        """What the same command does after this one was stopped, in a sentence."""
        if not hasattr(self, "directory") or self.subcommand != "fit":
            return "The same command starts from the beginning."
        return self.directory.outlook()

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for alone, as each costs a good part of a second."""
        every = LightningCLI.subcommands()
        first = next(iter(self.asked), "")
        return {first: every[first]} if first in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name", type=str, default="default", help="of the run, a folder or a/b/c"
        )
        parser.add_argument("--runs", type=str, default="runs", help="folder of run directories")
        parser.add_argument("--results", type=str, default=str(OWN), help="folder of result lines")
        parser.add_argument(
            "--fresh", type=bool, default=False, help="a new numbered run beside the existing one"
        )
        parser.add_argument(
            "--save_every", type=int, default=0, help="also save `last` every N steps (0: by epoch)"
        )
        parser.add_argument(
            "--speed", type=bool, default=True, help="log throughput, step time and memory"
        )
        parser.add_argument(
            "--nonfinite",
            type=NonFinite,
            default="stop",
            help="whether a step whose loss or gradient is not finite stops the run or is left out",
        )
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("seed_everything", "model.seed")
        for source, target, when in self.task_class.LINKS:
            parser.link_arguments(source, target, apply_on=when)
        self.task_class.add_arguments(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if not isinstance(args, dict):
            check_config_files(sys.argv[1:] if args is None else args)
        with own_options(self.say):
            super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_sections(config, self.task_class)
        check_options(config, self.config.subcommand)
        self.task_class.check_config(config)
        check_own(Path(config.results))

    def _parse_ckpt_path(self) -> None:
        """Lightning lets options stored in a checkpoint beat the command line: not here."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if "verbose" in config:
            config.verbose = False  # The task prints its own table.
        config.weights_only = True  # Nothing in a checkpoint is executed.
        self.recipe = self.recipe_of_subcommand()
        if self.subcommand == "fit" and config.ckpt_path is not None:
            start = Path(config.ckpt_path).resolve()
            if start != self._find_directory(config, fresh=False).last.resolve():
                # What the run starts from decides what it learns.
                self.recipe["start"] = str(start)
        self.directory = self._find_directory(
            config, fresh=config.fresh and self.subcommand == "fit"
        )
        if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise ValueError(
                f"Expected `--ckpt_path` to be a checkpoint, but there is none at "
                f"{config.ckpt_path}."
            )
        self.asked = config.clone()
        if self.subcommand == "fit":
            if self.directory.path.exists():
                self._choose_start(config)
            else:
                self._rehearse(config)
        elif config.ckpt_path is None:
            self._choose_trained(config)
        if config.trainer.default_root_dir is None:  # `predict` alone may be told another place
            config.trainer.default_root_dir = str(self.directory.path)
        self._describe_to_loggers(config)

    def _describe_to_loggers(self, config: Any) -> None:
        """Give loggers what the run is, where they have such an option that was left open."""
        network = config.model.network.class_path.rpartition(".")[2]
        titles = self._titles()
        described = {
            "save_dir": str(self.directory.path),
            "name": titles.name,
            "group": titles.group,
            "job_type": self.subcommand,
            "tags": [self.task, network, config.model.cnsn.kind],
        }
        for logger in _as_list(config.trainer.logger):
            options = getattr(logger, "init_args", {})
            for name, value in described.items():
                if name in options and options[name] is None:
                    options[name] = value

    def _titles(self) -> Titles:
        config = self.config[self.subcommand].as_dict()
        defaults = self._parser(self.subcommand).get_defaults().as_dict()
        measured = {} if self.subcommand == "fit" else measured_of(config, defaults)
        return titles_of(self.task, config, self.recipe, measured)

    def _rehearse(self, config: Any) -> None:
        """Build the model once without data, so that a mistake in it shows before they are read.

        What only the data know, such as the number of classes, is a small number here.
        """
        unknown = [target for _, target, when in self.task_class.LINKS if when == "instantiate"]
        if not unknown:
            return
        trial = config.model.clone()
        for key in unknown:
            trial[key.removeprefix("model.")] = 10
        for key in ("weights", "official"):
            if key in trial:
                trial[key] = None
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_class_arguments(self.task_class, "model")
        with torch.random.fork_rng(devices=[]):
            parser.instantiate_classes(parser.parse_object({"model": trial.as_dict()}))

    def _find_directory(self, config: Any, *, fresh: bool) -> RunDirectory:
        self.digest, *older = digests_of(self.recipe)
        return RunDirectory(
            Path(config.runs) / self.task / config.name,
            seed=config.seed_everything,
            digest=self.digest,
            older=older,
            fresh=fresh,
        )

    def recipe_of_subcommand(self) -> dict[str, Any]:
        assert self.subcommand is not None
        defaults = self._parser(self.subcommand).get_defaults()
        return recipe_of(self.config[self.subcommand].as_dict(), defaults.as_dict())

    def _choose_start(self, config: Any) -> None:
        first = getattr(rank_zero_only, "rank", 0) == 0
        if first and self.directory.finished() is None:
            self.lock = self.directory.hold()
        finished, start = self.directory.finished(), self.directory.resume_point()
        # A finished run's checkpoints may have been deleted; one that is damaged is made again.
        if finished is not None and start in (None, self.directory.last):
            self._refuse_other_data(finished, describe_given(self.task_class, config.as_dict()))
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
            parser = self._parser(self.subcommand)
            text = parser.dump(config, skip_none=False, skip_link_targets=True)
            self.directory.write("config.yaml", text)

    def _choose_trained(self, config: Any) -> None:
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

    def _check_tested_data(self, *_: Any) -> None:
        finished = self.directory.finished()
        if finished is not None:
            self._refuse_other_data(finished, self.datamodule.describe())

    def _untrained(self, why: str = "") -> ValueError:
        return ValueError(
            f"Expected a trained run in {self.directory.path}, but there is none{why}: run `fit` "
            "with the same options first, or name a checkpoint by `--ckpt_path`."
        )

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self._check_weights()
        model: Any = self.model
        network = self.recipe["model"].get("network", {}).get("init_args", {})
        asked, found = network.get("num_classes"), getattr(self.datamodule, "num_classes", None)
        if asked is not None and asked != found:
            raise ValueError(
                f"Expected the network's `num_classes` to be {found}, as the data have, but got "
                f"{asked}: leave it out."
            )
        model.check_data(self.datamodule)
        if self.subcommand == "fit" and self.lock is None:
            # A new run's directory is made now that all options have been found to be sound.
            self._choose_start(self.asked)

    def _check_weights(self) -> None:
        """Without a run and an official checkpoint, the pretrained weights must be all there is."""
        config = self.config[self.subcommand]
        weights, official = config.model.get("weights"), config.model.get("official")
        if given := weights or official:
            _check_finite(given, self.model.state_dict(), "fetch or save them again")
        if self.subcommand == "fit" or config.ckpt_path is not None or official is not None:
            return
        model: Any = self.model
        if not model.complete:
            raise self._untrained(f", and {weights} is not the whole network")
        rank_zero_info(f"The weights are those of {weights}: no run was trained from them.")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer_config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        fits = self.subcommand == "fit"
        loggers = trainer_config.get("logger")
        if loggers is None or loggers is True:
            loggers = []
        if loggers is not False:
            csv = Curves(self.directory.path, needed=fits)
            trainer_config["logger"] = [csv, *_as_list(loggers)]
        if not fits:
            trainer_config["enable_checkpointing"] = False
        given = _as_list(trainer_config.get("callbacks"))
        kept = self.directory.checkpoints / "kept" if fits else None
        trainer_config["callbacks"] = place_users_checkpoints(given, kept)
        plugins = [*_as_list(trainer_config.get("plugins")), DurableCheckpointIO()]
        trainer_config["plugins"] = plugins
        callbacks = self._checkpoint_callbacks()
        if self.config[self.subcommand].speed:
            callbacks.insert(0, self.speed)
        own = [c for c in given if isinstance(c, ProgressBar)]
        if trainer_config.get("enable_progress_bar") is not False and not own:
            callbacks.append(progress_bar())
        trainer = self._instantiate_trainer(trainer_config, callbacks)
        watch_processes(trainer, self.outlook)
        return trainer

    def _checkpoint_callbacks(self) -> list[L.Callback]:
        told: list[L.Callback] = [RecipeInCheckpoint(self.recipe), self.trained_in]
        if self.subcommand != "fit":
            return [*told, *self.checks]
        folder = str(self.directory.checkpoints)
        options: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
        callbacks: list[L.Callback] = []
        if self.task_class.MONITOR is not None:
            monitor, mode = self.task_class.MONITOR
            best = RunCheckpoint(filename="best", monitor=monitor, mode=mode, **options)
            callbacks.append(best)
        # Behind `best`, whose score it must know.
        last = RunCheckpoint(filename="last", save_on_train_epoch_end=True, **options)
        callbacks.append(last)
        every = self.config[self.subcommand].save_every
        if every:
            callbacks.append(StepCheckpoint(filename="last", every_n_train_steps=every, **options))
        policy = self.config[self.subcommand].nonfinite
        self.numbers = WatchNumbers(policy, self.directory.last)
        stop = SaveOnInterruption(self.directory.last)
        same = SameRun(self.directory.checkpoints)
        watches = [ExactResume(), self.numbers, WatchClasses(), stop, SwapBack()]
        return [*callbacks, *told, same, self.timer, *watches]

    def before_fit(self) -> None:
        self._check_checkpoint()
        self._log_config()
        self.built = True

    def _log_config(self) -> None:
        """What was asked for, for the loggers beside the run directory's own."""
        config = self.config[self.subcommand].as_dict()
        parts = {name: config[name] for name in ("name", "seed_everything", "model", "data")}
        trainer = {k: v for k, v in config["trainer"].items() if k not in ("logger", "callbacks")}
        for logger in self.trainer.loggers[1:]:
            logger.log_hyperparams({**parts, "trainer": trainer, "config_hash": self.digest})

    def _log_dataset(self) -> None:
        """The data's true name and size, known once they are read."""
        for logger in self.trainer.loggers[1:]:
            described = self.datamodule.describe()
            kept = ("dataset", "fingerprint", "n_train", "n_test")
            logger.log_hyperparams({name: described[name] for name in kept if name in described})

    def before_validate(self) -> None:
        self._check_checkpoint()
        self.built = True

    def before_test(self) -> None:
        self._check_checkpoint()
        if self.trainer.global_rank == 0:
            check_writable(self._results_file())
        self._log_config()
        self.built = True

    def _results_file(self) -> Path:
        return Path(self.config[self.subcommand].results) / f"{self.task}.jsonl"

    def before_predict(self) -> None:
        self._check_checkpoint()
        self.built = True

    def _check_checkpoint(self) -> None:
        path = self.config[self.subcommand].ckpt_path
        if path is None:
            return
        state = read_state_dict(path)
        if report := key_report(self.model, state):
            raise ValueError(
                f"Expected {path} to be a checkpoint of the network that the options describe, but "
                f"{report}. Give the options of the run that it comes from."
            )
        lacks = missing_parts(Path(path), training=self.subcommand == "fit")
        if lacks:
            raise ValueError(
                f"Expected {path} to be a checkpoint of a run, but it lacks {', '.join(lacks)}: "
                "weights alone are what `--model.weights` takes."
            )
        _check_finite(path, state, "give a checkpoint from before")

    def after_fit(self) -> None:
        if self.trainer.global_rank == 0:
            self._log_dataset()
        if self.trainer.interrupted:
            raise KeyboardInterrupt
        config = self.config[self.subcommand]
        if self.trainer.global_rank == 0 and not config.trainer.fast_dev_run:
            if not self.directory.last.is_file():
                begun = config.ckpt_path or "the options"
                raise ValueError(
                    f"Expected at least one step of training, but {begun} left none: raise "
                    "`trainer.max_epochs` or `trainer.max_steps`."
                )
            # Over all starts of a run that was resumed.
            seconds = round(self.timer.time_elapsed("train"), 1)
            record: dict[str, Any] = {"steps": self.trainer.global_step, "seconds": seconds}
            described = self.datamodule.describe()
            record["data"] = {k: described[k] for k in ("dataset", "fingerprint", "n_train")}
            if self.speed.trained is not None:
                record["speed"] = self.speed.trained
                rank_zero_info(f"Trained at {in_words(self.speed.trained)}.")
            if self.numbers.skipped:
                record["skipped"] = self.numbers.skipped
            record["trained"] = self.trained_in.trained
            self.directory.finish(record)
            rank_zero_info(f"Finished: {self.directory.path}")

    def after_validate(self) -> None:
        if self.trainer.global_rank == 0:
            for name, value in self.trainer.callback_metrics.items():
                print(f"{name}: {value:.4g}")

    def after_test(self) -> None:
        model: Any = self.model
        if self.trainer.global_rank != 0:
            return
        if not hasattr(model, "metrics"):
            raise ValueError(
                "Expected `trainer.limit_test_batches` to leave a batch to test on, but got "
                f"{self.trainer.limit_test_batches}."
            )
        config = self.config[self.subcommand]
        record = {
            "format": FORMAT,
            "task": self.task,
            "name": config.name,
            "seed": config.seed_everything,
            "config_hash": self.digest,
            **self._describe_checkpoint(config, data := self.datamodule.describe()),
            **data,
            "recipe": portable(self.recipe),
            **model.metrics,
            "seconds": round(time.monotonic() - self.started, 1),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **self.trained_in.here,
        }
        if self.trained_in.trained:
            record["trained"] = self.trained_in.trained  # as the weights themselves tell
            (record.get("finished") or {}).pop("trained", None)
        if self.speed.tested is not None:
            record["speed"] = self.speed.tested
            rank_zero_info(f"Tested at {in_words(self.speed.tested)}.")
        limit = self.trainer.limit_test_batches
        if isinstance(limit, int) or limit < 1:
            record["limited"] = limit  # A part of the test set; stands in no table.
        path = self._results_file()
        append_result(path, record)
        rank_zero_info(f"Added a line to {path}")
        self._log_dataset()
        model.print_report(record)

    def _describe_checkpoint(self, config: Any, data: dict[str, Any]) -> dict[str, Any]:
        """Where the weights come from that were tested on `data`."""
        if config.ckpt_path is None:
            official = config.model.get("official")
            path = Path(official or config.model.weights).expanduser()
            selection = "official checkpoint" if official else PRETRAINED
            described: dict[str, Any] = {"checkpoint": path.name, "selection": selection}
            if path.is_file():  # A published name says itself which weights it means.
                described["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            return described
        path = Path(config.ckpt_path)
        finished = self.directory.trained(path)
        if finished and other_data(finished, data):
            finished = None
        selection = "last epoch" if finished else self._selection(path)
        described = {"checkpoint": path.name, "selection": selection, "finished": finished}
        if not finished:
            described |= self._of_another_run(path, Path(config.runs) / self.task, data)
        return described

    def _of_another_run(self, checkpoint: Path, runs: Path, data: dict[str, Any]) -> dict[str, Any]:
        """Of a checkpoint that ends a finished run of another recipe, or on other data.

        Which, and what differs.
        """
        finished = finished_fit(checkpoint)
        name = name_of(checkpoint, runs) if finished else None
        recipe = recipe_in(checkpoint) if name else None
        if name is None or recipe is None:
            return {}
        recipes = portable(recipe), portable(self.recipe)
        changed = [option for option, _, _ in differences(*recipes)]
        if "start" in recipe:  # It continued another run, which no `test` asks for.
            changed.append("start")
        if other_data(finished or {}, data):
            changed.append("data")
        return {"selection": last_epoch_of(name), "finished": finished, "changed": changed}

    def _selection(self, checkpoint: Path) -> str:
        """What a checkpoint is that does not end a finished run of the recipe tested."""
        if checkpoint.stem == "best" and self.task_class.MONITOR is not None:
            return f"best by {self.task_class.MONITOR[0]}"
        own = checkpoint.resolve() == self.directory.last.resolve()
        return "unfinished run" if own else f"given: {checkpoint.stem}"


def _check_finite(source: str, state: dict[str, Any], remedy: str) -> None:
    """Of parameters and buffers: one NaN in a running average makes every output NaN."""
    if bad := not_finite(state):
        raise ValueError(
            f"Expected finite weights in {source}, but NaN or infinite are {bad}: {remedy}."
        )


def _as_list(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return []
    return value if isinstance(value, list) else [value]


class _Parsed(Exception):
    """Carries recipe and options out of a command line that is only parsed."""

    def __init__(self, recipe: dict[str, Any], config: dict[str, Any]) -> None:
        super().__init__()
        self.parsed = recipe, config


# What :func:`run` says in its own words, and what is no fault of the options.
_SAID = (ValueError, OSError, TypeError, MisconfigurationException, AssertionError, _Parsed)


class _ParseOnly(TaskCLI):
    def ending(self) -> AbstractContextManager[None]:
        return nullcontext()

    def say(self, sentence: str) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        raise _Parsed(self.recipe_of_subcommand(), self.config[self.subcommand].as_dict())


def expected_recipe(task: str, args: list[str]) -> dict[str, Any] | None:
    """What ``python -m tasks.<task> <args>`` asks for; None if the command line is refused."""
    parsed = expected(task, args)
    return None if parsed is None else parsed[0]


def expected_data(task: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """See :func:`tasks.given_data.describe_given`; `config` is of :func:`expected`."""
    return describe_given(importlib.import_module(f"tasks.{task}").TASK, config)


def expected(task: str, args: list[str]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Recipe and all options of a command line; see :func:`expected_recipe`."""
    model_class = importlib.import_module(f"tasks.{task}").TASK
    _quiet()
    seeds = logging.getLogger("lightning.fabric.utilities.seed")
    before = seeds.level
    seeds.setLevel(logging.WARNING)
    try:
        _ParseOnly(model_class, task, args)
    except _Parsed as parsed:
        return parsed.parsed
    except SystemExit:
        return None
    finally:
        seeds.setLevel(before)
    raise AssertionError("the command line went on after parsing")


def _quiet() -> None:
    """Hide messages that ask nothing of the user."""
    for message in (
        "LightningCLI's args parameter",  # given so on purpose
        r".*LeafSpec.*",  # between two libraries
        r"Checkpoint directory .* exists and is not empty",  # a resumed run
        r".*does not have many workers",  # images in memory need none
        r"Be aware that when using `ckpt_path`",  # a test needs no callbacks
        r"predict returned None",  # predictions are written to files
    ):
        warnings.filterwarnings("ignore", message)
    # The sentence alone: where in the code it was said helps no user.
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    hints = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    hints.addFilter(lambda record: "Tip:" not in record.getMessage())
    saving = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    # Of every checkpoint: that it holds more than weights.
    saving.addFilter(lambda record: not record.getMessage().startswith("`weights_only` was not"))


def _own_words(error: Exception) -> str:
    """Our sentence, without what others put around it.

    A parser lists all the types that it tried; a loader's worker puts its traceback before.
    """
    text = str(error)
    if text.startswith("Caught "):
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    lines = [line.strip(" -") for line in text.splitlines()]
    ours = [line for line in lines if line.startswith("Expected ") and "<class '" not in line]
    return ours[0] if ours and "Union subtypes" in lines[0] else text


def _unknown_metric(error: Exception) -> str | None:
    """What to say where a callback waits for a metric that is never logged; None if it is not so.

    Which there are is known after the first validation.
    """
    found = re.match(r"Early stopping conditioned on metric `(.*?)` .* following: (.*)", str(error))
    if found is None:
        return None
    return f"Expected EarlyStopping's `monitor` to be one of {found[2]}, but got `{found[1]}`."


def run(model_class: type[CNSNModule], task: str, args: list[str] | None = None) -> None:
    """Run a task's command line. A user's error is one sentence; CNSN_TRACEBACK=1 shows where."""
    outlive_readers()
    torch.set_float32_matmul_precision("high")
    _quiet()
    keep_freed_memory()
    end_with_parent()
    try:
        TaskCLI(model_class, task, args)
    except (
        ValueError,
        OSError,
        TypeError,
        ImportError,
        MisconfigurationException,
        RuntimeError,
    ) as error:
        unknown = isinstance(error, RuntimeError)
        words = _unknown_metric(error) or worker_failure(error) if unknown else _own_words(error)
        if words is None:
            raise
        if os.environ.get("CNSN_TRACEBACK"):
            traceback.print_exc()
        words = f"error: {' '.join(words.split())}"
        if is_missing(error):
            print(words, file=sys.stderr)
            sys.exit(NO_DATA)
        sys.exit(words)
    finally:
        # A next command in this process chooses its own fresh directory.
        os.environ.pop(RunDirectory.VARIABLE, None)
