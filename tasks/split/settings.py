"""Settings of the stage `split`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from storage.schemas import Part
from tasks.settings import Section

Moment = Annotated[datetime, AfterValidator(lambda given: given if given.tzinfo else given.replace(tzinfo=UTC))]
Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
PARTS = (Part.TRAIN.value, Part.VALIDATION.value, Part.TEST.value)


class StratifiedSettings(Section):
    """Every class in proportion. Docs: docs/split.md."""

    kind: Literal["stratified"] = "stratified"
    name: Name = "stratified"
    every_class_in_each_part: bool = Field(False, description="an image moves where a part has none of a class")
    stable: bool = Field(
        False,
        description="images added later change no part of an earlier one; sizes are rough, and no class is too small",
    )


class MultilabelSettings(Section):
    """Images with several labels: every label in proportion, by iterative stratification."""

    kind: Literal["multilabel"] = "multilabel"
    name: Name = "multilabel"
    separator: str = Field(";", min_length=1, description="between the labels of an image")
    order: Literal[1, 2] = Field(1, description="2 keeps pairs of labels in proportion, too")
    single_positive: bool = Field(False, description="of each training image one label is observed, drawn at random")


class SurrogateSettings(Section):
    """Strata of images that have few or many similar ones, for labels that cannot be stratified."""

    kind: Literal["surrogate"] = "surrogate"
    name: Name = "surrogate"
    temperature: float = Field(100.0, gt=0, description="of the softmax over cosines")
    n_bins: int = Field(10, ge=2, le=1000, description="equally large strata")


class SpatialSettings(Section):
    """Cells of the Earth stay whole, so that test images have few neighbours in training; with a buffer none."""

    kind: Literal["spatial"] = "spatial"
    name: Name = "spatial"
    cells: Literal["equal-area", "h3"] = Field("equal-area", description="h3 needs the extra `h3`")
    side_km: float = Field(500.0, gt=0, le=10_000, description="of an equal-area cell")
    resolution: int = Field(2, ge=0, le=15, description="of h3 cells")
    buffer_km: float = Field(0.0, ge=0, description="training images so near to a test image are left out")
    unlocated: Literal["unused", "fail"] = Field(
        "unused", description="images without coordinates are in no part of this split, or are an error"
    )
    optional: bool = Field(
        False, description="go without, with a warning, where no image has coordinates or there are too few cells"
    )


class TimeSettings(Section):
    """Train before a date, test after it."""

    kind: Literal["time"] = "time"
    name: Name = "time"
    train_until: Moment = Field(description="UTC, if it names no zone; images of then and later are not trained on")
    test_from: Moment | None = Field(None, description="by default train_until; images between are for validation")
    undated: Literal["fail", "unused"] = "fail"


class CaseStudySettings(Section):
    """The five training sets of the case study and its two test sets, one split a training set."""

    kind: Literal["case-study"] = "case-study"
    base: str = "geoguessr"
    min_per_class: dict[str, int] = Field({"aerial": 2}, description="by collection; smaller classes are zero-shot")
    default_min_per_class: int = Field(11, ge=1)
    weak_cap: int = Field(2000, ge=1, description="most images of a class")
    strong_cap: int = Field(200, ge=1)
    test_share: float = Field(0.15, gt=0, lt=1, description="rounded up, of each collection")
    complete_tests: tuple[str, ...] = Field(
        ("aerial",), description="collections of which every class of the training part is in the test part"
    )


class SubsetSettings(Section):
    """Training parts of so many images a class, each within the next larger: one split a size."""

    kind: Literal["subsets"] = "subsets"
    of: Name = Field("stratified", description="the split whose training part is cut; its other parts stay")
    sizes: tuple[int, ...] = Field((50, 100, 200), min_length=1)
    level: int = Field(0, ge=0, description="of the hierarchy: so many of each label (0), of each region (1), …")


class ReferenceSettings(Section):
    """A representative set of images, spread over cells and over what they look like, for nearest neighbours."""

    kind: Literal["reference"] = "reference"
    name: Name = "reference"
    n: int = Field(1000, ge=1)
    side_km: float = Field(500.0, gt=0, le=10_000)
    features: tuple[Literal["source", "label"], ...] = Field((), description="groups within a cell")
    max_group: int = Field(50, ge=2, description="larger groups are cut into clusters of their embeddings")


SplitKind = Annotated[
    StratifiedSettings
    | MultilabelSettings
    | SurrogateSettings
    | SpatialSettings
    | TimeSettings
    | CaseStudySettings
    | SubsetSettings
    | ReferenceSettings,
    Field(discriminator="kind"),
]


class SplitSettings(Section):
    """How images are shared out to train and test: one split or several, side by side. The first is the report's."""

    splits: tuple[SplitKind, ...] = Field((StratifiedSettings(), SpatialSettings(optional=True)), min_length=1)
    sizes: dict[str, float] = Field({"train": 0.85, "test": 0.15}, description="part -> share; train may be left out")
    seed: int = Field(1234, ge=0)
    hierarchy: str | None = Field(
        None, description="CSV with the columns name and parent; by default the label set's regions and continents"
    )
    keep_together: Literal["place", "nothing"] = Field(
        "place", description="images of the same coordinates stay in one part, or a test image has its twin in training"
    )
    min_class_size: int = Field(2, ge=1, description="classes with fewer images are in no part but small_classes")
    small_classes: Literal["zero_shot", "train"] = "zero_shot"
    min_per_class: int = Field(1, ge=1, description="classes with fewer images are left out")
    max_per_class: int | None = Field(None, ge=1, description="most images of a class, drawn at random")
    leaks: Literal["fail", "move", "off"] = Field(
        "fail", description="near-duplicates, places or cells across parts: end, move them to train, or do not look"
    )

    @model_validator(mode="before")
    @classmethod
    def _train_is_the_rest(cls, given: Any) -> Any:
        sizes = given.get("sizes") if isinstance(given, dict) else None
        if (
            isinstance(sizes, dict)
            and "train" not in sizes
            and all(isinstance(each, int | float) for each in sizes.values())
        ):
            return {**given, "sizes": {"train": round(1 - sum(sizes.values()), 12), **sizes}}
        return given

    @field_validator("leaks", mode="before")
    @classmethod
    def _off(cls, given: Any) -> Any:
        """YAML reads `off` as false."""
        return "off" if given is False else given

    @field_validator("sizes")
    @classmethod
    def _add_up(cls, sizes: dict[str, float]) -> dict[str, float]:
        unknown = sorted(sizes.keys() - set(PARTS))
        if unknown:
            raise ValueError(f"unknown parts {', '.join(unknown)}: there are {', '.join(PARTS)}")
        if min(sizes.values()) <= 0 or abs(sum(sizes.values()) - 1) > 1e-9 or "test" not in sizes:
            raise ValueError("shares must be positive and add up to 1, one of them `test`")
        return {part: sizes[part] for part in PARTS if part in sizes}

    @model_validator(mode="after")
    def _names_differ(self) -> SplitSettings:
        names = [split.name for split in self.splits if hasattr(split, "name")]
        if len(set(names)) < len(names):
            raise ValueError(f"two splits have the same name: {', '.join(names)}")
        return self
