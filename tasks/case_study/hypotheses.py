"""Hypotheses as data: read from a file, tested on rows of metrics, and given a verdict that no one types in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, ValidationError

from tasks.settings import Section, SettingsError, read_yaml
from tasks.statistics import (
    TestResult,
    almost_stochastic_order,
    corrected_repeated_kfold_ttest,
    holm,
    independent_ttest,
    mann_whitney,
    paired_ttest,
    wilcoxon,
)

Column = Literal["experiment", "head", "configuration", "split", "part", "source", "metric"]
TestName = Literal["corrected-repeated-kfold", "independent-t", "paired-t", "wilcoxon", "mann-whitney"]
Outcome = Literal["supports", "contradicts", "neither", "untestable"]
Verdict = Literal["accepted", "rejected", "not supported"]
Floats = npt.NDArray[np.float64]


class Comparison(Section):
    """Two groups of scores: a is claimed to be the greater."""

    a: dict[Column, str] = Field(min_length=1)
    b: dict[Column, str] = Field(min_length=1)


class Hypothesis(Section):
    """What is claimed, on which rows of the table `metrics`, by which test, and what counts as support."""

    id: str = Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._-]+$")
    claim: str = Field(min_length=1)
    where: dict[Column, str] = Field({}, description="column -> value, of all scores")
    for_each: dict[Column, tuple[str, ...] | Literal["all"]] = Field(
        {}, description="column -> values: each comparison is made once for each of them"
    )
    comparisons: tuple[Comparison, ...] = Field(min_length=1)
    test: TestName = "independent-t"
    alternative: Literal["two-sided", "greater"] = Field("two-sided", description="greater: a is greater than b")
    alpha: float = Field(0.05, gt=0, lt=1)
    accepted_if: Literal["all", "any"] = Field("all", description="how many comparisons must support the claim")


class HypothesesFile(Section):
    hypotheses: tuple[Hypothesis, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Plan:
    """Hypotheses as they were read, and the hash of the file's bytes."""

    hypotheses: tuple[Hypothesis, ...]
    sha256: str
    text: str


def read_plan(path: Path) -> Plan:
    """Read a hypotheses file.

    Raises
    ------
    SettingsError
        One line that names the file and what is wrong with it.
    """
    content = read_yaml(path, "hypotheses: [...]")
    try:
        hypotheses = HypothesesFile.model_validate(content).hypotheses
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    names = [each.id for each in hypotheses]
    if len(set(names)) < len(names):
        raise SettingsError(f"{path}: two hypotheses have the same id: {', '.join(names)}")
    text = path.expanduser().read_text(encoding="utf-8")
    return Plan(hypotheses, hashlib.sha256(text.encode()).hexdigest(), text)


@dataclass(frozen=True)
class Tested:
    """One comparison of a hypothesis. `outcome` is by the plain p-value, `outcome_holm` by the one corrected within the hypothesis."""

    hypothesis: str
    a: dict[str, str]
    b: dict[str, str]
    where: dict[str, str]
    result: TestResult | None
    pvalue_holm: float | None
    aso: float | None
    outcome: Outcome
    outcome_holm: Outcome
    note: str


@dataclass(frozen=True)
class Decision:
    """The verdict on a hypothesis, by plain and by corrected p-values, and how its comparisons came out."""

    hypothesis: str
    claim: str
    verdict: Verdict
    verdict_holm: Verdict
    supports: int
    contradicts: int
    neither: int
    untestable: int
    accepted_if: str
    alpha: float


