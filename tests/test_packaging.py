"""What is written about installing and running is true: image, compose file, hooks, every command in the docs."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from dashboard.cli import app
from storage.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMAND_FILES = [ROOT / "Makefile", ROOT / "Dockerfile", ROOT / "compose.yaml", *DOCUMENTS]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
# What compose.yaml reads for itself, besides the settings that it hands on.
COMPOSE_VARIABLES = {"SIMPLENET_DB_PASSWORD", "SIMPLENET_WEIGHTS_FOLDER", "SIMPLENET_PUBLISH"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (INSTRUCTION, arguments), comments left out and continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name.upper(), arguments) for name, arguments in pairs]


def final_stage() -> list[tuple[str, str]]:
    lines = instructions()
    return lines[max(number for number, (name, _) in enumerate(lines) if name == "FROM") :]


def settings_variables() -> set[str]:
    return {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}


def code_of(path: Path) -> str:
    """The parts of a file that are commands: all of it, or a Markdown file's code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        return text
    fences = re.findall(r"^\s*```\w*\n(.*?)^\s*```", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*fences, *re.findall(r"`([^`\n]+)`", prose)])


def named_commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(command, its long options) for every `simplenet …` in a file, in a container too."""
    services = "|".join(OURS)
    for line in code_of(path).splitlines():
        calls = re.findall(r"(?:^|[\s@/`])simplenet ((?:--home \S+ )?[a-z][^|;&#`]*)", line)
        calls += re.findall(r"docker run .*simplenet-automl:local ([a-z][^|;&#]*)", line)
        if "--entrypoint" not in line:
            calls += re.findall(rf"docker compose run .* (?:{services}) ([a-z][^|;&#]*)", line)
        for call in calls:
            words = re.sub(r"^--home \S+ ", "", call).split()
            yield words[0].rstrip(".,:"), re.findall(r"(--[a-z][a-z0-9-]*)", call)


def cli() -> dict[str, set[str]]:
    """Every command of the real command line with its options."""
    group: Any = typer.main.get_command(app)
    return {name: options_of(command) for name, command in group.commands.items()}


def options_of(command: Any) -> set[str]:
    """Options of a command, and of those below it."""
    own = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    return own.union(*(options_of(below) for below in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("path", COMMAND_FILES, ids=lambda path: path.name)
def test_every_simplenet_command_that_is_named_exists(path: Path) -> None:
    commands = cli()
    for command, options in named_commands(path):
        assert command in commands, f"{path.name} names `simplenet {command}`"
        unknown = set(options) - commands[command] - {"--home"}
        assert not unknown, f"{path.name} names `simplenet {command}` with {sorted(unknown)}"


def test_command_search_finds_the_commands_it_is_to_check() -> None:
    found = {path.name: [command for command, _ in named_commands(path)] for path in COMMAND_FILES}
    assert {"up", "worker", "dashboard", "mlflow"} <= set(found["Dockerfile"])
    assert "up" in found["Makefile"]
    assert {"up", "worker"} <= set(found["deployment.md"])
    assert {"demo", "ingest", "study"} <= set(found["deployment.md"]), (
        "commands run in containers are not found"
    )


def test_image_runs_as_a_user_that_is_not_root() -> None:
    users = [arguments for name, arguments in final_stage() if name == "USER"]
    assert users, "no USER in the final stage: the image would run as root"
    assert users[-1].isdigit()
    assert int(users[-1]) > 0
    made = " ".join(arguments for name, arguments in final_stage() if name == "RUN")
    assert f"useradd --uid {users[-1]} " in made
    after = final_stage()[final_stage().index(("USER", users[-1])) + 1 :]
    assert "RUN" not in [name for name, _ in after]


def test_image_starts_simplenet_with_a_command_of_its_own() -> None:
    stage = dict(final_stage())
    assert yaml.safe_load(stage["ENTRYPOINT"]) == ["simplenet"]
    assert yaml.safe_load(stage["CMD"])[0] in cli()
    assert PROJECT["project"]["scripts"]["simplenet"] == "dashboard.cli:app"


def test_image_holds_all_our_packages_and_dockerignore_lets_them_in() -> None:
    copied = [
        source
        for name, arguments in instructions()
        if name == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    ]
    packages = [name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert set(packages) <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in copied:
        assert (ROOT / source).exists(), f"Dockerfile copies {source}, which is not there"
        assert f"!{source}" in ignored, f".dockerignore keeps {source} out"


def test_image_serves_the_ports_and_the_home_of_the_settings() -> None:
    stage = dict(final_stage())
    ports = {int(port) for port in stage["EXPOSE"].split()}
    assert ports == {
        Settings.model_fields["dashboard_port"].default,
        Settings.model_fields["mlflow_port"].default,
    }
    environment = dict(re.findall(r"(\w+)=(\S+)", stage["ENV"]))
    ours = {name for name in environment if name.startswith(PREFIX)}
    assert ours <= settings_variables()
    assert stage["WORKDIR"] == environment["SIMPLENET_HOME"]
    for service in OURS.values():
        assert f"home:{environment['SIMPLENET_HOME']}" in service["volumes"]


def test_extras_that_are_named_exist() -> None:
    known = set(PROJECT["project"]["optional-dependencies"])
    arguments = dict(re.findall(r"ARG (\w+)=(\S*)", (ROOT / "Dockerfile").read_text(encoding="utf-8")))
    named = set(arguments["EXTRAS"].split(","))
    for path in [ROOT / "Makefile", *DOCUMENTS]:
        for group in re.findall(r"(?:\.|simplenet-automl)\[([a-z0-9,-]+)\]", code_of(path)):
            named |= set(group.split(","))
    assert {"postgres", "dev"} <= named <= known


def test_compose_runs_commands_that_exist() -> None:
    commands = {name: service["command"][0] for name, service in OURS.items()}
    assert commands == {"mlflow": "mlflow", "dashboard": "dashboard", "worker": "worker"}
    assert set(commands.values()) <= set(cli())


def test_compose_sets_only_settings_that_exist() -> None:
    for name, service in OURS.items():
        ours = {key for key in service["environment"] if key.startswith(PREFIX)}
        assert ours <= settings_variables(), name
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    read = set(re.findall(r"\$\{(SIMPLENET_\w+)", text))
    assert read <= settings_variables() | COMPOSE_VARIABLES


def test_compose_variables_are_all_documented() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    for name in re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text(encoding="utf-8")):
        assert f"`{name}`" in page, f"docs/deployment.md does not explain {name}"


def test_compose_holds_no_secret_and_asks_for_the_password() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert re.search(r"\$\{SIMPLENET_DB_PASSWORD:\?[^}]+\}", text), "the password must be required"
    passwords = re.findall(r"postgresql://\w+:(.*?)@", text) + re.findall(r"POSTGRES_PASSWORD: (\S+)", text)
    assert len(passwords) == 4
    assert all(password.startswith("${SIMPLENET_DB_PASSWORD") for password in passwords)
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_compose_gives_each_program_a_database_that_is_made() -> None:
    environment = OURS["worker"]["environment"]
    names = [
        environment[f"{PREFIX}{setting}"].rsplit("/", 1)[1]
        for setting in ("DATABASE_URL", "OPTUNA_URL", "MLFLOW_DATABASE_URL")
    ]
    assert len(set(names)) == 3
    database = COMPOSE["services"]["database"]
    scripts = [mount.split(":")[0] for mount in database["volumes"] if mount.startswith("./")]
    made = {database["environment"]["POSTGRES_DB"]}
    for script in scripts:
        sql = (ROOT / script).read_text(encoding="utf-8")
        made |= set(re.findall(r"^CREATE DATABASE (\w+);", sql, flags=re.MULTILINE))
    assert made == set(names)


def test_compose_waits_only_for_services_that_report_their_health() -> None:
    for name, service in COMPOSE["services"].items():
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"}, name
            assert "healthcheck" in COMPOSE["services"][other], other


def test_compose_publishes_on_this_machine_only_and_mlflow_answers_its_own_name() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("${SIMPLENET_PUBLISH:-127.0.0.1}:"), name
    host = OURS["worker"]["environment"]["SIMPLENET_TRACKING_URI"].removeprefix("http://")
    assert host in OURS["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_compose_volumes_that_are_used_are_declared() -> None:
    used = {
        mount.split(":")[0]
        for service in COMPOSE["services"].values()
        for mount in service["volumes"]
        if not mount.startswith((".", "$"))
    }
    assert used == set(COMPOSE["volumes"])


def test_hooks_are_local_and_their_tools_are_installed_for_development() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} <= {"system", "pygrep"}
    tools = {hook["entry"].split()[0] for hook in hooks if hook["language"] == "system"}
    provided_by = {"ruff": "ruff", "lint-imports": "import-linter"}
    dev = {re.split(r"[\[<>=]", line)[0] for line in PROJECT["project"]["optional-dependencies"]["dev"]}
    assert {provided_by[tool] for tool in tools} | {"pre-commit"} <= dev
