"""Collecting from OSF over a real connection, as a flow, with everything that a network does."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from collecting import reasons, run, settings, table
from image_corpus import BAD
from loopback import Answer, Loopback, json_answer
from services import FakeOsf, jpeg

from storage.errors import PlaceprintError
from storage.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")

FILES = {f"images/{label}/{number}.jpg": jpeg(number) for number, label in enumerate(["Egypt", "France", "Japan"] * 4)}


def test_folders_pages_and_redirects(loopback: Loopback, store: Path) -> None:
    osf = FakeOsf(loopback, FILES, page_size=2)
    counts = run(settings(store, osf.settings(licence="CC-BY-4.0")))
    assert (counts["kept"], counts["rejected"]) == (12, 0)
    images = table(store, "images")
    assert dict(zip(images["path"], images["label"], strict=True)) == {path: path.split("/")[1] for path in FILES}
    assert set(images["source"]) == {"osf-pe453"}
    assert set(images["licence"]) == {"CC-BY-4.0"}
    assert images["checksum"].str.starts_with("sha256:").all()
    assert {(store / file).read_bytes() for file in images["file"]} == set(FILES.values())


def test_second_run_asks_nothing_and_a_refresh_asks_for_what_is_new(loopback: Loopback, store: Path) -> None:
    osf = FakeOsf(loopback, FILES)
    run(settings(store, osf.settings()))
    n_asked = len(loopback.requests)
    run(settings(store, osf.settings()))
    assert len(loopback.requests) == n_asked
    first = Store(store).version("images").fingerprint
    more = FakeOsf(loopback, {**FILES, "images/Egypt/new.jpg": jpeg(99)})
    assert run(settings(store, more.settings(), refresh=True))["kept"] == 13
    asked = [request.path for request in loopback.requests[n_asked:] if request.path.startswith("/storage")]
    assert asked == [more.storage("images/Egypt/new.jpg")]
    assert Store(store).version("images").fingerprint != first
    # Nothing new: the same version, without a download.
    n_asked = len(loopback.requests)
    run(settings(store, more.settings(), refresh=True))
    assert not [request for request in loopback.requests[n_asked:] if request.path.startswith("/storage")]
    assert len(Store(store).versions("images")) == 2


def test_every_fault_has_its_reason_and_the_others_are_kept(loopback: Loopback, store: Path) -> None:
    bad = {f"images/Egypt/{name}.jpg": data for name, (data, _) in BAD.items()}
    files = {
        **FILES,
        **bad,
        "images/Egypt/gone.jpg": jpeg(50),
        "images/Egypt/forbidden.jpg": jpeg(51),
        "images/Egypt/down.jpg": jpeg(52),
        "images/Egypt/flaky.jpg": jpeg(53),
        "images/Egypt/forged.jpg": jpeg(54),
        "images/Egypt/login.jpg": jpeg(55),
        "images/Egypt/away.jpg": jpeg(56),
        "images/Egypt/circle.jpg": jpeg(57),
        "images/Egypt/short.jpg": jpeg(58),
        "images/Egypt/large.jpg": jpeg(59),
        "images/Egypt/copy.jpg": jpeg(0),
        "images/Egypt/line\nbreak\x1b[31m.jpg": jpeg(60),
        f"images/Egypt/{'x' * 300}.jpg": jpeg(61),
        "images/Egypt/no_hash.jpg": jpeg(62),
        "readme.txt": b"not an image",
    }
    osf = FakeOsf(loopback, files, page_size=5)
    osf.changes = {
        "images/Egypt/large.jpg": {"size": 10**12},
        "images/Egypt/no_hash.jpg": {"extra": {"hashes": {"md5": None, "sha256": None}}, "size": None},
    }
    login = b"<!doctype html><html>log in</html>"
    loopback.routes |= {
        osf.storage("images/Egypt/gone.jpg"): Answer(b"<Error/>", 404),
        osf.storage("images/Egypt/forbidden.jpg"): Answer(b"<Error/>", 403),
        osf.storage("images/Egypt/down.jpg"): Answer(status=503),
        osf.storage("images/Egypt/flaky.jpg"): [
            Answer(status=500),
            Answer(jpeg(53), cut=100, reset=True),
            Answer(jpeg(53)),
        ],
        osf.storage("images/Egypt/forged.jpg"): Answer(jpeg(99)),
        osf.storage("images/Egypt/login.jpg"): Answer(login, headers={"Content-Type": "text/html"}),
        osf.storage("images/Egypt/away.jpg"): Answer(status=302, headers={"Location": "http://169.254.169.254/"}),
        osf.storage("images/Egypt/circle.jpg"): Answer(status=302, headers={"Location": "?"}),
        osf.storage("images/Egypt/short.jpg"): Answer(jpeg(58), cut=300),
    }
    counts = run(settings(store, osf.settings()))
    assert counts["listed"] == len(files)
    found = {path.rpartition("/")[2]: reason for path, reason in reasons(store).items()}
    # The size and hash of the bad files are true, so that they are refused for what they are.
    expected = {f"{name}.jpg": reason.value for name, (_, reason) in BAD.items()}
    assert found == expected | {
        "gone.jpg": "not_found",
        "forbidden.jpg": "refused_by_service",
        "down.jpg": "unreachable",
        "forged.jpg": "wrong_checksum",
        "login.jpg": "wrong_checksum",
        "away.jpg": "forbidden_address",
        "circle.jpg": "forbidden_address",
        "short.jpg": "unreachable",
        "large.jpg": "too_many_bytes",
        "copy.jpg": "exact_duplicate",
        "readme.txt": "not_an_image",
    }
    paths = set(table(store, "images")["path"])
    assert "images/Egypt/line\\nbreak\\x1b[31m.jpg" in paths
    assert {"images/Egypt/flaky.jpg", "images/Egypt/no_hash.jpg", f"images/Egypt/{'x' * 300}.jpg"} <= paths
    assert login in {path.read_bytes() for path in (store / "quarantine").rglob("*.bin")}
    assert not [path for path in store.parent.rglob("*") if path.is_file() and not path.is_relative_to(store)]


def test_what_was_unreachable_is_asked_for_by_the_next_run_alone(loopback: Loopback, store: Path) -> None:
    osf = FakeOsf(loopback, FILES)
    path = osf.storage("images/France/1.jpg")
    good = loopback.routes[path]
    loopback.routes[path] = Answer(status=503)
    counts = run(settings(store, osf.settings()))
    assert (counts["kept"], counts["unreachable"]) == (11, 1)
    incomplete = Store(store).version("images").fingerprint
    n_asked = len(loopback.requests)
    run(settings(store, osf.settings()))
    assert {request.path for request in loopback.requests[n_asked:]} == {
        path,
        path.replace("storage", "download") + "/",
    }
    assert Store(store).version("images").fingerprint == incomplete
    loopback.routes[path] = good
    assert run(settings(store, osf.settings()))["kept"] == 12
    quiet = FakeOsf(loopback, FILES)
    run(settings(store.parent / "quiet", quiet.settings()))
    # The table is that of a run in which nothing went wrong.
    assert table(store, "images").equals(table(store.parent / "quiet", "images"))
    assert Store(store).version("images").fingerprint == Store(store.parent / "quiet").version("images").fingerprint


def test_task_is_tried_again_by_prefect(loopback: Loopback, store: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

    osf = FakeOsf(loopback, FILES)
    path = osf.storage("images/France/1.jpg")
    loopback.routes[path] = [Answer(status=503)] * 3 + [Answer(FILES["images/France/1.jpg"])]
    assert run(settings(store, osf.settings(), retries=2))["unreachable"] == 0
    named = TaskRunFilter(name=TaskRunFilterName(like_="collect osf-pe453 France"))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(task_run_filter=named)
        (retried,) = [each for each in runs if each.run_count == 2]
        states = [state.name for state in client.read_task_run_states(retried.id)]
    assert "AwaitingRetry" in states or "Retrying" in states


def test_view_only_token_is_needed_and_leaves_no_trace(
    loopback: Loopback, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "0123456789abcdef" * 2
    osf = FakeOsf(loopback, FILES, page_size=3, token=token)
    with pytest.raises(
        PlaceprintError, match=r"cannot be listed: .*HTTP 401 Unauthorized: if it is private, give view_only"
    ):
        run(settings(store, osf.settings()))
    assert run(settings(store, osf.settings(view_only=token)))["kept"] == 12
    monkeypatch.setenv("OSF_VIEW_ONLY", token)
    assert run(settings(store.parent / "again", osf.settings()))["kept"] == 12
    for path in store.rglob("*"):
        if path.is_file() and ".prefect" not in path.parts:
            data = path.read_bytes()
            content = gzip.decompress(data) if path.suffix == ".gz" else data
            assert token.encode() not in content, path
    assert token not in table(store, "images").write_json()
    assert token not in table(store, "rejects").write_json()


def test_answers_are_kept_and_the_table_is_made_again_without_the_service(loopback: Loopback, store: Path) -> None:
    osf = FakeOsf(loopback, FILES, page_size=5)
    run(settings(store, osf.settings()))
    before = table(store, "images")
    answers = list(store.glob("listings/*/0001/answers/*.json.gz"))
    assert len(answers) == 1 + 1 + 3
    assert all("data" in json.loads(gzip.decompress(path.read_bytes()))["answer"] for path in answers)
    loopback.routes.clear()
    shutil.rmtree(store / "tables")
    (*_, listing) = store.glob("listings/*/0001/items.parquet")
    listing.unlink()
    n_asked = len(loopback.requests)
    run(settings(store, osf.settings()))
    assert len(loopback.requests) == n_asked
    assert table(store, "images").equals(before)


def test_listing_goes_on_where_it_was_cut_off(loopback: Loopback, store: Path) -> None:
    osf = FakeOsf(loopback, FILES)
    folder = "/v2/nodes/pe453/files/osfstorage/images/France/"
    good = loopback.routes[folder]
    loopback.routes[folder] = Answer(status=500)
    with pytest.raises(PlaceprintError, match=r"cannot be listed: .*HTTP 500.*run again to go on"):
        run(settings(store, osf.settings()))
    assert not Store(store).versions()
    loopback.routes[folder] = good
    n_asked = len(loopback.requests)
    assert run(settings(store, osf.settings()))["kept"] == 12
    again = [request.path for request in loopback.requests[n_asked:] if request.path.startswith("/v2")]
    assert again == [folder] or set(again) <= {
        folder,
        folder.replace("France", "Egypt"),
        folder.replace("France", "Japan"),
    }
    assert "/v2/nodes/pe453/files/osfstorage/" not in again


def test_no_network_is_one_line(store: Path) -> None:
    source = {"kind": "osf", "project": "pe453", "base_url": "http://127.0.0.1:9/v2", "attempts": 1, "backoff_s": 0}
    with pytest.raises(
        PlaceprintError, match=r"osf-pe453 cannot be listed: http://127.0.0.1:9/v2/nodes/pe453"
    ) as caught:
        run(settings(store, source))
    assert "\n" not in str(caught.value)


def test_listing_with_holes(loopback: Loopback, store: Path) -> None:
    """Missing and null fields, two files of the same name, a page in a circle, and a total that is not reached."""
    osf = FakeOsf(loopback, {"Egypt/a.jpg": jpeg(1), "Egypt/b.jpg": jpeg(2)})
    entries = [osf._entry("Egypt/a.jpg"), {**osf._entry("Egypt/b.jpg"), "id": "other"}]
    entries[1]["attributes"]["materialized_path"] = "/Egypt/a.jpg"
    holes = [
        None,
        {},
        {"id": "x"},
        {"id": "y", "attributes": None, "links": None},
        {"id": "z", "attributes": {"name": 3}},
    ]
    start = "/v2/nodes/pe453/files/osfstorage/"
    loopback.routes[start] = json_answer({"data": [*entries, *holes], "links": {"next": start}, "meta": {"total": 50}})
    counts = run(settings(store, osf.settings()))
    assert counts["kept"] == 2
    assert set(table(store, "images")["path"]) == {"Egypt/a.jpg", "Egypt/a (2).jpg"}
    rejects = table(store, "rejects")
    assert set(rejects["reason"]) == {"bad_answer"}
    details = " ".join(rejects["detail"])
    assert "lead in a circle" in details
    assert "says that it has 50 entries" in details


@pytest.mark.parametrize(
    "answer",
    [json_answer([]), json_answer({"data": None}), json_answer(None), Answer(b"<html>"), json_answer({"data": []})],
)
def test_answer_that_is_no_listing_is_one_line(loopback: Loopback, store: Path, answer: Answer) -> None:
    source = FakeOsf(loopback, {}).settings(attempts=1)
    loopback.routes["/v2/nodes/pe453/files/osfstorage/"] = answer
    with pytest.raises(PlaceprintError) as caught:
        run(settings(store, source))
    assert "\n" not in str(caught.value)


def test_names_are_spelled_as_the_label_set_spells_them(loopback: Loopback, store: Path) -> None:
    osf = FakeOsf(loopback, {"new-zealand-12.png": jpeg(1), "australia-37.png": jpeg(2), "south_korea 3.png": jpeg(3)})
    run(settings(store, osf.settings(labels_from="name")))
    assert set(table(store, "images")["label"]) == {"New Zealand", "Australia", "South Korea"}


def test_rate_is_shared_through_prefect(loopback: Loopback, store: Path) -> None:
    from prefect.client.orchestration import get_client

    osf = FakeOsf(loopback, dict(list(FILES.items())[:3]))
    run(settings(store, osf.settings(requests_per_second=10)))
    times = sorted(request.at_s for request in loopback.requests)
    assert times[-1] - times[0] >= (len(times) - 1) / 10 * 0.9
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(f"placeprint-127.0.0.1-{loopback.port}")
    assert (limit.limit, limit.slot_decay_per_second) == (1, 10)
