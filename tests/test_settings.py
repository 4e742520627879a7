"""Settings come from the environment, are checked once, and every mistake names its variable."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from embedmill.errors import ConfigurationError
from embedmill.settings import PREFIX, Settings, load_settings, read_secret, unknown_variables

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "settings.md"


def test_nothing_set_gives_the_defaults() -> None:
    settings = load_settings({})
    assert settings == Settings()
    assert settings.database_url is None
    assert settings.data_dir.is_absolute()
    assert settings.models_dir == settings.data_dir / "models"


def test_every_setting_is_read_from_its_variable() -> None:
    settings = load_settings(
        {
            "EMBEDMILL_DATABASE_URL": "postgresql:///mine",
            "EMBEDMILL_DATA_DIR": "/srv/embedmill",
            "EMBEDMILL_TENANT": "acme",
            "EMBEDMILL_CALLS_IN_FLIGHT": "16",
            "EMBEDMILL_LOCAL_THREADS": "3",
            "EMBEDMILL_PARSER_PROCESSES": "4",
            "EMBEDMILL_PARSE_SECONDS": "5",
            "EMBEDMILL_PARSE_MEMORY_MB": "512",
            "EMBEDMILL_MAX_FILE_MB": "0.5",
            "EMBEDMILL_LOG_LEVEL": "debug",
            "EMBEDMILL_LOG_FORMAT": "json",
        }
    )
    assert settings == Settings(
        database_url="postgresql:///mine",
        data_dir=Path("/srv/embedmill"),
        tenant="acme",
        calls_in_flight=16,
        local_threads=3,
        parser_processes=4,
        parse_seconds=5.0,
        parse_memory_mb=512,
        max_file_mb=0.5,
        log_level="debug",
        log_format="json",
    )
    assert settings.max_file_bytes == 524_288


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({"EMBEDMILL_DATABASE_URL": "", "EMBEDMILL_CALLS_IN_FLIGHT": ""}) == Settings()


def test_a_tilde_in_the_data_folder_is_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings({"EMBEDMILL_DATA_DIR": "~/mill"}).data_dir == tmp_path / "mill"


def test_the_data_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert load_settings({}).data_dir == tmp_path / "embedmill"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings({}).data_dir == tmp_path / ".local" / "share" / "embedmill"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CALLS_IN_FLIGHT", "0"),
        ("CALLS_IN_FLIGHT", "257"),
        ("CALLS_IN_FLIGHT", "many"),
        ("CALLS_IN_FLIGHT", "1.5"),
        ("LOCAL_THREADS", "0"),
        ("PARSER_PROCESSES", "65"),
        ("PARSE_SECONDS", "inf"),
        ("PARSE_MEMORY_MB", "64"),
        ("MAX_FILE_MB", "inf"),
        ("MAX_FILE_MB", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_name_of_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=PREFIX + name):
        load_settings({PREFIX + name: value})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_settings({}).tenant = "other"  # type: ignore[misc]


def test_a_slip_of_the_pen_is_found_and_secrets_are_none() -> None:
    environment = {
        "EMBEDMILL_TENNANT": "x",
        "EMBEDMILL_TENANT": "x",
        "EMBEDMILL_OPENAI_API_KEY": "x",
        "EMBEDMILL_MY_TOKEN": "x",
        "PATH": "x",
    }
    assert unknown_variables(environment) == ["EMBEDMILL_TENNANT"]


def test_a_secret_is_read_by_the_name_of_its_variable() -> None:
    environment = {"MY_API_KEY": "sesame", "EMPTY_API_KEY": ""}
    assert read_secret("MY_API_KEY", environment) == "sesame"
    assert read_secret("EMPTY_API_KEY", environment) is None
    assert read_secret("OTHER_TOKEN", environment) is None


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" sesame\n")
    assert read_secret("MY_API_KEY", {"MY_API_KEY_FILE": str(file)}) == "sesame"
    assert read_secret("MY_API_KEY", {"MY_API_KEY": "direct", "MY_API_KEY_FILE": str(file)}) == "direct"
    with pytest.raises(ConfigurationError, match="MY_API_KEY_FILE"):
        read_secret("MY_API_KEY", {"MY_API_KEY_FILE": str(tmp_path / "missing")})


@pytest.mark.parametrize("name", ["HOME", "AWS_SECRET_ACCESS", "api_key", "API_KEY_OF_MINE", "", "X;API_KEY"])
def test_nothing_but_keys_and_tokens_can_be_read_as_a_secret(name: str) -> None:
    """A pipeline names the variable of its key, and its server gets what stands there."""
    with pytest.raises(ConfigurationError):
        read_secret(name, {name: "private"})


def test_the_reference_lists_exactly_the_settings_that_there_are() -> None:
    documented = set(re.findall(r"`EMBEDMILL_([A-Z_]+)`", REFERENCE.read_text("utf-8")))
    names = {field.name.upper() for field in msgspec.structs.fields(Settings)}
    assert names <= documented, f"not in the reference: {sorted(names - documented)}"
    others = {name for name in documented - names if not re.fullmatch(r"TEST_.*|.*(API_KEY|TOKEN)", name)}
    assert others == set(), f"in the reference only: {sorted(others)}"
