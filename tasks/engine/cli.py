"""The command line of every task: LightningCLI with run directories, resume and results.

YAML files merge from left to right, then options; unknown keys are refused.

    python -m tasks.<task> fit --config A.yaml --config B.yaml --model.cnsn.kind cnsn

`fit` trains in one directory that is a function of what was asked; the same command resumes it or
says that it is finished, ``--fresh true`` starts another. `test` takes the last checkpoint of that
same run unless ``--ckpt_path`` names one, and adds a line to results/<task>.jsonl. It needs no run
where ``--model.official`` holds the weights, or ``--model.weights`` those of the whole network.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from data.errors import NO_DATA
from data.workers import worker_failure
from tasks import task_of
from tasks.engine.base import CNSNModule
from tasks.engine.factories import network_factories
from tasks.engine.memory import keep_freed_memory
from tasks.engine.options import add_options, check
from tasks.engine.parser import (
    TaskParser,
    check_config_files,
    own_options,
    own_words,
    quiet,
    unknown_metric,
)
from tasks.engine.record import Record, name_loggers
from tasks.engine.start import Start, describe_given, is_missing
from tasks.engine.titles import Titles, titles_of
from tasks.engine.trainer import Watches
from tasks.runs.directory import RunDirectory
from tasks.runs.interruption import ended_in_words
from tasks.runs.output import outlive_readers
from tasks.runs.processes import end_with_parent, watch_processes
from tasks.runs.recipe import measured_of, recipe_of

__all__ = [
    "TaskCLI",
    "expected",
    "expected_data",
    "expected_recipe",
    "run",
]


class TaskCLI(LightningCLI):
    """See the module's docstring; `task` names the task's directory and results file.

    Lightning calls its methods, in this order. What is asked for is checked by
    :mod:`tasks.engine.options`; where it begins says :class:`Start`, what it trains with
    :class:`Watches`, and what remains of it :class:`Record`.
    """

    begin: Start | None = None

    def __init__(self, model_class: type[CNSNModule], task: str, args: Any = None) -> None:
        self.task_class = model_class
        self.task = task
        self.asked = sys.argv[1:] if args is None else args
        self.started = time.monotonic()
        self.built = False  # until then, what goes wrong is in the options
        self.watches = Watches()
        try:
            self._run(model_class, args)
        except Exception as error:
            if self.built or isinstance(error, _SAID):
                raise
            raise ValueError(
                f"The options cannot be used: {type(error).__name__}: {error}. With "
                "CNSN_TRACEBACK=1 the same command shows where."
            ) from error
        finally:
            if self.begin is not None:
                self.begin.release()

    def _run(self, model_class: type[CNSNModule], args: Any) -> None:
        with self.ending(), network_factories():
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
        if self.begin is None or self.subcommand != "fit":
            return "The same command starts from the beginning."
        return self.begin.directory.outlook()

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for alone, as each costs a good part of a second."""
        every = LightningCLI.subcommands()
        first = next(iter(self.asked), "")
        return {first: every[first]} if first in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_options(parser, self.task_class)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if not isinstance(args, dict):
            check_config_files(sys.argv[1:] if args is None else args)
        with own_options(self.say):
            super().parse_arguments(parser, args)
        check(self.config[self.config.subcommand], self.config.subcommand, self.task_class)

    def _parse_ckpt_path(self) -> None:
        """Lightning lets options stored in a checkpoint beat the command line: not here."""

    def before_instantiate_classes(self) -> None:
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        if "verbose" in config:
            config.verbose = False  # The task prints its own table.
        config.weights_only = True  # Nothing in a checkpoint is executed.
        self.recipe = self.recipe_of_subcommand()
        parser = self._parser(self.subcommand)
        self.begin = Start(self.task_class, self.task, parser, self.subcommand, config, self.recipe)
        self.begin.find()
        name_loggers(self.begin, self.titles(), self.subcommand)
        self.record = Record(self.begin, self.watches, self.started)

    def titles(self) -> Titles:
        """What the run is called where many are shown."""
        config = self.config[self.subcommand].as_dict()
        defaults = self._parser(self.subcommand).get_defaults().as_dict()
        fits = self.subcommand == "fit"
        measured = {} if fits else measured_of(self.task_class, config, defaults)
        return titles_of(self.task, config, self.recipe, measured)

    def recipe_of_subcommand(self) -> dict[str, Any]:
        """What the options ask for."""
        assert self.subcommand is not None
        defaults = self._parser(self.subcommand).get_defaults().as_dict()
        return recipe_of(self.task_class, self.config[self.subcommand].as_dict(), defaults)

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self._start.check(self.model, self.datamodule)

    @property
    def _start(self) -> Start:
        assert self.begin is not None
        return self.begin

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        options = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        callbacks = self.watches.complete(options, self._start)
        trainer = self._instantiate_trainer(options, callbacks)
        watch_processes(trainer, self.outlook)
        return trainer

    def before_fit(self) -> None:
        self._start.check_checkpoint(self.model)
        self.record.log_config(self.trainer)
        self.built = True

    def before_validate(self) -> None:
        self._start.check_checkpoint(self.model)
        self.built = True

    def before_test(self) -> None:
        self._start.check_checkpoint(self.model)
        if self.trainer.global_rank == 0:
            self.record.check_results()
        self.record.log_config(self.trainer)
        self.built = True

    before_predict = before_validate

    def after_fit(self) -> None:
        first = self.trainer.global_rank == 0
        if first:
            self.record.log_dataset(self.trainer)
        if self.trainer.interrupted:
            raise KeyboardInterrupt
        if first and not self.config[self.subcommand].trainer.fast_dev_run:
            self.record.finish(self.trainer)

    def after_validate(self) -> None:
        if self.trainer.global_rank == 0:
            for name, value in self.trainer.callback_metrics.items():
                print(f"{name}: {value:.4g}")

    def after_test(self) -> None:
        if self.trainer.global_rank == 0:
            self.record.add(self.trainer, self.model)


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
    """See :func:`tasks.engine.start.describe_given`; `config` is of :func:`expected`."""
    return describe_given(task_of(task), config)


def expected(task: str, args: list[str]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Recipe and all options of a command line; see :func:`expected_recipe`."""
    model_class = task_of(task)
    quiet()
    seeds = logging.getLogger("lightning.fabric.utilities.seed")
    before = seeds.level
    seeds.setLevel(logging.WARNING)
    try:
        _ParseOnly(model_class, task, args)
    except _Parsed as parsed:
        return parsed.parsed
    except (SystemExit, ValueError):  # refused, by the parser or by a task's own check
        return None
    finally:
        seeds.setLevel(before)
    raise AssertionError("the command line went on after parsing")


def run(model_class: type[CNSNModule], task: str, args: list[str] | None = None) -> None:
    """Run a task's command line. A user's error is one sentence; CNSN_TRACEBACK=1 shows where."""
    outlive_readers()
    torch.set_float32_matmul_precision("high")
    quiet()
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
        words = unknown_metric(error) or worker_failure(error) if unknown else own_words(error)
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
