from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings import Settings, SettingsError, known_keys, load_settings

CONFIGS = Path(__file__).parents[2] / "configs"


# What is claimed is no setting: tests/tasks/test_hypotheses.py reads that file.
@pytest.mark.parametrize(
    "path", sorted(set(CONFIGS.glob("*.yaml")) - {CONFIGS / "hypotheses.yaml"}), ids=lambda path: path.name
)
def test_shipped_settings_are_valid(path: Path) -> None:
    assert isinstance(load_settings(path), Settings)


def test_demo_settings_are_the_defaults() -> None:
    """So that `placeprint run` without a file is the demo."""
    demo, defaults = load_settings(CONFIGS / "demo.yaml"), Settings()
    assert demo.model_copy(update={"publish": defaults.publish}) == defaults


def test_overrides_reach_into_sections_and_lists() -> None:
    settings = load_settings(
        CONFIGS / "folder.yaml",
        ["split.seed=7", "collect.sources.0.path=~/photos", "encode.templates=['{label}']", "fit.logistic=null"],
    )
    assert settings.split.seed == 7
    assert settings.collect.sources[0].path == Path("~/photos")
    assert settings.encode.templates == ("{label}",)
    assert settings.fit.logistic is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colect: {}", "unknown setting 'colect'; is 'collect' meant?"),
        ("split: {max_per_clas: 1}", "unknown setting 'split.max_per_clas'; is 'split.max_per_class' meant?"),
        ("encode: {encoder: {modle: x}}", "is 'encode.encoder.model' meant?"),
        ("collect: {sources: [{kind: earthmaps, sed: 1}]}", "is 'collect.sources.seed' meant?"),
        ("split: {min_class_size: 0}", "split.min_class_size: Input should be greater than or equal to 1 (it was 0)"),
        ("split: {seed: many}", "split.seed"),
        ("collect: {sources: [{kind: flickr}]}", "does not match any of the expected tags: 'earthmaps', 'folder'"),
        ("collect: {sources: []}", "collect.sources"),
        ("collect: {sources: [{kind: folder, path: a}, {kind: folder, path: b/a}]}", "two collections are called 'a'"),
        ("encode: {templates: [a photo]}", "has neither {label} nor {country}"),
        ("[1, 2]", "must hold lines such as `store: store`"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_settings_are_one_line_that_names_them(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split.seed", "write it as name=value"),
        ("collect.sources.3.path=x", "has no entry '3'"),
        ("split.seed.deeper=1", "not a section"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("split: {seed: 1}\ncollect: {sources: [{kind: earthmaps}]}")
    with pytest.raises(SettingsError, match=message):
        load_settings(path, [override])


def test_entry_of_a_default_list_is_overridden_without_a_file() -> None:
    (source,) = load_settings(None, ["collect.sources.0.seed=5"]).collect.sources
    assert source == Settings().collect.sources[0].model_copy(update={"seed": 5})


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file or directory: give a YAML file with lines such as"):
        load_settings(tmp_path / "nowhere.yaml")


def test_every_known_key_has_its_own_name() -> None:
    keys = list(known_keys())
    assert {"store", "collect.sources.images_per_country", "collect.sources.metadata", "fit.logistic.C"} <= set(keys)
