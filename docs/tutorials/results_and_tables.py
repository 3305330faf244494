"""Reading results and making a table: from result lines to a mean over seeds.

    PYTHONPATH=. python docs/tutorials/results_and_tables.py pictures

Every finished test adds one JSON line to runs/results/; the published ones lie in results/.
"""

import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

from tasks.engine.results import read_results

matplotlib.use("Agg")
from matplotlib import pyplot as plt

errors: dict[str, dict[int, float]] = defaultdict(dict)
for line in read_results(Path("results/classification.jsonl")):
    # A run's name is its table, network and method; a seed's newest line counts.
    table, _, row = line["name"].partition("/")
    if table == "quickstart":
        errors[row][line["seed"]] = 100 * line["summary"]["mce"]

print("| method | mean corruption error in % | seeds |\n| --- | --- | --- |")
for row, seeds in errors.items():
    mean, spread = statistics.mean(seeds.values()), statistics.stdev(seeds.values())
    print(f"| {row} | {mean:.1f} \u00b1 {spread:.1f} | {len(seeds)} |")
# The same, with all that a table must say of its data: python reproduce.py quickstart --print

out = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
out.mkdir(parents=True, exist_ok=True)
means = [statistics.mean(seeds.values()) for seeds in errors.values()]
plt.barh([row.rpartition("/")[2] for row in errors], means)
plt.xlabel("mean corruption error in %")
plt.savefig(out / "results_and_tables.png", dpi=120, bbox_inches="tight")
