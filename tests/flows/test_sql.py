"""`placeprint sql`: where a query comes from, its parameters, the forms of its answer, the prompt."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import placeprint
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from flows.answers import choose_form, write_text
from flows.named_queries import named_queries
from flows.sql import ask
from flows.sql_prompt import QueryCompleter, prompt
from storage.catalog import connect
from storage.errors import PlaceprintError
from storage.store import Recipe, Store
from tasks.settings import SettingsError

ROWS = pa.table({"name": ["a", "b", "c"], "number": [1, 2, 3]})
ODD = """select 'a, "b"|' || chr(10) || 'c' as "te|xt", null as nothing, '' as empty, true as yes, date '2024-02-03' as day,
  timestamptz '2024-02-03 04:05:06.5+00' as moment, [0.5, 1]::float[2] as vector, {'a': [1.5]} as struct, 1.25::decimal(5, 2) as price,
  'nan'::double as nan, 'é' as é, 170141183460469231731687303715884105727 as huge, 1 as n, 2 as n"""
VALUES = ["1.25", "", "é", "170141183460469231731687303715884105727", "1", "2"]


@pytest.fixture
def things(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    recipe = Recipe("step", 1)
    store.commit("things", recipe, [store.write_shard("things", recipe.fingerprint, 0, ROWS)])
    return store


def test_csv_is_rfc_4180(things: Store, tmp_path: Path) -> None:
    path = tmp_path / "new" / "odd.csv"
    ask(things, ODD, {}, form="csv", output=path)
    content = path.read_bytes().decode()
    assert content.count("\r\n") == 2
    names, values = csv.reader(io.StringIO(content, newline=""))
    assert names[:3] == ["te|xt", "nothing", "empty"]
    first = [
        'a, "b"|\nc',
        "",
        "",
        "true",
        "2024-02-03",
        "2024-02-03T04:05:06.500000+00:00",
        "[0.5, 1.0]",
        '{"a": [1.5]}',
    ]
    assert values == first + VALUES


def test_json_is_an_array_of_objects(things: Store, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    ask(things, ODD, {}, form="json", output=path)
    (found,) = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (found["nothing"], found["empty"], found["yes"], found["nan"]) == (None, "", True, None)
    assert (found["day"], found["moment"]) == ("2024-02-03", "2024-02-03T04:05:06.500000+00:00")
    assert (found["vector"], found["struct"], found["n"], found["n_1"]) == ([0.5, 1.0], {"a": [1.5]}, 1, 2)
    ask(things, "from things", {}, form="json", output=path)
    assert json.loads(path.read_text()) == ROWS.to_pylist()
    ask(things, "from things where false", {}, form="json", output=path)
    assert json.loads(path.read_text()) == []


def test_markdown(things: Store, capfd: pytest.CaptureFixture[str]) -> None:
    ask(things, """select 'a|b' || chr(10) || 'c' as "x|y", null as n""", {}, form="markdown")
    assert capfd.readouterr().out == "| x\\|y | n |\n| --- | --- |\n| a\\|b c |  |\n"


@pytest.mark.parametrize("parameters", [{}, {"name": "b"}])
def test_parquet(things: Store, tmp_path: Path, parameters: dict[str, str]) -> None:
    path = tmp_path / "things.parquet"
    ask(things, "from things" + (" where name = $name" if parameters else ""), parameters, form="parquet", output=path)
    rows = [row for row in ROWS.to_pylist() if row["name"] in parameters.values() or not parameters]
    assert pq.read_table(path).to_pylist() == rows


def test_rows_are_not_all_in_memory(things: Store) -> None:
    """The answer has a terabyte; it ends where the reader goes away."""

    class Reader(io.StringIO):
        def write(self, text: str) -> int:
            if self.tell() > 100_000:
                raise BrokenPipeError
            return super().write(text)

    for form in ("csv", "json", "markdown"):
        with connect(things) as connection:
            (query,) = connection.extract_statements("select range, 'row ' || range from range(100000000000)")
            with pytest.raises(BrokenPipeError):
                write_text(connection, query, {}, form, Reader())  # type: ignore[arg-type]


def test_failed_query_leaves_the_file_that_was_there(things: Store, tmp_path: Path) -> None:
    path = tmp_path / "kept.csv"
    path.write_text("kept")
    for form in ("csv", "parquet"):
        with pytest.raises(PlaceprintError):
            ask(things, "select error('late') from things", {}, form=form, output=path)  # type: ignore[arg-type]
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["kept.csv"]
    assert path.read_text() == "kept"


def test_form_follows_the_name_of_the_output(tmp_path: Path) -> None:
    for name, form in (("a.csv", "csv"), ("a.JSON", "json"), ("a.parquet", "parquet"), ("a.md", "markdown")):
        assert choose_form(None, tmp_path / name) == form
    assert choose_form(None, None) == "table"
    assert choose_form("csv", tmp_path / "a.txt") == "csv"
    for wrong in (("parquet", None), (None, tmp_path / "a.txt"), ("table", tmp_path / "a.csv"), ("csv", tmp_path)):
        with pytest.raises(SettingsError, match="--output"):
            choose_form(*wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "parameters", "message"),
    [
        ("select $name", {}, r"the query wants \$name: give --param name="),
        ("select $name", {"name": "x", "nam": "y"}, r"has no parameter \$nam, it has \$name"),
        ("select 1", {"name": "x"}, r"has no parameter \$name, it has none"),
        ("select $query_embedding", {}, "give --param text=… or image=…"),
        ("select $query_embedding", {"text": "x", "image": "y"}, "give --param text=… or image=…"),
        ("-- nothing", {}, "there is no query"),
        ("", {}, "there is no query"),
    ],
)
def test_parameters_that_do_not_fit(things: Store, sql: str, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ask(things, sql, parameters)


def test_several_statements_and_their_parameters(things: Store, capfd: pytest.CaptureFixture[str]) -> None:
    sql = "create temp table chosen as from things where number >= $least::int; select count(*) as n, $word as word from chosen; -- end"
    ask(things, sql, {"least": "2", "word": "w"}, form="csv")
    assert capfd.readouterr().out.splitlines() == ["n,word", "2,w"]


def test_where_the_query_comes_from(
    things: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(things.root), "--format", "csv"]
    sql = tmp_path / "query.sql"
    sql.write_text("-- how many\nselect count(*) as n from things where name <> $name;\n")
    code, out, _ = placeprint(
        "sql", *store, "--file", str(sql), "--param", "name=a", monkeypatch=monkeypatch, capfd=capfd
    )
    assert (code, out.split()) == (0, ["n", "2"])
    for arguments in ([], ["--file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("select 7 as seven"))
        code, out, _ = placeprint("sql", *store, *arguments, monkeypatch=monkeypatch, capfd=capfd)
        assert (code, out.split()) == (0, ["seven", "7"])
    for arguments, message in (
        (["--named", "label-balanc"], "is 'label-balance' meant?"),
        (["--file", "nowhere.sql"], "nowhere.sql: No such file"),
        (["select 1", "--file", "-"], "give one of"),
        (["select 1", "--param", "x"], "write it as name=value"),
        (["select 1", "--format", "parquet"], "give --output FILE"),
    ):
        code, _, err = placeprint("sql", *store, *arguments, monkeypatch=monkeypatch, capfd=capfd)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    code, out, _ = placeprint("sql", "--list", monkeypatch=monkeypatch, capfd=capfd)
    assert [line.partition(":")[0] for line in out.splitlines()] == list(named_queries())


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PipeInput]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        yield typed


def test_prompt(things: Store, tmp_path: Path, typed: PipeInput) -> None:
    asked: list[tuple[str, dict[str, str]]] = []
    said: list[str] = []
    errors: list[str] = []

    def answer(sql: str, parameters: object) -> None:
        asked.append((sql, dict(parameters)))  # type: ignore[call-overload]
        if "wrong" in sql:
            raise PlaceprintError("sql: wrong")
        if "slow" in sql:
            raise KeyboardInterrupt

    for line in ("select 1;", "wrong", "slow", "", ".tables", ".help", ".frobnicate", ".named", ".named nothing"):
        typed.send_text(line + "\r")
    typed.send_text("cleared\x03.named metric-history metric='top5 accuracy'\r.quit\r never")
    prompt(things, answer, say=said.append, complain=lambda error: errors.append(str(error)))
    assert [sql for sql, _ in asked[:3]] == ["select 1;", "wrong", "slow"]
    assert asked[3:] == [(named_queries()["metric-history"], {"metric": "top5 accuracy"})]
    assert "things: name, number" in said
    assert [error.split(":")[1].strip()[:12] for error in errors] == ["wrong", "there is no ", "there is no "]
    history = (tmp_path / "state/placeprint/sql_history").read_text()
    assert "+select 1;" in history
    assert "cleared" not in history


def test_prompt_ends_with_the_input_and_without_a_home(
    things: Store, tmp_path: Path, typed: PipeInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    typed.send_text("\x04")
    prompt(things, lambda *_: None, say=lambda _: None, complain=lambda _: None)


@pytest.mark.parametrize(
    ("line", "some"),
    [
        (".", {".help", ".named", ".quit", ".tables"}),
        (".t", {".tables"}),
        (".named ", set(named_queries())),
        (".named drift", {"drift-labels", "drift-embeddings"}),
        ("select na", {"name"}),
        ("select t.numb", {"number"}),
        ("SEL", {"select"}),
        ("from thi", {"things"}),
    ],
)
def test_completion(line: str, some: set[str]) -> None:
    completer = QueryCompleter({"things": ["name", "number"]})
    found = {each.text for each in completer.get_completions(Document(line), CompleteEvent())}
    assert some <= found
    assert len(found) < 20


def test_no_completion_of_nothing() -> None:
    assert not list(QueryCompleter({}).get_completions(Document("select "), CompleteEvent()))


def test_prompt_at_a_terminal(things: Store, tmp_path: Path) -> None:
    """The command as a person uses it, at a terminal: completion, an error, Ctrl-C, Ctrl-D."""
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "sql", "--store", str(things.root)],
        env=environment,
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)
    shown = ""

    def see(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([terminal], [], [], 0.5)[0]:
                shown += os.read(terminal, 4096).decode(errors="replace")
        shown = shown.partition(text)[2]

    def type_in(text: str) -> None:
        os.write(terminal, text.encode())

    see("placeprint>")
    type_in("select 'sum ' || sum(number) as total from thi")
    see("thi")
    type_in("\t")
    see("ngs")
    type_in("\r")
    see("sum 6")
    see("placeprint>")  # between prompts the terminal itself would take Ctrl-C and Ctrl-D
    type_in("selec 1\r")
    see("Parser Error")
    see("placeprint>")
    type_in("not wanted\x03")
    see("placeprint>")
    type_in("select 'still' || ' here' as a\r")
    see("still here")
    see("placeprint>")
    type_in("\x04")
    assert process.wait(30) == 0
    os.close(terminal)