def decide(
    hypotheses: Sequence[Hypothesis],
    metrics: pl.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[list[Tested], list[Decision]]:
    """Test every comparison of every hypothesis, and judge.

    A comparison *supports* the claim where its p-value is below α and a is greater, *contradicts* it where b is significantly greater, and
    is *untestable* where there are no scores, or none of them varies and all are the same. A claim is *accepted* when all comparisons (or any,
    as it says) support it and none contradicts it, *rejected* when some contradict and none supports it, and otherwise *not supported*.
    Comparisons that are untestable count for nothing.

    Parameters
    ----------
    metrics
        Rows of the table `metrics`; those with the same key columns are the scores of one group, in the order of seed and fold.
    names
        Study name of a collection -> the one that plays its part.
    seed
        Of the bootstrap of the almost stochastic order.
    """
    tested: list[Tested] = []
    decisions: list[Decision] = []
    for hypothesis in hypotheses:
        found = [
            _tested(hypothesis, metrics, where, a, b, seed)
            for where, a, b in _comparisons(hypothesis, metrics, names or {})
        ]
        corrected = _corrected(hypothesis, found)
        tested += corrected
        decisions.append(_decision(hypothesis, corrected))
    return tested, decisions


def pairwise_losses(losses: Sequence[str], metrics: Sequence[str]) -> tuple[Hypothesis, ...]:
    """Every two losses on every training set, for each metric: the study's table 5. Nothing is claimed, so there is no verdict."""
    pairs = tuple(Comparison(a={"configuration": a}, b={"configuration": b}) for a, b in combinations(losses, 2))
    if not pairs:
        return ()
    return tuple(
        Hypothesis(
            id=f"table-5-{metric}",
            claim="none: every two losses are compared",
            where={"experiment": "regional", "part": "test", "source": "all", "metric": metric},
            for_each={"split": "all"},
            comparisons=pairs,
        )
        for metric in metrics
    )


def _comparisons(
    hypothesis: Hypothesis, metrics: pl.DataFrame, names: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], dict[str, str], dict[str, str]]]:
    """Shared columns and both sides of every comparison, with the names of the collections that are there."""
    common = [_named(dict(hypothesis.where), names)]
    for column, values in hypothesis.for_each.items():
        if values == "all":
            present = _rows(metrics, common[0])[column].unique().sort().to_list()
        else:
            present = [_named({column: value}, names)[column] for value in values]
        common = [{**each, column: value} for each in common for value in present]
    for comparison in hypothesis.comparisons:
        for where in common:
            yield where, _named(dict(comparison.a), names), _named(dict(comparison.b), names)


def _named(columns: Mapping[Any, str], names: Mapping[str, str]) -> dict[str, str]:
    return {column: names.get(value, value) if column == "source" else value for column, value in columns.items()}


def _rows(metrics: pl.DataFrame, where: Mapping[str, str]) -> pl.DataFrame:
    return metrics.filter([pl.col(column) == value for column, value in where.items()])


def _tested(
    hypothesis: Hypothesis,
    metrics: pl.DataFrame,
    where: dict[str, str],
    a: dict[str, str],
    b: dict[str, str],
    seed: int,
) -> Tested:
    rows_a, rows_b = (_rows(metrics, {**where, **side}).sort("seed", "fold") for side in (a, b))
    scores_a, scores_b = (each["value"].to_numpy() for each in (rows_a, rows_b))
    reason = _untestable(scores_a, scores_b)
    if not reason:
        try:
            result = _TESTS[hypothesis.test](scores_a, scores_b, rows_a, hypothesis.alternative)
        except ValueError as error:
            reason = str(error)
    if reason:
        return Tested(hypothesis.id, a, b, where, None, None, None, "untestable", "untestable", reason)
    aso = almost_stochastic_order(scores_a, scores_b, seed=seed).statistic
    outcome = _outcome(hypothesis, result, result.pvalue)
    return Tested(hypothesis.id, a, b, where, result, None, aso, outcome, outcome, "")


def _untestable(a: Floats, b: Floats) -> str:
    """Why two groups cannot be tested; empty where they can."""
    if min(len(a), len(b)) < 2:
        return f"there are {len(a)} and {len(b)} scores"
    if np.ptp(np.concatenate([a, b])) == 0:
        return "all scores are the same"
    return ""


def _repeated_kfold(a: Floats, b: Floats, rows: pl.DataFrame, alternative: Any) -> TestResult:
    n_repeats = rows["seed"].n_unique()
    return corrected_repeated_kfold_ttest(
        a, b, n_folds=len(a) // n_repeats, n_repeats=n_repeats, alternative=alternative
    )


_TESTS: Mapping[TestName, Callable[[Floats, Floats, pl.DataFrame, Any], TestResult]] = {
    "corrected-repeated-kfold": _repeated_kfold,
    "independent-t": lambda a, b, _, alternative: independent_ttest(a, b, alternative=alternative),
    "paired-t": lambda a, b, _, alternative: paired_ttest(a, b, alternative=alternative),
    "wilcoxon": lambda a, b, _, alternative: wilcoxon(a, b, alternative=alternative),
    "mann-whitney": lambda a, b, _, alternative: mann_whitney(a, b, alternative=alternative),
}


