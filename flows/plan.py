"""What a pipeline run would make, known from its settings alone."""

from __future__ import annotations

from dataclasses import dataclass

from flows.settings import Settings
from storage.faiss_index import has_index
from storage.s3_path import StorePath
from storage.store import Recipe, Store
from tasks.collect.recipes import collect_recipe, known_listings
from tasks.dedup.recipes import TABLES as DEDUP_TABLES
from tasks.dedup.recipes import dedup_recipe
from tasks.encode.recipes import IMAGE_TABLES, embeddings_recipe, prompts_recipe
from tasks.heads.recipes import fit_recipe
from tasks.report.recipes import report_recipe
from tasks.split.recipes import split_recipe


@dataclass(frozen=True)
class Plan:
    """The recipe of every table of a pipeline run. Nothing is read but the sources' listings and the weights' hash."""

    images: Recipe
    embeddings: Recipe
    prompts: Recipe
    duplicates: Recipe | None
    splits: Recipe
    metrics: Recipe
    report: Recipe

    @classmethod
    def of(cls, settings: Settings) -> Plan | None:
        """Work the recipes out, each from the fingerprints of the ones before; None where a service must be asked."""
        store = Store(settings.store)
        listings = known_listings(store.root, settings.collect)
        if listings is None:
            return None
        images = collect_recipe(settings.collect, settings.labels, listings)
        embeddings = embeddings_recipe(settings.encode, images.fingerprint)
        prompts = prompts_recipe(settings.encode, images.fingerprint, settings.labels)
        duplicates = (
            dedup_recipe(store, settings.dedup, embeddings.fingerprint, embeddings) if settings.dedup.enabled else None
        )
        removed = {} if duplicates is None else {"duplicates": duplicates.fingerprint}
        splits = split_recipe(
            settings.split,
            images.fingerprint,
            duplicates=removed.get("duplicates"),
            embeddings=embeddings.fingerprint,
            labels=settings.labels,
        )
        inputs = {
            "images": images.fingerprint,
            "embeddings": embeddings.fingerprint,
            "prompts": prompts.fingerprint,
            "splits": splits.fingerprint,
            **removed,
        }
        metrics = fit_recipe(settings.fit, inputs, settings.labels)
        report = report_recipe(settings.publish, metrics.fingerprint)
        return cls(images, embeddings, prompts, duplicates, splits, metrics, report)

    def finished_page(self, store: Store, settings: Settings) -> StorePath | None:
        """The report's page if everything is there already, else None. What is there becomes selected."""
        page = report_page(store, self.report)
        if settings.encode.fresh or settings.encode.verify or not page.is_file():
            return None
        made = [
            store.reuse(self.images, ["rejects", "images"]),
            store.reuse(self.embeddings, IMAGE_TABLES),
            store.reuse(self.prompts, ["prompts"]),
            self.duplicates is None or store.reuse(self.duplicates, DEDUP_TABLES),
            store.reuse(self.splits, ["splits"]),
            store.reuse(self.metrics, ["predictions", "metrics"]),
        ]
        if not all(made):
            return None
        embeddings = store.version("embeddings", self.embeddings.fingerprint)
        return page if has_index(store, embeddings, settings.encode.index.kind) else None


def report_page(store: Store, recipe: Recipe) -> StorePath:
    """Where the page of a report lies."""
    return store.root / "reports" / recipe.fingerprint / "index.html"
