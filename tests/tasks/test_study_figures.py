from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tasks.labels.label_set import load_label_set
from tasks.metrics.confusion import ConfusionView, confusion_views, cropped
from tasks.report.confusion_figure import confusion_figure
from tasks.report.study_figures import (
    embedding_map,
    figure_files,
    loss_curves,
    metric_bars,
    metric_boxes,
)

NASTY = ["$x$", "$\\frac$", "<script>alert(1)</script>", "a\x00b\x1b\nc", "_hidden", "x" * 500, "50 % & {more}"]
SAFE = ["$x$", "$\\frac$", "<script>alert(1)</script>", "a\ufffdb\ufffd\ufffdc", "_hidden", "50 % & {more}"]


def texts(figure: Figure) -> list[str]:
    """The texts of the SVG, which is XML; the PNG is one too, and of the figure's size."""
    files = figure_files(figure)
    assert list(files) == ["svg", "png"]
    with Image.open(io.BytesIO(files["png"])) as picture:
        assert picture.format == "PNG"
        wanted = figure.get_size_inches() * figure.dpi
        assert np.allclose(picture.size, wanted, atol=1)
    root = ET.fromstring(files["svg"])  # noqa: S314  (our own)
    assert not any("script" in element.tag for element in root.iter())
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def view(n: int, names: list[str] | None = None) -> ConfusionView:
    counts = np.random.default_rng(n).poisson(2, (n, n)) + 40 * np.eye(n, dtype=np.int64)
    counts[0] = 0
    return ConfusionView(counts.astype(np.int64), tuple(names or [f"class {number}" for number in range(n)]))


def scores(outer: list[str], hues: list[str]) -> dict[str, dict[str, list[float]]]:
    generator = np.random.default_rng(1)
    return {name: {hue: generator.normal(0.4, 0.02, 12).tolist() for hue in hues} for name in outer}


def points(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 2))


FIGURES: list[Callable[[], Figure]] = [
    lambda: metric_boxes(scores(["a", "b"], ["p", "q"]), "accuracy"),
    lambda: metric_bars(scores(["a", "b"], ["p", "q"]), "F1"),
    lambda: loss_curves({"country, training": np.ones((3, 20)) / np.arange(1, 21)}, 10),
    lambda: confusion_figure(view(5), normalised=True, title="five"),
    lambda: confusion_figure(view(60), normalised=False, title="sixty"),
    lambda: embedding_map(points(50), ["a", None] * 25, title="map", legend_title="group"),
    lambda: embedding_map(points(2500), ["a", None] * 1250, title="map", legend_title="group"),
]


@pytest.mark.parametrize("make", FIGURES)
def test_same_input_same_bytes(make: Callable[[], Figure]) -> None:
    assert figure_files(make()) == figure_files(make())


@pytest.mark.parametrize("draw", [metric_boxes, metric_bars])
def test_scores_are_named(draw: Callable[..., Figure]) -> None:
    collections = ["Geoguessr", "Tourist", "Aerial"]
    prompts = ["{country}", "This image shows the country {country}"]
    assert {*collections, *prompts, "accuracy"} <= set(texts(draw(scores(collections, prompts), "accuracy")))


@pytest.mark.parametrize("draw", [metric_boxes, metric_bars])
def test_missing_series_and_numbers_are_left_out(draw: Callable[..., Figure]) -> None:
    drawn = texts(draw({"a": {"p": [0.5], "q": []}, "b": {"q": [np.nan, 0.2, 0.3]}}, "accuracy"))
    assert {"a", "b", "p", "q"} <= set(drawn)
    with pytest.raises(ValueError, match="no scores"):
        draw({"a": {}}, "accuracy")


def test_bars_are_means_with_whiskers_where_there_are_several_values() -> None:
    axes = metric_bars({"a": {"p": [1.0, 3.0], "q": [5.0]}}, "loss").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [2.0, 5.0]
    whiskers = [part for container in axes.containers for part in [getattr(container, "errorbar", None)] if part]
    assert len(whiskers) == 1
    low, high = whiskers[0].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((2 - 2**0.5, 2 + 2**0.5))


def test_losses_are_means_over_seeds_in_epochs() -> None:
    losses = np.array([[4.0, 3.0, np.nan, np.nan], [2.0, np.nan, 1.0, np.nan]])
    figure = loss_curves({"country, training": losses, "region, validation": losses}, 2)
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [0.5, 1.0, 1.5, 2.0]
    assert line.get_ydata()[:3].tolist() == [3.0, 3.0, 1.0]
    assert np.isnan(line.get_ydata()[3])
    assert {"country, training", "region, validation", "epoch", "loss"} <= set(texts(figure))


def test_wrong_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="n_seeds"):
        loss_curves({"a": np.ones(4)}, 2)
    with pytest.raises(ValueError, match="nothing to draw"):
        loss_curves({}, 2)
    with pytest.raises(ValueError, match="nothing to draw"):
        loss_curves({"a": np.ones((1, 4))}, 0)


def test_all_211_names_and_23_groups_are_printed_and_do_not_overlap() -> None:
    labels = load_label_set("country211", [])
    counts = np.random.default_rng(2).poisson(1, (211, 211))
    by_region = confusion_views(counts, labels.names, labels.regions, labels.continents)["countries-by-region"]
    figure = confusion_figure(by_region, normalised=False, title="all")
    drawn = texts(figure)
    assert all(drawn.count(name) >= 2 for name in labels.names)
    assert set(labels.region_names) <= set(drawn)
    assert len(figure_files(figure)["svg"]) < 300_000
    assert_apart(figure, "right")
    assert_apart(figure, "left")


