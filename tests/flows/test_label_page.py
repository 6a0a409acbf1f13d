"""Labelling pairs as a person does: in headless Chromium, with servers and tabs that are killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from command_line import start
from conftest import write_photos
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from flows import cli
from flows.settings import load_settings
from storage.answers import add_answer, current_answers, read_answers
from storage.errors import StoreError
from storage.schemas import IMAGES, embeddings
from storage.store import Recipe, Store
from storage.vectors import vector_column
from tasks.dedup.labelling import AnotherPairError, Labelling, LabelSettings

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
HOSTILE = "<script>alert(1)<script>"
N_PHOTOS, N_COPIES = 18, 8


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:  # noqa: ARG001
    """A store with embeddings of 18 photographs and of copies of 8 of them, saved anew with loss; copy it."""
    from flows.collect import collect
    from flows.encode import encode

    root = tmp_path_factory.mktemp("label")
    photos = write_photos(root / "photos", N_PHOTOS, ("Egypt", "France", HOSTILE), size=(160, 120))
    for path in sorted(photos.glob("*/*.jpg"))[:N_COPIES]:
        Image.open(path).save(path.with_name(f"{path.stem}-copy.jpg"), quality=70)
    sets = [f"store={root / 'store'}", "labels=from-data", f"collect.sources=[{{kind: folder, path: {photos}}}]"]
    settings = load_settings(None, sets)
    collect(settings)
    encode(settings)
    return root / "store"


@pytest.fixture
def fresh(encoded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoded, tmp_path / "store"))


class Server:
    """``placeprint dedup label`` in a process of its own."""

    def __init__(self, store: Path, *options: str, port: int = 0) -> None:
        home = store.parent / "home"
        arguments = ["dedup", "label", "--store", str(store), "--by", "ada", "--port", str(port), *options]
        self.process = start(*arguments, home=home)
        self.said = self.process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)", self.said)
        assert address, self.said + self.process.communicate()[0]
        self.address, self.port = address[0], int(address[1])

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def started(*arguments: object, **options: object) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield started
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def open_tab(browser: Browser, address: str, width: int = 1280) -> Page:
    tab = browser.new_page(viewport={"width": width, "height": 860})
    tab.on("dialog", lambda dialog: pytest.fail(dialog.message))
    tab.on("pageerror", lambda error: pytest.fail(str(error)))
    tab.goto(address)
    ready(tab)
    return tab


def ready(tab: Page) -> None:
    expect(tab.locator("main[aria-busy=false]")).to_be_attached()


def press(tab: Page, key: str) -> None:
    """A key, and what follows from it."""
    tab.keyboard.press(key)
    ready(tab)


def paths(tab: Page) -> tuple[str, str]:
    """Of the pair on the page."""
    first, second = tab.locator("figcaption code").all_inner_texts()
    return first, second


def truth(tab: Page) -> str:
    """The key that a person would press."""
    first, second = (path.removesuffix(".jpg").removesuffix("-copy") for path in paths(tab))
    return "d" if first == second else "n"


def kept(store: Path) -> list[str]:
    return [answer.answer for answer in read_answers(Store(store))]


class TestPage:
    pytestmark = pytest.mark.browser

    def test_keys_answer_skip_and_take_back(self, fresh: Path, serve: Callable[..., Server], browser: Browser) -> None:
        server = serve(fresh)
        tab = open_tab(browser, server.address)
        assert tab.evaluate("[...document.images].every(image => image.naturalWidth === 160)")
        assert "No thresholds yet: 0 labelled pairs" in tab.inner_text("#reason")
        expect(tab.locator("#undo")).to_be_disabled()
        shown = [paths(tab)]
        for key, verdict in (("d", "duplicate"), ("N", "different"), ("s", "skip")):
            press(tab, key)
            assert kept(fresh)[-1] == verdict
            shown.append(paths(tab))
        assert len(set(shown)) == 4
        assert "2 answered by ada: 1 duplicates, 1 not; 1 skipped" in tab.inner_text("#counts")
        press(tab, "u")
        assert paths(tab) == shown[2]
        press(tab, "u")
        assert paths(tab) == shown[1]
        assert kept(fresh) == ["duplicate", "different", "skip", "undo", "undo"]
        assert "1 answered by ada: 1 duplicates, 0 not; 0 skipped" in tab.inner_text("#counts")
        press(tab, "d")
        assert paths(tab) == shown[2]
        tab.click("#different")
        ready(tab)
        assert paths(tab) == shown[3]
        press(tab, "x")
        tab.keyboard.press("Control+d")
        ready(tab)
        assert kept(fresh)[5:] == ["duplicate", "different"]
        last = {each.pair: each.answer for each in current_answers(read_answers(Store(fresh))).values()}
        assert sorted(last.values()) == ["different", "duplicate", "duplicate"]
        tab.close()

    def test_one_key_at_a_time(self, fresh: Path, serve: Callable[..., Server], browser: Browser) -> None:
        tab = open_tab(browser, serve(fresh).address)
        first = paths(tab)
        held = []
        tab.route("**/answer", lambda route: held.append(route))
        for key in "ddnsu":
            tab.keyboard.press(key)
        for button in ("duplicate", "different", "skip", "undo"):
            expect(tab.locator(f"#{button}")).to_be_disabled()
        while not held:
            tab.wait_for_timeout(50)
        tab.wait_for_timeout(300)
        assert len(held) == 1
        assert paths(tab) == first  # not before the server said that it is kept
        assert kept(fresh) == []
        held[0].continue_()
        ready(tab)
        assert kept(fresh) == ["duplicate"]
        tab.unroute("**/answer")
        second = paths(tab)
        tab.clock.install()
        tab.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
        tab.keyboard.press("d")
        expect(tab.locator("figcaption code").first).not_to_have_text(second[0])
        tab.clock.run_for(200)
        tab.wait_for_timeout(300)
        tab.keyboard.press("d")  # a key that bounces, though the server was quick
        expect(tab.locator("#duplicate")).to_be_disabled()
        tab.clock.run_for(60)
        ready(tab)
        assert kept(fresh) == ["duplicate"] * 2
        tab.clock.resume()
        tab.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'd', repeat: true}))")  # held down
        ready(tab)
        assert kept(fresh) == ["duplicate"] * 2
        tab.close()

    def test_thresholds_converge_and_pairs_come_to_an_end(
        self, fresh: Path, serve: Callable[..., Server], browser: Browser
    ) -> None:
        server = serve(fresh, "--mode", "stratified", "--last", "3", "--tolerance", "5")
        tab = open_tab(browser, server.address)
        shown, without, hostile = [], 0, False
        while tab.locator("#finished").is_hidden():
            shown.append(paths(tab))
            if not hostile and HOSTILE in tab.inner_text("#pair"):
                hostile = True
                tab.screenshot(path=SCREENSHOTS / "label.png")
            press(tab, truth(tab))
            without += tab.locator("#thresholds").is_hidden()
            # Two more answers after the first that had thresholds.
            assert tab.locator("#converged").is_visible() == (len(shown) >= without + 3)
        assert hostile
        assert 9 <= without < len(shown) - 3
        assert len(set(shown)) == len(shown) == len(kept(fresh))
        assert kept(fresh).count("duplicate") == N_COPIES
        assert re.search(r"suspected from: P\(duplicate\) = 1 %\s0\.\d{4}\s95 % interval", tab.inner_text("#suspected"))
        assert re.search(r"certain from: P\(duplicate\) = 99 %\s[01]\.\d{4}\s95 % interval", tab.inner_text("#certain"))
        assert f"fitted to {len(shown)} answers of 1 person" in tab.inner_text("#fit")
        assert "the last 3 answers both thresholds stayed within ± 5" in tab.inner_text("#converged")
        assert "placeprint dedup" in tab.inner_text("#finished")
        assert "0 left" in tab.inner_text("#counts")
        tab.keyboard.press("d")
        assert len(kept(fresh)) == len(shown)
        press(tab, "u")
        assert tab.locator("#finished").is_hidden()
        assert paths(tab) == shown[-1]
        tab.close()

    def test_killed_tabs_and_servers_lose_nothing(
        self, fresh: Path, serve: Callable[..., Server], browser: Browser
    ) -> None:
        server = serve(fresh)
        tab = open_tab(browser, server.address)
        shown = []
        for _ in range(3):
            shown.append(paths(tab))
            press(tab, truth(tab))
        due = paths(tab)
        tab.close()
        tab = open_tab(browser, server.address)
        assert paths(tab) == due
        assert "3 answered" in tab.inner_text("#counts")

        with tab.expect_response("**/answer") as confirmed:
            tab.keyboard.press(truth(tab))
        confirmed.value.finished()
        server.kill()  # right after the answer was confirmed
        shown.append(due)
        assert len(kept(fresh)) == 4
        # The next pair's images may be lost with the server; what was confirmed is not.
        ready(tab)
        due = paths(tab)
        assert due not in shown
        press(tab, "n")
        assert "The server does not answer" in tab.inner_text("#message")
        assert paths(tab) == due
        assert len(kept(fresh)) == 4

        server = serve(fresh, port=server.port)
        press(tab, "n")
        assert tab.locator("#message").is_hidden()
        assert kept(fresh)[4:] == ["different"]
        assert "5 answered" in tab.inner_text("#counts")
        shown.append(due)
        other = open_tab(browser, server.address)
        for _ in range(3):
            assert paths(other) not in shown
            shown.append(paths(other))
            press(other, truth(other))
        # The first tab is behind: its answer is not taken for another pair, and it says so.
        press(tab, "d")
        assert "answered already" in tab.inner_text("#message")
        assert paths(tab) == paths(other)
        assert len(kept(fresh)) == 8
        tab.close()
        other.close()

    def test_a_confirmation_that_breaks_off_is_asked_for_again(
        self, fresh: Path, serve: Callable[..., Server], browser: Browser
    ) -> None:
        tab = open_tab(browser, serve(fresh).address)
        due = paths(tab)

        def break_off(route: Route) -> None:
            route.fulfill(response=route.fetch(), body='{"pair')

        tab.route("**/answer", break_off)
        press(tab, "n")
        assert len(kept(fresh)) == 1
        assert "The server does not answer" in tab.inner_text("#message")
        assert paths(tab) == due
        tab.unroute("**/answer", break_off)
        press(tab, "n")
        assert "answered already" in tab.inner_text("#message")
        assert paths(tab) != due
        assert len(kept(fresh)) == 1
        tab.close()

    def test_what_cannot_be_kept_is_told_and_can_be_repeated(
        self, fresh: Path, serve: Callable[..., Server], browser: Browser
    ) -> None:
        tab = open_tab(browser, serve(fresh).address, width=390)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        boxes = [image.bounding_box() for image in tab.locator("figure img").all()]
        assert abs(boxes[0]["y"] - boxes[1]["y"]) < 1  # side by side
        tab.screenshot(path=SCREENSHOTS / "label-phone.png")
        due = paths(tab)
        (fresh / "labels").write_text("in the way")
        press(tab, "d")
        message = tab.inner_text("#message")
        assert "could not keep this (500)" in message
        assert str(fresh / "labels") in message
        assert paths(tab) == due
        (fresh / "labels").unlink()
        press(tab, "d")
        assert tab.locator("#message").is_hidden()
        assert kept(fresh) == ["duplicate"]
        for path in fresh.glob("images/*/*.jpg"):
            path.unlink()
        press(tab, "s")
        assert tab.locator("figcaption .lost").count() == 2
        press(tab, "s")
        assert kept(fresh) == ["duplicate", "skip", "skip"]
        tab.close()


def test_strangers_are_refused(fresh: Path, serve: Callable[..., Server]) -> None:
    (fresh / "secret.jpg").write_bytes(b"secret")
    server = serve(fresh)
    with httpx.Client(base_url=server.address) as client:
        state = client.get("/state").json()
        ids = [about["image_id"] for about in state["pair"]]
        body = {"image_id_a": ids[0], "image_id_b": ids[1], "answer": "duplicate"}
        # The cosine would sway the answer.
        assert set(state["pair"][0]) == {"image_id", "label", "source", "path", "width", "height"}
        for path in ("/", "/state", f"/image/{ids[0]}"):
            assert client.get(path).status_code == 200
            assert client.get(path, headers={"Host": "placeprint.example"}).status_code == 400
        assert client.post("/answer", json=body, headers={"Host": "placeprint.example"}).status_code == 400
        text = httpx.Request("POST", "/", json=body).content
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            headers = {"Content-Type": content_type, "Origin": "http://placeprint.example"}
            for path in ("/answer", "/undo"):
                assert client.post(path, content=text, headers=headers).status_code == 415
        for wrong in ({}, {**body, "answer": "undo"}, {**body, "image_id_a": 1}, []):
            assert client.post("/answer", json=wrong).status_code == 422
        reply = client.post("/answer", json={**body, "image_id_a": ids[1], "image_id_b": ids[0]})
        assert (reply.status_code, reply.json()["state"]) == (409, state)
        assert client.post("/undo", json=body).status_code == 409
        assert client.options("/answer", headers={"Origin": "http://placeprint.example"}).status_code == 405
        assert kept(fresh) == []

        image = client.get(f"/image/{ids[0]}")
        (row,) = [row for row in Store(fresh).version("images").read().to_pylist() if row["image_id"] == ids[0]]
        assert image.content == (fresh / row["file"]).read_bytes()
        assert image.headers["content-type"] == "image/jpeg"
        assert image.headers["x-content-type-options"] == "nosniff"
        for wrong in ("0" * 32, "..%2f..%2fsecret.jpg", "%2e%2e", "../secret.jpg", "secret.jpg", ids[0][:-1], ""):
            assert raw_status(server.port, f"/image/{wrong}") == 404
        for path in ("/docs", "/openapi.json"):
            assert client.get(path).status_code == 404
        assert client.post("/answer", json=body).status_code == 200
    assert kept(fresh) == ["duplicate"]
    with pytest.raises(ConnectionRefusedError), socket.create_connection((other_address(), server.port), timeout=5):
        pass
    os.kill(server.process.pid, signal.SIGINT)
    assert server.process.wait(20) == 0
    assert server.process.stdout.read() == ""


def raw_status(port: int, path: str) -> int:
    """Of a request for a path that no client has tidied up."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


