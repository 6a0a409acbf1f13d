"""Real edits of real images: patches of a world map, edited, and the most similar other patch of each as what is no duplicate.

Thresholds are fitted to four fifths of the pairs and judged on the rest, beside the constants of other tools. What six
samples of places gave is in docs/dedup.md.
"""

from __future__ import annotations

from evaluate_dedup import PROBABILITIES, edited_patches

from tasks.dedup.judge import judge
from tasks.dedup.threshold import fit_thresholds


def test_suspected_misses_hardly_a_copy_and_constants_do_worse() -> None:
    pairs = edited_patches(0)
    assert fit_thresholds(*pairs, n_resamples=100).auc > 0.94
    # The second threshold is that of an even chance.
    rules = {rule.name: rule for rule in judge(*pairs, probabilities=PROBABILITIES, seed=0).rules}
    suspected, even = rules["fitted, suspected"], rules["fitted, certain"]
    constants = [rule for name, rule in rules.items() if name.startswith("constant")]
    precision = {rule.name: rule.precision or 0 for rule in rules.values()}
    assert suspected.recall >= 0.97
    assert precision[suspected.name] > max(0.58, precision["constant 0.90"])
    assert even.recall >= 0.9
    assert precision[even.name] > max(0.8, *(precision[rule.name] for rule in constants))
