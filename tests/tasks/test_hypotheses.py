"""Hypotheses and verdicts: each outcome on made-up metrics, the study's own numbers, and files that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.case_study.hypotheses import Comparison, Hypothesis, decide, pairwise_losses, read_plan, verdict
from tasks.case_study.published import MEANS, SDS_F1, T_F1, ZERO_SHOT
from tasks.settings import SettingsError
from tasks.statistics import holm, independent_ttest_from_stats

CONFIGS = Path(__file__).parents[2] / "configs"
STUDY = read_plan(CONFIGS / "hypotheses.yaml").hypotheses
KEY = {
    "experiment": "regional",
    "head": "regional-mlp",
    "part": "test",
    "source": "all",
    "metric": "mixed_f1",
    "split": "weakly",
    "configuration": "L0",
}


def with_moments(mean: float, sd: float, n: int = 10) -> np.ndarray:
    """So many scores of exactly this mean and standard deviation."""
    raw = np.random.default_rng(n).normal(size=n)
    return mean + sd * (raw - raw.mean()) / raw.std(ddof=1) if sd else np.full(n, mean)


def rows(scores: Mapping[tuple[tuple[str, str], ...], np.ndarray], n_folds: int | None = None) -> pl.DataFrame:
    """Rows of metrics: column values -> scores, in the order of seed and fold."""
    made = []
    for columns, values in scores.items():
        for number, value in enumerate(values.tolist()):
            fold = None if n_folds is None else number % n_folds
            seed = number if n_folds is None else number // n_folds
            made.append({**KEY, **dict(columns), "seed": seed, "fold": fold, "value": value})
    return pl.DataFrame(made, schema_overrides={"fold": pl.Int32})


def by_configuration(**scores: np.ndarray) -> pl.DataFrame:
    return rows({(("configuration", name),): values for name, values in scores.items()})


def claim(**options: object) -> Hypothesis:
    given = {
        "id": "H",
        "claim": "a is greater than b",
        "where": {"metric": "mixed_f1"},
        "comparisons": [{"a": {"configuration": "a"}, "b": {"configuration": "b"}}],
    }
    return Hypothesis.model_validate({**given, **options})


HIGH, LOW = with_moments(0.5, 0.02), with_moments(0.4, 0.02)


@pytest.mark.parametrize("test", ["independent-t", "paired-t", "wilcoxon", "mann-whitney"])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_every_verdict_occurs(test: str, alternative: str) -> None:
    options = {"test": test, "alternative": alternative}
    # Not the same deviations from the mean, or a paired test has nothing that varies.
    other = HIGH[::-1] * 0.8
    for a, b, wanted, outcome in (
        (HIGH, other, "accepted", "supports"),
        (other, HIGH, "rejected", "contradicts"),
        (HIGH, HIGH[::-1].copy(), "not supported", "neither"),
        (with_moments(0.5, 0), with_moments(0.5, 0), "not supported", "untestable"),
    ):
        tested, (decision,) = decide([claim(**options)], by_configuration(a=a, b=b))
        assert (decision.verdict, tested[0].outcome) == (wanted, outcome)
    _, (decision,) = decide([claim(**options)], by_configuration(a=HIGH))
    assert (decision.verdict, decision.untestable) == ("not supported", 1)


def test_correction_is_within_the_hypothesis_and_may_change_a_verdict() -> None:
    # Two comparisons of p = .04: both are below .05, and above it once corrected.
    sd = 0.02
    gap = 2.2 * sd * np.sqrt(2 / 10)
    metrics = by_configuration(a=with_moments(0.5, sd), b=with_moments(0.5 - gap, sd), c=with_moments(0.5 - gap, sd))
    hypothesis = claim(
        comparisons=[{"a": {"configuration": "a"}, "b": {"configuration": other}} for other in ("b", "c")]
    )
    tested, (decision,) = decide([hypothesis], metrics)
    plain = [each.result.pvalue for each in tested if each.result is not None]
    assert all(0.03 < p < 0.05 for p in plain if p is not None)
    assert [each.pvalue_holm for each in tested] == pytest.approx(holm([p for p in plain if p is not None]))
    assert (decision.verdict, decision.verdict_holm) == ("accepted", "not supported")


def test_any_and_all() -> None:
    metrics = by_configuration(a=HIGH, b=LOW, c=HIGH[::-1].copy())
    comparisons = [{"a": {"configuration": "a"}, "b": {"configuration": other}} for other in ("b", "c")]
    for rule, wanted in (("all", "not supported"), ("any", "accepted")):
        _, (decision,) = decide([claim(comparisons=comparisons, accepted_if=rule)], metrics)
        assert (decision.verdict, decision.supports, decision.neither) == (wanted, 1, 1)


@given(st.lists(st.sampled_from(["supports", "contradicts", "neither", "untestable"]), min_size=1, max_size=8))
def test_verdicts_follow_their_rules(outcomes: list[str]) -> None:
    strict, lenient = (verdict(outcomes, rule) for rule in ("all", "any"))  # type: ignore[arg-type]
    if strict == "accepted":
        assert lenient == "accepted"
        assert set(outcomes) <= {"supports", "untestable"}
    assert (strict == "rejected") == (lenient == "rejected")
    assert (strict == "rejected") == ("contradicts" in outcomes and "supports" not in outcomes)
    assert verdict([*outcomes, "untestable"], "all") == strict  # type: ignore[list-item]


def test_repeated_folds_are_paired_by_seed_and_fold() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(0.4, 0.05, 200)
    where = (("experiment", "zero-shot"), ("part", "fold"))
    metrics = rows(
        {
            (*where, ("configuration", "a")): base + 0.05 + generator.normal(0, 0.001, 200),
            (*where, ("configuration", "b")): base,
        },
        n_folds=20,
    ).sample(fraction=1.0, shuffle=True, seed=1)
    tested, (decision,) = decide([claim(test="corrected-repeated-kfold", alternative="greater")], metrics)
    assert decision.verdict == "accepted"
    result = tested[0].result
    assert result is not None
    assert (result.df, result.n_a) == (199, 200)
    assert result.statistic > 50  # the folds' own differences, not their spread


def study_metrics() -> pl.DataFrame:
    """Scores with the moments that the study printed."""
    heads = {
        (("split", split), ("configuration", loss)): with_moments(mean[2], SDS_F1.get((split, loss), 0.0))
        for (split, loss), mean in MEANS.items()
    }
    zero_shot = {
        (
            ("experiment", "zero-shot"),
            ("part", "fold"),
            ("source", source),
            ("configuration", template),
        ): with_moments(mean, sd, 200)
        for (source, template), (mean, sd) in ZERO_SHOT.items()
    }
    return pl.concat([rows(heads), rows(zero_shot, n_folds=20)])


def test_the_studys_numbers_give_its_verdicts() -> None:
    tested, decisions = decide(STUDY, study_metrics())
    assert {each.hypothesis: each.verdict for each in decisions} == {
        "H1": "not supported",
        "H2": "not supported",  # tourist against Geoguessr is a draw
        "H3": "rejected",
        "H4": "not supported",  # the study says rejected, though one of its two comparisons supports the claim
        "H5": "accepted",  # on Min-Limit nothing can be tested: every model answers the same
    }
    untestable = [each for each in tested if each.outcome == "untestable"]
    assert {each.where["split"] for each in untestable} == {"min-limit"}
    assert {each.note for each in untestable} == {"all scores are the same"}


@pytest.mark.parametrize(("key", "printed"), T_F1.items())
def test_the_studys_table_5(key: tuple[str, str, str], printed: float) -> None:
    # From means and deviations of three digits: each may be off by half of the last.
    split, a, b = key
    ends = [
        independent_ttest_from_stats(mean_a, sd_a, 10, mean_b, sd_b, 10).statistic
        for mean_a in (MEANS[split, a][2] - 0.0005, MEANS[split, a][2] + 0.0005)
        for mean_b in (MEANS[split, b][2] - 0.0005, MEANS[split, b][2] + 0.0005)
        for sd_a in (SDS_F1[split, a] - 0.0005, SDS_F1[split, a] + 0.0005)
        for sd_b in (SDS_F1[split, b] - 0.0005, SDS_F1[split, b] + 0.0005)
    ]
    assert min(ends) - 0.01 <= printed <= max(ends) + 0.01


def test_table_5_compares_every_two_losses() -> None:
    compared = pairwise_losses(["L0", "L25", "L50", "LDYN"], ["mixed_f1"])
    tested, _ = decide(compared, study_metrics())
    assert len(tested) == 5 * 6
    found = next(
        each
        for each in tested
        if (each.where["split"], each.a["configuration"], each.b["configuration"]) == ("weakly", "L0", "L50")
    )
    assert found.result is not None
    assert found.result.apa().startswith("t(18) = -11.79")
    assert pairwise_losses(["L0"], ["mixed_f1"]) == ()


def test_collections_go_by_the_names_that_play_their_part() -> None:
    where = (("experiment", "zero-shot"), ("part", "fold"))
    metrics = rows({(*where, ("source", "satellite")): HIGH, (*where, ("source", "relief")): LOW})
    hypothesis = claim(comparisons=[{"a": {"source": "geoguessr"}, "b": {"source": "tourist"}}])
    tested, _ = decide([hypothesis], metrics, names={"geoguessr": "satellite", "tourist": "relief"})
    assert (tested[0].a, tested[0].b, tested[0].outcome) == ({"source": "satellite"}, {"source": "relief"}, "supports")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hypotheses: []", "at least 1"),
        ("{}", "Field required"),
        ("hypotheses: [{id: H1, claim: x, comparisons: [{a: {sauce: y}, b: {source: z}}]}]", "sauce"),
        ("hypotheses: [{id: H1, claim: x, test: anova, comparisons: [{a: {source: y}, b: {source: z}}]}]", "test"),
        (
            "hypotheses: [{id: H1, claim: x, comparisons: [{a: {source: y}, b: {source: z}}]}, "
            "{id: H1, claim: x, comparisons: [{a: {source: y}, b: {source: z}}]}]",
            "the same id",
        ),
        ("hypotheses: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as raised:
        read_plan(path)
    assert "mine.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        read_plan(tmp_path / "nowhere.yaml")


def test_a_comparison_needs_two_sides() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        Comparison(a={}, b={"source": "x"})