def _outcome(hypothesis: Hypothesis, result: TestResult, pvalue: float | None) -> Outcome:
    if pvalue is None:
        return "untestable"
    if pvalue < hypothesis.alpha:
        return "supports" if result.mean_a > result.mean_b else "contradicts"
    # Of a one-sided test, the other side: it is not corrected, since it is no part of the claim.
    if hypothesis.alternative == "greater" and result.pvalue is not None and 1 - result.pvalue < hypothesis.alpha:
        return "contradicts"
    return "neither"


def _corrected(hypothesis: Hypothesis, tested: Sequence[Tested]) -> list[Tested]:
    """With p-values and outcomes corrected for the number of comparisons of the hypothesis."""
    results = [each.result for each in tested]
    pvalues = [each.pvalue for each in results if each is not None and each.pvalue is not None]
    corrected = iter(holm(pvalues) if pvalues else [])
    made = []
    for each in tested:
        if each.result is None or each.result.pvalue is None:
            made.append(each)
            continue
        pvalue = next(corrected)
        fields = {name: getattr(each, name) for name in each.__dataclass_fields__}
        fields |= {"pvalue_holm": pvalue, "outcome_holm": _outcome(hypothesis, each.result, pvalue)}
        made.append(Tested(**fields))
    return made


def _decision(hypothesis: Hypothesis, tested: Sequence[Tested]) -> Decision:
    outcomes = [each.outcome for each in tested]
    return Decision(
        hypothesis=hypothesis.id,
        claim=hypothesis.claim,
        verdict=verdict(outcomes, hypothesis.accepted_if),
        verdict_holm=verdict([each.outcome_holm for each in tested], hypothesis.accepted_if),
        supports=outcomes.count("supports"),
        contradicts=outcomes.count("contradicts"),
        neither=outcomes.count("neither"),
        untestable=outcomes.count("untestable"),
        accepted_if=hypothesis.accepted_if,
        alpha=hypothesis.alpha,
    )


def verdict(outcomes: Sequence[Outcome], accepted_if: Literal["all", "any"]) -> Verdict:
    """The verdict that the outcomes of a hypothesis's comparisons give.

    Examples
    --------
    >>> verdict(["supports", "supports"], "all"), verdict(["supports", "neither"], "all"), verdict(["supports", "neither"], "any")
    ('accepted', 'not supported', 'accepted')
    >>> verdict(["contradicts", "neither"], "all"), verdict(["contradicts", "supports"], "any"), verdict(["untestable"], "any")
    ('rejected', 'not supported', 'not supported')
    """
    supports, contradicts = outcomes.count("supports"), outcomes.count("contradicts")
    testable = len(outcomes) - outcomes.count("untestable")
    if contradicts:
        return "not supported" if supports else "rejected"
    enough = supports == testable if accepted_if == "all" else supports > 0
    return "accepted" if enough and testable else "not supported"


def rows_of_tests(tested: Sequence[Tested], hypotheses: Sequence[Hypothesis]) -> list[dict[str, Any]]:
    """Rows of the table `tests`."""
    of = {each.id: each for each in hypotheses}
    rows = []
    for each in tested:
        rows.append(
            {
                "hypothesis": each.hypothesis,
                "scope": json.dumps(each.where, sort_keys=True, ensure_ascii=False),
                "a": json.dumps(each.a, sort_keys=True, ensure_ascii=False),
                "b": json.dumps(each.b, sort_keys=True, ensure_ascii=False),
                "test": of[each.hypothesis].test,
                "alternative": of[each.hypothesis].alternative,
                **result_columns(each.result),
                "pvalue_holm": each.pvalue_holm,
                "aso": each.aso,
                "outcome": each.outcome,
                "outcome_holm": each.outcome_holm,
                "note": each.note,
            }
        )
    return rows


def result_columns(result: TestResult | None) -> dict[str, Any]:
    """The numbers of a result, and its line in APA style; all null where there is none."""
    if result is None:
        return {}
    return {**{name: value for name, value in asdict(result).items() if name != "name"}, "apa": result.apa()}
