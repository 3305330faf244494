"""What a run is called where many are shown: words for what was asked, from its recipe.

    group = task/data/network/method, what else was changed              (all seeds share it)
    name  = the `--name`, method, what else was changed, network, data, schedule, seed

Runs that learn or measure something else are in other groups, so that a mean over a group is one
over seeds. Folders are called by their last name: the same data elsewhere are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks import ROOT
from tasks.runs.recipe import MODEL_FILES, Neutral, locations, portable

__all__ = ["Titles", "method_in_words", "titles_of"]

LONGEST = 128  # characters that dashboards take
# Where README's commands keep data: it tells no set from another.
USUAL_PLACE = "datasets"
Options = Mapping[str, Any]
_LAYERS = {"crossnorm": "CrossNorm", "selfnorm": "SelfNorm"}


class Titles(NamedTuple):
    """Of a run."""

    group: str
    name: str


def titles_of(task: str, config: Options, recipe: Options, measured: Options) -> Titles:
    """Group and name of a run.

    Args:
        task: its task.
        config: of one subcommand, complete.
        recipe: what decides what it learns; see :func:`tasks.runs.recipe.recipe_of`.
        measured: what decides what a test measures, beside the recipe.
    """
    model = dict(recipe["model"])
    schedule = {"optimizer": model.pop("optimizer", {}), **recipe["trainer"]}
    network = _network(config["model"]["network"], model.pop("network", {}))
    layers = {k: v for k, v in model.pop("cnsn", {}).items() if k != "kind"}
    kind = config["model"]["cnsn"]["kind"]
    method = _joined("baseline" if kind == "none" else kind, layers | model.pop("crossnorm", {}))
    data, options = _data(config["data"], recipe["data"])
    named = {k: Path(v).name for k, v in measured.items() if isinstance(v, str)}
    known = portable(dict(recipe))  # with a checksum, as names alone tell few files apart
    named |= {k: known["model"][k] for k in MODEL_FILES if isinstance(model.get(k), str)}
    named |= {k: known[k] for k in ("start",) if k in known}
    rest = _joined("", {**model, **options, **measured, **named})
    # The schedule comes last, as it is what all runs of a YAML share, and may be cut.
    changed = " ".join(filter(None, (rest, _joined("", schedule))))
    group = ", ".join(filter(None, ("/".join((task, data, network, method)), changed)))
    given = "" if config["name"] == "default" else config["name"]
    parts = (given, method, rest, network, data, _joined("", schedule))
    name = ", ".join(filter(None, parts))
    return Titles(_fitted(group), _fitted(name, f", seed {config['seed_everything']}"))


def method_in_words(task: str, config: Options) -> str:
    """Whether a run trains the method, and how: where the layers are, p and k.

    Args:
        task: its task.
        config: of one subcommand, complete.
    """
    spec, when = config["model"]["cnsn"], config["model"]["crossnorm"]
    if spec["kind"] == "none":
        names = [*config["data"]["class_path"].split(".")[1:2], task]
        files = (f"configs/methods/{m}/{n}.yaml" for n in names for m in ("cnsn", "cn"))
        file = next((f for f in files if (ROOT / f).is_file()), None)
        method = f" The method is one more file, such as `--config {file}`." if file else ""
        return f"Trains the baseline, without CrossNorm and SelfNorm.{method}"
    stages = f", stages {', '.join(map(str, spec['stages']))}" if spec["stages"] else ""
    at = f"`{spec['at'] or spec['position']}`{stages}"
    parts = []
    if spec["kind"] in ("sn", "cnsn"):
        parts.append(f"{_LAYERS.get(spec['gate'], spec['gate'])} at {at}")
    if spec["kind"] in ("cn", "cnsn"):
        own = f"`{spec['cn_position']}`{stages}" if spec["cn_position"] else at
        place = "on the image" if spec["image"] else f"at {own}"
        weight = f", consistency {when['consistency']:g}" if when["consistency"] else ""
        parts.append(
            f"{_LAYERS.get(spec['restyle'], spec['restyle'])} {place}, crop {spec['crop']}, with "
            f"p {when['p']:g} a step on k {when['k']} of its sites{weight}"
        )
    return f"Trains {spec['kind'].upper()}: {'; '.join(parts)}."


def _network(config: Options, recipe: Options) -> str:
    # Links fill in what only the data know.
    own = {k: v for k, v in recipe.get("init_args", {}).items() if v is not None}
    return _joined(config["class_path"].rpartition(".")[2], own)


def _data(config: Options, recipe: Options) -> tuple[str, Options]:
    """A set's name with where it lies, and what else was changed of it."""
    every, changed = (part.get("init_args", {}) for part in (config, recipe))
    own = set(locations(dict(config))) - Neutral.of_data(dict(config)).always
    places = {k: Path(every[k]).name for k in own if every.get(k)}
    places = {k: v for k, v in places.items() if v != USUAL_PLACE}
    named = every.get("title") or every.get("name") or config["class_path"].rpartition(".")[2]
    return _joined(named, places), {k: v for k, v in changed.items() if k not in own | {"name"}}


def _joined(first: str, options: Options) -> str:
    return " ".join(filter(None, (first, *_words(options))))


def _words(options: Options, prefix: str = "") -> Iterator[str]:
    for key, value in sorted(options.items()):
        if isinstance(value, Mapping) and "class_path" not in value:
            yield from _words(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        options = " ".join(_words(value.get("init_args") or {}))
        name = str(value["class_path"]).rpartition(".")[2]
        return f"{name}({options})" if options else name
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fitted(text: str, end: str = "") -> str:
    """`text` and `end`; of a text that is too long the beginning, and a hash of all of it."""
    if len(text + end) > LONGEST:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        text = f"{text[: LONGEST - len(f'... {digest}{end}')]}... {digest}"
    return text + end
