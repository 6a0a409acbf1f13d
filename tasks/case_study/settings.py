"""Settings of the case study."""

from __future__ import annotations

from pydantic import Field

from tasks.heads.presets import PRESETS, LossForm, Precision, RegionScale
from tasks.settings import Section

# Of the study's appendix D.
SEEDS = (4808, 4947, 5723, 3838, 5836, 3947, 8956, 5402, 1215, 8980)
EXTENDED = "This image shows the country {country}"


class LossSettings(Section):
    """The region's portion of the loss in epoch i = 0, 1, … is γ·ρ^i."""

    gamma: float = Field(ge=0, le=1)
    rho: float = Field(1.0, ge=0, le=1)


class HeadSettings(Section):
    """The regional head and its training (the study's section 5.2)."""

    losses: dict[str, LossSettings] = Field(
        {name: LossSettings(**preset) for name, preset in PRESETS.items()}, min_length=1, description="name -> γ and ρ"
    )
    loss_form: LossForm = Field("nll", description="double-softmax is what the study's code computed")
    region_scale: RegionScale = "none"
    template: str = Field(EXTENDED, description="of the prompts whose cosines are part of the input")
    hidden: int | None = Field(None, ge=1, description="width of both hidden layers; null: as wide as the input")
    epochs: int = Field(15, ge=1)
    n_folds: int = Field(10, ge=2, description="segments of an epoch")
    batch_size: int = Field(261, ge=1)
    batch_sizes: dict[str, int] = Field(
        {"strongly": 97, "mixed-strongly": 97}, description="of training sets that have another one"
    )
    learning_rate: float = Field(0.001, gt=0)
    device: str = Field("auto", description="auto, cpu, cuda, …")
    precision: Precision = Field("float32", description="bfloat16 for the products of the training")


class ZeroShotSettings(Section):
    """The zero-shot experiment (the study's section 6.2)."""

    n_folds: int = Field(20, ge=2, description="of each partition of a collection; one partition a seed")
    ensemble: bool = Field(True, description="also the mean of the normalised prompt embeddings of all templates")


class FigureSettings(Section):
    """How much is drawn."""

    tsne_points: int = Field(50_000, ge=0, description="most points of a t-SNE; 0 for none")
    tsne_iterations: int = Field(1000, ge=250)
    tsne_seeds: tuple[int, ...] = Field((0, 1), description="one run a seed")
    loss: str = Field("L50", description="under which training sets are compared, and confusion matrices drawn")
    sets: tuple[str, ...] | None = Field(
        None, description="training sets of which confusion matrices and loss curves are drawn; null: all"
    )
    collections: tuple[str, ...] | None = Field(
        None, description="of which zero-shot confusion matrices are drawn; null: all"
    )
    regions: tuple[str, ...] = Field(
        ("Northern Europe", "Western Asia"), description="whose countries have confusion matrices of their own"
    )


class StudySettings(Section):
    """The case study: what is fitted, tested and drawn. Its data sets are the split of the kind case-study."""

    title: str = "Where was this photograph taken? The case study"
    collections: dict[str, str] = Field(
        {}, description="study's name of a collection -> the one here that plays its part, for the hypotheses"
    )
    hypotheses: str = Field("configs/hypotheses.yaml", description="file of what is claimed, and how it is tested")
    seeds: tuple[int, ...] = Field(SEEDS, min_length=2, description="of the models, and of the zero-shot partitions")
    zero_shot: ZeroShotSettings = ZeroShotSettings()
    heads: HeadSettings = HeadSettings()
    figures: FigureSettings = FigureSettings()
    n_resamples: int = Field(1000, ge=100, description="bootstrap resamples for the 95 % intervals")
    cell_km: float = Field(50.0, gt=0, description="side of the cells that the intervals resample")
    published: bool = Field(False, description="print the study's own numbers beside those of the same data")
    seed: int = Field(0, ge=0, description="of the bootstraps")
