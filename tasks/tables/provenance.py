"""What the numbers of a table are made from: data, lengths, seeds, commits and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.engine.results import HELD_OUT, PRETRAINED

__all__ = ["provenance"]

Record = dict[str, Any]


def each(values: Iterable[Any], between: str = ", ") -> str:
    """All that there are, once each."""
    return between.join(sorted({"unknown" if v in (None, "") else str(v) for v in values}))


def provenance(records: Sequence[Record]) -> str:
    """What the numbers are made from, in a line or two."""
    units = each([r.get("unit", "images") for r in records])
    prints = each([r["fingerprint"] for r in records])
    counts = each([f"{r['n_train']} training and {r['n_test']} test {units}" for r in records])
    trained = [r for r in records if r["selection"] != PRETRAINED]
    trainers = [r["recipe"].get("trainer", {}) for r in trained]
    length = {
        name: each([t[key] for t in trainers if t.get(key) not in (None, -1)])
        for name, key in (("Epochs", "max_epochs"), ("Steps", "max_steps"))
    }
    text = f"Data: {records[0]['dataset']}, fingerprint {prints}, {counts}. "
    text += "".join(f"{name}: {values}. " for name, values in length.items() if values)
    few = [r for r in records if "n_labelled" in r]
    if few:
        steps = each([(r.get("finished") or {}).get("steps") for r in few])
        draws = each([f"{r['n_labelled']} (draw {r['labelled_draw']})" for r in few])
        text += f"Steps: {steps}. Training images with a label: {draws}. "
    seeds = each([r["seed"] for r in records])
    text += f"Seeds: {seeds}; {_spread(records)}{_selection(records)}. "
    texts = each([r["test_in_training"] for r in records if r.get("test_in_training")])
    text += f"Test {units} that also stand in the training data: {texts}. " if texts else ""
    given = each([r["checkpoint"] for r in records if r not in trained])
    text += f"Not trained here: {given}. " if given else ""
    tested = list(dict.fromkeys(c for r in records for c in r.get("corruptions", [])))
    if tested:
        found = {c.get("severity", 0) for r in records for c in r.get("conditions", [])} - {0}
        severities = ", ".join(map(str, sorted(found))) or "1, 2, 3, 4, 5"
        text += f"Corruptions, each at severities {severities}: {', '.join(tested)}. "
        text += "ECE: 15 bins, of each condition by itself, then the mean as of errors. "
    return text + made_by(records)


def _spread(records: Sequence[Record]) -> str:
    """What stands behind ±, where there is one."""
    counts = Counter(r["name"] for r in records).values()
    if max(counts) < 2:
        return "one seed, so without a spread; "
    one = "; rows of one seed have none" if 1 in counts else ""
    return f"mean ± sample standard deviation (n - 1) over seeds{one}; "


def _selection(records: Sequence[Record]) -> str:
    """Which epoch was tested."""
    chosen = [r for r in records if r["selection"] == HELD_OUT]
    if not chosen:
        return "last epoch"
    kept, epochs = (each([r[key] for r in chosen]) for key in ("held_out", "epoch"))
    units = each([r.get("unit", "images") for r in chosen])
    return f"epoch of the fewest errors on {kept} held-out training {units} (epoch {epochs})"


def made_by(records: Sequence[Record]) -> str:
    """Commits and machines of the training, and the test's commits where they are others.

    A line that does not say where it was trained, as older ones, has its test's commit alone.
    """

    commits: list[str | None] = []
    others: list[str | None] = []
    trainings: list[Record] = []
    for record in records:
        tested = record.get("commit")
        own = [e.get("commit") for e in record.get("trained", [{"commit": tested}])]
        commits += own
        others += [tested] if tested not in own else []
        trainings += record.get("trained", [])
    text = f"Commit: {each(commits)}"
    text += f"; tested by {each(others)}" if others else ""
    machines = map(_machine, trainings)
    return text + (f". Trained on: {each(machines, '; ')}." if trainings else ".")


def _machine(environment: Record) -> str | None:
    """What digits depend on beside the code; None where it is not known."""
    names = ("processor", "device", "instructions", "torch", "threads")
    if any(name not in environment for name in names):
        return None
    model, device, instructions, torch, threads = (environment[name] for name in names)
    some = f"{threads} thread{'' if threads == 1 else 's'}"
    return f"{model} ({device}, {instructions}, {some}, torch {torch})"
