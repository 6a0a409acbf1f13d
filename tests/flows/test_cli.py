"""The command line: what it prints, its exit codes, errors of one line."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from command_line import placeprint, start_alone
from conftest import write_photos

pytestmark = pytest.mark.usefixtures("prefect_server")
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:  # noqa: ARG001
    """A store with everything in it, made from a folder."""
    from flows.pipeline import pipeline
    from flows.settings import load_settings

    root = tmp_path_factory.mktemp("cli")
    write_photos(root / "photos")
    settings = load_settings(
        CONFIGS / "folder.yaml",
        [f"store={root / 'store'}", f"collect.sources.0.path={root / 'photos'}", "fit.n_resamples=100"],
    )
    assert pipeline(settings) is not None
    return root


def test_help_teaches(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = placeprint("--help", monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    for verb in (
        "run",
        "collect",
        "describe",
        "encode",
        "dedup",
        "split",
        "fit",
        "publish",
        "sql",
        "search",
        "ui",
        "gc",
        "store",
    ):
        assert re.search(rf"\b{verb}\b", out)
    _, out, _ = placeprint("sql", "--help", monkeypatch=monkeypatch, capfd=capfd)
    assert "Example" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--config", "nowhere.yaml"], 2, "nowhere.yaml: No such file"),
        (["run", "--set", "splitt.seed=1"], 2, "is 'split' meant?"),
        (
            ["run", "--set", "split.min_class_size=0"],
            2,
            "split.min_class_size: Input should be greater than or equal to 1 (it was 0)",
        ),
        (["collect", "folder", "nowhere"], 1, "does not exist: give a folder of images"),
        (["collect", "flickr"], 2, "'earthmaps', 'folder'"),
        (["sql", "select 1"], 1, "holds no tables yet"),
        (["search", "Egypt"], 1, "holds no table embeddings yet"),
        (["store", "show", "images"], 1, "holds no table images yet"),
        (["gc"], 1, "holds no tables yet"),
        (["gc", "--older-than", "3 weeks"], 2, "'3 weeks' is no duration: give a number of days, hours or minutes"),
        (["gc", "--keep-last", "0"], 2, "--keep-last"),
        (["frobnicate"], 2, "No such command 'frobnicate'"),
    ],
)
def test_errors_are_one_line_with_the_right_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PLACEPRINT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    found, out, err = placeprint(*arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert found == code
    assert message in " ".join((out + err).split())
    assert "Traceback" not in out + err
    assert not (tmp_path / "store" / "tables").exists()


def test_store_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    code, _, err = placeprint("run", "--store", str(tmp_path / "file"), monkeypatch=monkeypatch, capfd=capfd)
    assert code == 1
    assert err.count("\n") == 1
    assert "is a file, give a folder" in err
    assert (tmp_path / "file").read_text() == "kept"


def test_sql(ready: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(ready / "store")]
    query = "select label, count(*) as n from images group by label order by label"
    code, out, _ = placeprint("sql", *store, "--csv", query, monkeypatch=monkeypatch, capfd=capfd)
    assert (code, out.split()) == (0, ["label,n", "Egypt,8", "France,8", "Japan,8"])
    code, out, _ = placeprint("sql", *store, query, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert "Egypt" in out
    for wrong in ("selec 1", "select * from imagez", "select 1/'x' from images", "drop view images"):
        code, out, err = placeprint("sql", *store, wrong, monkeypatch=monkeypatch, capfd=capfd)
        assert (code, err.count("\n")) == (1, 1), err
        assert err.startswith("error: sql: ")


def test_search_by_text_and_by_image(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(ready / "store")]
    code, out, _ = placeprint(
        "search", *store, "--k", "3", "a map of <b>Egypt</b>", monkeypatch=monkeypatch, capfd=capfd
    )
    assert code == 0
    page = Path(out.split("Page: ")[1].strip())
    assert "a map of &lt;b&gt;Egypt" in page.read_text()
    assert page.read_text().count("data:image/jpeg") == 3
    photo = ready / "photos" / "France" / "01.jpg"
    code, out, _ = placeprint("search", *store, str(photo), monkeypatch=monkeypatch, capfd=capfd)
    assert "1.000" in out.splitlines()[3]
    assert "France/01.jpg" in out.splitlines()[3]
    (ready / "broken.jpg").write_bytes(b"x")
    for wrong, message in (("nowhere.jpg", "does not exist"), (str(ready / "broken.jpg"), "not a usable image")):
        code, _, err = placeprint("search", *store, wrong, monkeypatch=monkeypatch, capfd=capfd)
        assert code == 1
        assert message in " ".join(err.split())


def test_store_list_and_show(ready: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(ready / "store")]
    code, out, _ = placeprint("store", "list", *store, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert out.count("selected") == 10
    code, out, _ = placeprint("store", "show", "images", *store, monkeypatch=monkeypatch, capfd=capfd)
    assert '"listed": 24' in out


def test_run_again_finds_everything_done(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "-c", str(CONFIGS / "folder.yaml"), "--store", str(ready / "store")]
    arguments += ["-s", f"collect.sources.0.path={ready / 'photos'}", "-s", "fit.n_resamples=100"]
    code, out, _ = placeprint(*arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert "nothing to do" in out
    assert "logistic-regression"[:8] in out
    for command in ("sql", "search", "ui"):
        assert f"placeprint {command}" in out


def test_gc_removes_what_older_settings_made_and_nothing_else(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from flows.pipeline import pipeline
    from flows.settings import load_settings

    root = tmp_path / "store"
    shutil.copytree(ready / "store", root, ignore=shutil.ignore_patterns(".prefect"))
    overrides = [f"collect.sources.0.path={ready / 'photos'}", "fit.n_resamples=100", "split.seed=3", "dedup=off"]
    settings = load_settings(CONFIGS / "folder.yaml", [f"store={root}", *overrides])
    page = pipeline(settings)
    assert page is not None
    capfd.readouterr()
    answer = root / "labels" / "duplicates" / "20260101T000000.000000Z-00000000.json"
    answer.parent.mkdir(parents=True)
    answer.write_text("{}")
    (root / "work" / "0123456789ab").mkdir(parents=True)
    (root / "work" / "0123456789ab" / "000.images.parquet").write_bytes(b"half")
    before = contents(root)

    def gc(*options: str) -> str:
        command = ["gc", "--store", str(root), "--keep-last", "1", *options]
        code, out, err = placeprint(*command, monkeypatch=monkeypatch, capfd=capfd)
        assert (code, err) == (0, "")
        return out

    assert "Nothing to remove." in gc()
    assert contents(root) == before
    for path in root.rglob("*"):
        os.utime(path, (0, 0))
    out = gc("--dry-run", "--older-than", "12h")
    assert contents(root) == before
    paths = [Path(line.partition(": ")[2]) for line in out.splitlines() if str(root) in line]
    assert all(path.exists() for path in paths)
    out = gc("--older-than", "12h")
    after = contents(root)
    gone = before.keys() - after.keys()
    assert not [path for path in paths if path.exists()]
    assert all(any(path.is_relative_to(each) for each in paths) for path in gone)
    for kind in ("table versions", "reports", "work folders"):
        assert kind in out
    total = re.search(r"all\W+([\d,]+)\W+([\d,]+)", out)
    assert total is not None
    assert [int(each.replace(",", "")) for each in total.groups()] == [
        len(paths),
        sum(len(before[path]) for path in gone),
    ]
    assert {path: after[path] for path in after if path.name != "catalog.duckdb"} == {
        path: before[path] for path in before if path not in gone and path.name != "catalog.duckdb"
    }
    assert answer.is_file()
    assert "Nothing to remove." in gc()

    query = "select count(*) as n from splits join images using (image_id) join embeddings using (image_id)"
    code, out, _ = placeprint("sql", "--store", str(root), "--csv", query, monkeypatch=monkeypatch, capfd=capfd)
    assert (code, out.split()) == (0, ["n", "24"])
    command = ["run", "-c", str(CONFIGS / "folder.yaml"), "--store", str(root)]
    for each in overrides:
        command += ["-s", each]
    code, out, _ = placeprint(*command, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert "nothing to do" in out
    assert str(page) in out


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_prefect_stays_in_the_store_and_asks_nobody(photos: Path, tmp_path: Path) -> None:
    """Commands as a user types them: own home, no Prefect settings, no server. `split` is run by Prefect."""
    (tmp_path / "home").mkdir()
    given = ("-s", "labels=from-data", "-s", "dedup=off")
    for command in (("collect", "folder", str(photos)), ("split",)):
        process = start_alone(*command, *given, "--store", str(tmp_path / "store"), folder=tmp_path / "home")
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert (tmp_path / "store" / ".prefect" / "prefect.db").is_file()
    assert not (tmp_path / "home" / ".prefect").exists()
