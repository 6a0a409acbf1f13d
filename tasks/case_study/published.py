"""What the study printed, for the columns beside our own where the data are its own (``shared/spec/case_study.md``, tables 1 to 4, E.1).

Where its tables contradict one another, table 3 is taken: table 4 repeats the recall in place of the precision for the weakly balanced
set, and prints .307 where table 3 and the tests have .407.
"""

from __future__ import annotations

from collections.abc import Mapping

# Set -> images of Geoguessr, Tourist, Aerial, and their sum.
SETS: Mapping[str, tuple[int | None, ...]] = {
    "total": (49905, 2297, 267, 52469),
    "trained-test": (5340, 342, 47, 5729),
    "zero-shot": (77, 4, 2, 83),
    "min-limit": (44487, None, None, None),
    "weakly": (30256, None, None, 30256),
    "mixed-weakly": (28442, 1627, 187, 30256),
    "strongly": (11344, None, None, 11344),
    "mixed-strongly": (9714, 1451, 179, 11344),
}

# (training set, loss) -> means of mixed precision, recall and F1 over ten models.
MEANS: Mapping[tuple[str, str], tuple[float, float, float]] = {
    **{("min-limit", loss): (0.020, 0.030, 0.021) for loss in ("L0", "L25", "L50", "LDYN")},
    ("weakly", "L0"): (0.591, 0.328, 0.355),
    ("weakly", "L25"): (0.604, 0.378, 0.414),
    ("weakly", "L50"): (0.623, 0.381, 0.429),
    ("weakly", "LDYN"): (0.570, 0.349, 0.377),
    ("strongly", "L0"): (0.498, 0.381, 0.352),
    ("strongly", "L25"): (0.528, 0.425, 0.407),
    ("strongly", "L50"): (0.543, 0.415, 0.404),
    ("strongly", "LDYN"): (0.482, 0.402, 0.366),
    ("mixed-weakly", "L0"): (0.586, 0.336, 0.361),
    ("mixed-weakly", "L25"): (0.593, 0.389, 0.420),
    ("mixed-weakly", "L50"): (0.589, 0.382, 0.419),
    ("mixed-weakly", "LDYN"): (0.555, 0.353, 0.379),
    ("mixed-strongly", "L0"): (0.482, 0.396, 0.363),
    ("mixed-strongly", "L25"): (0.535, 0.441, 0.417),
    ("mixed-strongly", "L50"): (0.576, 0.438, 0.434),
    ("mixed-strongly", "LDYN"): (0.498, 0.423, 0.381),
}

# The same, standard deviations of mixed F1; those of the weakly balanced set's precision are not printed.
SDS_F1: Mapping[tuple[str, str], float] = {
    ("weakly", "L0"): 0.015,
    ("weakly", "L25"): 0.016,
    ("weakly", "L50"): 0.013,
    ("weakly", "LDYN"): 0.011,
    ("strongly", "L0"): 0.013,
    ("strongly", "L25"): 0.016,
    ("strongly", "L50"): 0.020,
    ("strongly", "LDYN"): 0.015,
    ("mixed-weakly", "L0"): 0.014,
    ("mixed-weakly", "L25"): 0.014,
    ("mixed-weakly", "L50"): 0.010,
    ("mixed-weakly", "LDYN"): 0.015,
    ("mixed-strongly", "L0"): 0.014,
    ("mixed-strongly", "L25"): 0.014,
    ("mixed-strongly", "L50"): 0.013,
    ("mixed-strongly", "LDYN"): 0.016,
}

# (training set, pair of losses) -> t(18) of mixed F1 in table 5. It prints 8.789 for the pair L0|L25 of the mixed strongly balanced set,
# whose means differ the other way: the sign is lost.
T_F1: Mapping[tuple[str, str, str], float] = {
    ("weakly", "L0", "L25"): -8.648,
    ("weakly", "L0", "L50"): -12.003,
    ("weakly", "L0", "LDYN"): -3.682,
    ("weakly", "L25", "L50"): -2.304,
    ("weakly", "L25", "LDYN"): 6.127,
    ("weakly", "L50", "LDYN"): 9.751,
    ("strongly", "L0", "L25"): -8.100,
    ("strongly", "L0", "L50"): -6.830,
    ("strongly", "L0", "LDYN"): -2.114,
    ("strongly", "L25", "L50"): 0.367,
    ("strongly", "L25", "LDYN"): 5.914,
    ("strongly", "L50", "LDYN"): 4.927,
    ("mixed-weakly", "L0", "L25"): -9.344,
    ("mixed-weakly", "L0", "L50"): -10.55,
    ("mixed-weakly", "L0", "LDYN"): -2.611,
    ("mixed-weakly", "L25", "L50"): 0.117,
    ("mixed-weakly", "L25", "LDYN"): 6.425,
    ("mixed-weakly", "L50", "LDYN"): 7.181,
    ("mixed-strongly", "L0", "L25"): -8.789,
    ("mixed-strongly", "L0", "L50"): -11.657,
    ("mixed-strongly", "L0", "LDYN"): -2.739,
    ("mixed-strongly", "L25", "L50"): -2.895,
    ("mixed-strongly", "L25", "LDYN"): 5.402,
    ("mixed-strongly", "L50", "LDYN"): 8.057,
}

# (study's collection, template) -> mean and standard deviation of mixed F1 over 200 folds.
ZERO_SHOT: Mapping[tuple[str, str], tuple[float, float]] = {
    ("geoguessr", "{country}"): (0.208, 0.020),
    ("geoguessr", "This image shows the country {country}"): (0.210, 0.022),
    ("tourist", "{country}"): (0.211, 0.025),
    ("tourist", "This image shows the country {country}"): (0.211, 0.025),
    ("aerial", "{country}"): (0.066, 0.054),
    ("aerial", "This image shows the country {country}"): (0.068, 0.052),
}
