"""Which encoder, and where it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from tasks.settings import Section

DEMO_MODEL = "placeprint-demo"


class EncoderSettings(Section):
    """Which encoder, and where it runs."""

    model: str = Field(DEMO_MODEL, description="an open_clip name, hf-hub:…, local-dir:…, or a model-config JSON")
    pretrained: str | None = Field(None, description="an open_clip tag, or a checkpoint (.safetensors, .pt)")
    device: str = Field("auto", description="auto (every GPU, or else the CPU), cpu, cuda:1, or several: cuda:0,cuda:1")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of the image encoder; auto is bfloat16 on a GPU, and on a CPU that multiplies it itself; else float32",
    )
    compiled: bool = Field(False, description="compile the image encoder with torch.compile: for long runs")
    quick_gelu: bool | None = Field(None, description="QuickGELU or not; by default as the tag or the config says")
    image_mean: tuple[float, float, float] | None = Field(
        None, description="of the channels, of values from 0 to 1; by default as the tag or the config says"
    )
    image_std: tuple[float, float, float] | None = Field(None, description="likewise")
    image_interpolation: Literal["bicubic", "bilinear"] | None = Field(None, description="likewise")
    image_resize_mode: Literal["shortest", "longest", "squash"] | None = Field(None, description="likewise")

    @field_validator("image_std")
    @classmethod
    def _can_divide(cls, std: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if std is not None and not all(math.isfinite(each) and each > 0 for each in std):
            raise ValueError("each must be a finite number above 0")
        return std

    @field_validator("image_mean")
    @classmethod
    def _is_finite(cls, mean: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if mean is not None and not all(map(math.isfinite, mean)):
            raise ValueError("each must be a finite number")
        return mean

    def whole_paths(self) -> EncoderSettings:
        """With files and folders of this machine named from its root on, so that they are found from elsewhere too."""
        prefix = "local-dir:" if self.model.startswith("local-dir:") else ""
        model, pretrained = Path(self.model.removeprefix(prefix)).expanduser(), self.pretrained
        if prefix or self.model.endswith(".json") or (pretrained is None and model.is_dir()):
            model_text = f"{prefix}{model.absolute()}"
        else:
            model_text = self.model
        if pretrained is not None and Path(pretrained).expanduser().is_file():
            pretrained = str(Path(pretrained).expanduser().absolute())
        return self.model_copy(update={"model": model_text, "pretrained": pretrained})

    @property
    def title(self) -> str:
        """The model without the folder of its file, for the names of runs."""
        return self.model.rpartition("/")[2]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What these settings say of the preprocessing, by open_clip's names; None where they say nothing."""
        return {
            "mean": self.image_mean,
            "std": self.image_std,
            "interpolation": self.image_interpolation,
            "resize_mode": self.image_resize_mode,
        }