def assert_apart(figure: Figure, alignment: str) -> None:
    """Names at one edge of the matrix, by their font size: they lie apart, and inside of the figure."""
    axes = figure.axes[0]
    names = [text for text in axes.texts if text.get_ha() == alignment and text.get_rotation() == 0]
    height = figure.get_figheight() * 72
    centres = [72 / figure.dpi * axes.transData.transform(text.get_position())[1] for text in names]
    sizes = [text.get_fontsize() for text in names]
    assert names
    assert all(0 < centre < height for centre in centres)
    for here, there, size, next_size in zip(centres, centres[1:], sizes, sizes[1:], strict=False):
        assert here - there >= (size + next_size) / 2


def test_names_lie_within_the_figure() -> None:
    labels = load_label_set("country211", [])
    for n in (2, 41):
        whole = confusion_views(np.ones((211, 211)), labels.names, labels.regions, labels.continents)
        figure = confusion_figure(cropped(whole["countries-by-region"], n), normalised=True, title="t" * 200)
        figure_files(figure)
        box = figure.bbox
        for text in [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]:
            extent = text.get_window_extent()
            assert extent.x0 >= box.x0 - 1, text
            assert extent.y0 >= box.y0 - 1, text
            assert extent.x1 <= box.x1 + 1, text
            assert extent.y1 <= box.y1 + 1, text


def test_cells_say_percent_or_counts_while_they_are_large_enough() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 1, 99]])
    small = ConfusionView(counts, ("a", "b", "c"), ("r", "r", "s"))
    percents = [text.get_text() for text in confusion_figure(small, normalised=True, title="").axes[0].texts]
    assert {"75", "25", "99"} <= set(percents)
    assert {"a (4)", "b (0)", "c (100)"} <= set(percents)
    drawn = [text.get_text() for text in confusion_figure(small, normalised=False, title="").axes[0].texts]
    assert {"3", "1", "99", "r", "s"} <= set(drawn)
    large = confusion_figure(view(41), normalised=False, title="").axes[0].texts
    assert {text.get_text() for text in large} == {f"class {number}" for number in range(41)}


def test_a_count_of_one_differs_from_none() -> None:
    counts = np.array([[0, 1], [0, 1000]])
    pixels = confusion_figure(ConfusionView(counts, ("a", "b")), normalised=False, title="").axes[0].images[0]
    colours = np.asarray(pixels.get_array())[..., :3].tolist()
    assert colours[0][0] == colours[1][0] == [0, 34, 77]  # the lowest of cividis
    assert colours[0][1] != colours[0][0]


def test_matrices_without_counts_or_names() -> None:
    texts(confusion_figure(ConfusionView(np.zeros((2, 2), np.int64), ("a", "b")), normalised=False, title="none"))
    with pytest.raises(ValueError, match="no names"):
        confusion_figure(ConfusionView(np.zeros((0, 0), np.int64), ()), normalised=True, title="")


def test_map_shows_24_groups_and_names_the_others() -> None:
    groups: list[str | None] = [f"g{number:02}" for number in range(30) for _ in range(31 - number)]
    groups += [None] * 5
    figure = embedding_map(points(len(groups)), groups, title="map", legend_title="region")
    drawn = set(texts(figure))
    assert {"g00 (31)", "g23 (8)", "other (27)", "the rest (5)", "region", "map"} <= drawn
    assert "g24 (7)" not in drawn
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 26
    assert sum(len(line.get_xdata()) for line in lines) == len(groups)


def test_many_points_are_a_picture_in_the_svg() -> None:
    many = figure_files(embedding_map(points(2001), ["a"] * 2001, title="", legend_title=""))["svg"]
    few = figure_files(embedding_map(points(300), ["a"] * 300, title="", legend_title=""))["svg"]
    assert b"<image" in many
    assert b"<image" not in few


def test_wrong_points_are_refused() -> None:
    for given, groups in ((points(3), ["a"]), (np.ones((3, 3)), ["a"] * 3), (np.ones((0, 2)), [])):
        with pytest.raises(ValueError, match=r"\(n, 2\) with one group each"):
            embedding_map(given, groups, title="", legend_title="")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: metric_boxes(scores(NASTY, NASTY), NASTY[0]),
        lambda: metric_bars(scores(NASTY, NASTY), NASTY[2]),
        lambda: loss_curves({name: np.ones((2, 4)) for name in NASTY}, 2),
        lambda: confusion_figure(
            ConfusionView(np.eye(7, dtype=np.int64), tuple(NASTY), tuple(NASTY)), normalised=True, title=NASTY[2]
        ),
        lambda: confusion_figure(view(42, NASTY * 6), normalised=False, title=NASTY[3]),
        lambda: embedding_map(points(7), NASTY, title=NASTY[1], legend_title=NASTY[0]),
    ],
)
def test_names_from_outside_are_only_text(draw: Callable[[], Figure]) -> None:
    drawn = "\n".join(texts(draw()))
    for name in SAFE:
        assert name in drawn
    assert "x" * 39 + "…" in drawn
    assert "x" * 40 not in drawn
