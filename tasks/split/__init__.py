"""Split: images to parts, every class in proportion."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.split.multilabel import multilabel_split
    from tasks.split.quality import split_quality
    from tasks.split.stratified import stratified_split

__all__ = ["multilabel_split", "split_quality", "stratified_split"]

_MODULES = {"multilabel_split": "multilabel", "split_quality": "quality", "stratified_split": "stratified"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: whoever reads settings imports this package, and need not wait for scipy.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
