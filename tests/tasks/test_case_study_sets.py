"""The case study's data sets on label counts made to its totals."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.split.case_study import TRAINING_SETS, CaseStudyRule, CaseStudySets, case_study_sets, set_table


def counts_like_the_study() -> dict[str, list[int]]:
    """Images of each class: the published totals, five classes above 2,000, small classes of 77, 4 and 2 images in all.

    Only totals are published, so the shape in between is made up.
    """
    large = [12_014, 3_840, 2_600, 2_400, 3_378]
    capped = 35_596 - 5 * 2_000  # in classes of 11 to 2,000
    middle = np.geomspace(11, 1_400, 114)
    middle = np.maximum(11, np.floor(middle * (capped / middle.sum()))).astype(int)
    middle[-1] += capped - middle.sum()
    small = [10] * 7 + [7]
    geoguessr = [*large, *middle.tolist(), *small]
    tourist = [2_293 // 60] * 59 + [2_293 - 59 * (2_293 // 60)] + [4]
    aerial = [5] * 50 + [265 - 250] + [1, 1]
    return {"geoguessr": geoguessr, "tourist": tourist, "aerial": aerial}


@pytest.fixture(scope="module")
def study() -> tuple[np.ndarray, np.ndarray, CaseStudySets]:
    labels, sources = [], []
    for source, sizes in counts_like_the_study().items():
        for number, size in enumerate(sizes):
            labels += [f"class {number:03d}"] * size
            sources += [source] * size
    ids = [f"{number:06d}" for number in range(len(labels))]
    return np.array(labels), np.array(sources), case_study_sets(labels, sources, ids, CaseStudyRule())


def test_totals_are_those_published(study: tuple[np.ndarray, np.ndarray, CaseStudySets]) -> None:
    labels, sources, sets = study
    rows = {row["set"]: row for row in set_table(sets, labels, sources)}
    assert [rows["total"][name] for name in ("geoguessr", "tourist", "aerial")] == [49_905, 2_297, 267]
    zero_shot = rows["zero-shot"]
    assert [zero_shot[name] for name in ("geoguessr", "tourist", "aerial")] == [77, 4, 2]
    assert zero_shot["sum"] == 83
    # Published: 5,340 + 342 + 47. 15 % of 2,293 rounded up is 344; Aerial's 47 hangs on the classes, which are not published.
    test = rows["trained-test"]
    assert test["geoguessr"] == 5_340
    assert test["tourist"] == 344
    assert 40 <= int(test["aerial"]) <= 40 + 51  # at most one more of each class
    assert rows["min-limit"]["geoguessr"] == 49_905 - 77 - 5_340
    assert rows["weakly"]["sum"] == rows["mixed-weakly"]["sum"] == 30_256
    assert rows["strongly"]["sum"] == rows["mixed-strongly"]["sum"]
    assert rows["weakly"]["tourist"] == rows["weakly"]["aerial"] == 0
    assert int(rows["strongly"]["largest_class"]) == int(rows["mixed-strongly"]["largest_class"]) == 200
    assert int(rows["weakly"]["largest_class"]) == 1_700


def test_sets_do_not_leak_and_are_nested(study: tuple[np.ndarray, np.ndarray, CaseStudySets]) -> None:
    labels, sources, sets = study
    assert tuple(sets.training) == TRAINING_SETS
    for chosen in sets.training.values():
        assert not (chosen & (sets.trained_test | sets.zero_shot)).any()
    training = sets.training
    assert (training["weakly"] | ~training["strongly"]).all()
    assert (training["min-limit"] | ~training["weakly"]).all()
    assert set(labels[sets.zero_shot & (sources == "geoguessr")]).isdisjoint(labels[training["weakly"]])
    for mixed, own in (("mixed-weakly", "weakly"), ("mixed-strongly", "strongly")):
        assert (training[own] | ~training[mixed] | (sources != "geoguessr")).all()
        for label in np.unique(labels[training[own]]):
            of_class = labels == label
            n_own, n_left = (
                (training[own] & of_class).sum(),
                (training[mixed] & of_class & (sources == "geoguessr")).sum(),
            )
            assert (training[mixed] & of_class).sum() == n_own
            assert n_left > n_own / 2
    # Every class of Aerial's training part is also in its test part.
    aerial = sources == "aerial"
    left = aerial & ~sets.trained_test & ~sets.zero_shot
    assert set(labels[left]) <= set(labels[aerial & sets.trained_test])


def test_collections_that_are_not_there_or_too_small() -> None:
    ids = [str(number) for number in range(30)]
    with pytest.raises(ValueError, match="no image is of the base collection 'geoguessr'; there are mine"):
        case_study_sets(["a"] * 30, ["mine"] * 30, ids, CaseStudyRule())
    with pytest.raises(ValueError, match="the collection 'mine' has no class with 31 images"):
        case_study_sets(["a"] * 30, ["mine"] * 30, ids, CaseStudyRule(base="mine", default_min_per_class=31))