def other_address() -> str:
    """An address of this machine beside 127.0.0.1, on which a server that is bound to all would answer."""
    return "127.0.0.2"


def make_store(root: Path, vectors: np.ndarray, dtype: str = "float32") -> list[str]:
    """A store with just these embeddings; returns the ids of their images."""
    store, ids = Store(root), [f"{number:032x}" for number in range(len(vectors))]
    rows = [
        {"image_id": identity, "source": "made", "path": f"{identity}.jpg", "file": f"images/{identity}.jpg"}
        | {"width": 4, "height": 3, "bytes": 1}
        for identity in ids
    ]
    images = Recipe("collect", 1, {"n": len(ids)})
    shard = store.write_shard("images", images.fingerprint, 0, pa.Table.from_pylist(rows, IMAGES))
    store.commit("images", images, [shard])
    recipe = Recipe("encode", 1, {"dtype": dtype, "sum": float(vectors.sum())}, {"images": images.fingerprint})
    columns = [pa.array(ids, pa.string()), vector_column(vectors, dtype)]
    table = pa.Table.from_arrays(columns, schema=embeddings(vectors.shape[1], dtype))
    store.commit("embeddings", recipe, [store.write_shard("embeddings", recipe.fingerprint, 0, table)])
    return ids


def unit(n: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def labelling(root: Path, by: str = "ada", mode: str = "random", **changes: object) -> Labelling:
    given = {"n_last": 20, "tolerance": 0.002, "probabilities": (0.01, 0.99), "seed": 0, **changes}
    return Labelling(Store(root), LabelSettings(labelled_by=by, mode=mode, **given))


def pair_of(state: dict) -> tuple[str, str]:
    first, second = state["pair"]
    return first["image_id"], second["image_id"]


def test_each_person_is_shown_all_and_all_answers_are_fitted(store: Path) -> None:
    make_store(store, unit(40))
    ada = labelling(store)
    first = pair_of(ada.state())
    for _ in range(8):
        ada.answer(pair_of(ada.state()), "duplicate")
    bob = labelling(store, "bob")
    assert pair_of(bob.state()) == first
    assert bob.state()["last"] is None
    assert bob.state()["counts"]["answered"] == 0
    assert "9 labelled pairs, 8 of them duplicates" in bob.answer(first, "different")["reason"]
    assert labelling(store).state()["counts"]["answered"] == 8


@pytest.mark.parametrize("mode", ["random", "stratified"])
def test_started_again_it_goes_on_where_it_was(mode: str, store: Path) -> None:
    make_store(store, unit(60))
    asked = labelling(store, mode=mode)
    generator = np.random.default_rng(0)
    for number in range(24):
        pair = pair_of(asked.state())
        if number % 7 == 5:
            asked.undo(tuple(asked.state()["last"]))
        else:
            asked.answer(pair, generator.choice(["duplicate", "different", "skip"]))
        assert labelling(store, mode=mode).state() == asked.state()


def test_answers_on_other_embeddings_count_while_their_images_are_there(store: Path) -> None:
    """Another encoder has other neighbours; a pair that was answered is fitted with its new cosine."""
    ids = make_store(store, unit(30))
    asked = labelling(store)
    for _ in range(6):
        asked.answer(pair_of(asked.state()), "duplicate")
    add_answer(Store(store), ids[0], "f" * 32, "duplicate", labelled_by="ada")
    make_store(store, unit(30, seed=9))
    again = labelling(store)
    assert again.state()["counts"]["answered"] == 6
    assert "6 labelled pairs" in again.state()["reason"]
    assert again.undo(tuple(again.state()["last"]))["counts"]["answered"] == 5


def test_rows_of_float16_are_a_little_longer_than_one_and_are_fitted(store: Path) -> None:
    vectors = np.repeat(unit(15), 2, axis=0)
    make_store(store, vectors, "float16")
    lengths = np.linalg.norm(vectors.astype(np.float16).astype(np.float64), axis=1)
    assert lengths.max() > 1.00001
    asked = labelling(store)
    assert "0 labelled pairs" in asked.state()["reason"]
    for _ in range(12):
        asked.answer(pair_of(asked.state()), "duplicate")
    assert "outside" not in asked.state()["reason"]


def test_what_was_not_written_does_not_count(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(store, unit(10))
    asked = labelling(store)
    before = asked.state()
    monkeypatch.setattr("storage.answers.write_bytes", lambda *_: (_ for _ in ()).throw(StoreError("disk full")))
    with pytest.raises(StoreError, match="disk full"):
        asked.answer(pair_of(before), "duplicate")
    assert asked.state() == before
    monkeypatch.undo()
    assert asked.answer(pair_of(before), "duplicate")["counts"]["answered"] == 1
    with pytest.raises(AnotherPairError):
        asked.answer(pair_of(before), "duplicate")
    assert kept(store) == ["duplicate"]


def test_formats_that_browsers_do_not_show_are_converted(store: Path) -> None:
    ids = make_store(store, unit(3))
    asked = labelling(store)
    path = store / "images" / f"{ids[0]}.tif"
    path.parent.mkdir()
    Image.new("RGB", (4, 3), (200, 10, 10)).save(path)
    asked._images[ids[0]]["file"] = f"images/{ids[0]}.tif"
    content, content_type = asked.image(ids[0])
    assert content_type == "image/png"
    assert content.startswith(b"\x89PNG")
    with pytest.raises(FileNotFoundError):
        asked.image(ids[1])


def placeprint(*arguments: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["placeprint", "dedup", "label", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return int(stopped.value.code), err


def test_mistakes_are_one_line(store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        code, err = placeprint("--store", str(store), *arguments, monkeypatch=monkeypatch, capfd=capfd)
        assert code == 1
        return err

    assert "holds no table embeddings yet" in refused("--port", "0")
    make_store(store, unit(1))
    assert "of 1 image: a pair needs two" in refused("--port", "0")
    make_store(store, np.full((2, 8), np.nan, dtype=np.float32))
    assert "are damaged: row 0 of the embeddings holds NaN" in refused("--port", "0")
    make_store(store, unit(4))
    assert "give --by NAME" in refused("--port", "0", "--by", " ")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used (Address already in use): give another" in refused("--port", str(port))
    (store / "labels" / "duplicates").mkdir(parents=True)
    (store / "labels" / "duplicates" / "1.json").write_text("{")
    assert "1.json is no answer that can be read" in refused("--port", "0")
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found")))
    assert "this user has no name: give --by NAME" in refused("--port", "0")


def test_serving_needs_no_prefect() -> None:
    """Prefect takes seconds to import and would keep its home somewhere."""
    code = "import sys; import flows.label; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
