"""Flow `publish`: metrics, predictions -> tables for people and an HTML report."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.links import address
from flows.plan import report_page
from flows.progress import say, working
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short
from storage.runs import recorded
from storage.s3_path import StorePath
from storage.store import Recipe, Store
from tasks.report.recipes import report_recipe
from tasks.report.steps import publish_report, report_images, report_summary


@flow(name="publish", flow_run_name="publish {settings.publish.title}", on_completion=[see_if_it_fell_short])
def publish(settings: Settings, metrics: str | None = None) -> StorePath:
    """Write the report on some metrics (by default those made last); returns the path of its page."""
    store = Store(settings.store)
    recipe = report_recipe(settings.publish, store.version("metrics", metrics, step="fit").fingerprint)
    page = report_page(store, recipe)
    with recorded(store, "publish", settings.model_dump(mode="json")) as run:
        run.tables["metrics"] = recipe.inputs["metrics"]
        if page.is_file():
            run.reused.append("publish")
            say("publish: nothing to do, the report is there")
            return page
        with working("publish"):
            publish_report(store.root, settings.publish, recipe)
        show_report(store, settings, recipe)
        say("publish: %s", page)
        return page


def show_report(store: Store, settings: Settings, recipe: Recipe) -> None:
    """Have the Prefect UI show a report on the page of the flow run that is under way: its main table, its figures, a link."""
    page, title = report_page(store, recipe), settings.publish.title
    rows, markdown = report_summary(store, recipe)
    link = address(page)
    create_table_artifact(key="metrics", table=rows, description=title)
    create_markdown_artifact(key="report", markdown=f"[{link}]({link})\n\n{markdown}", description=title)
    create_link_artifact(link, key="report-page", link_text=title, description=title)
    for name, image in report_images(page.parent):
        create_image_artifact(image, key=f"report-{name}", description=f"{title}: {name}")
