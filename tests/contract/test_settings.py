"""Settings: argument over environment over file over default; errors name the setting and where it came from."""

from dataclasses import fields
from pathlib import Path

import pytest

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings


def load(arguments=None, environ=None, config=None):
    return Settings.load(arguments, environ=environ or {}, config_file=config)


def test_each_layer_wins_over_the_one_below(tmp_path):
    """And None among the arguments means: not given."""
    config = tmp_path / "settings.toml"
    config.write_text('kafka_topic = "file"\nsegment_bytes = 70000\nenabled = false\n', encoding="utf-8")
    environ = {"SKILLAUDIT_KAFKA_TOPIC": "environment", "SKILLAUDIT_SEGMENT_BYTES": "80000"}
    assert load().kafka_topic == "skillaudit.events"
    assert load(config=config).kafka_topic == "file"
    assert load(environ=environ, config=config).kafka_topic == "environment"
    given = load({"kafka_topic": "argument", "segment_bytes": None}, environ, config)
    assert (given.kafka_topic, given.segment_bytes, given.enabled) == ("argument", 80000, False)
    assert load(environ={"SKILLAUDIT_CONFIG": str(config)}).kafka_topic == "file"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENABLED", "maybe"),
        ("SEGMENT_BYTES", "many"),
        ("SEGMENT_BYTES", "1.5"),
        ("SEGMENT_BYTES", "1"),
        ("OUTBOX_FSYNC", "sometimes"),
        ("KAFKA_SASL_PASSWORD_FILE", "/nowhere/at/all"),
    ],
)
def test_a_bad_value_is_named_with_its_origin(name, value):
    """Wrong type, out of bounds, none of the choices, unreadable."""
    with pytest.raises(SettingsError, match=name.lower()) as caught:
        load(environ={f"SKILLAUDIT_{name}": value})
    assert value in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", ["many", "1.5", ""])
def test_what_is_no_number_is_told_in_plain_words(value):
    """And not in those of the interpreter."""
    with pytest.raises(SettingsError, match="is not a whole number"):
        load({"segment_bytes": value})


@pytest.mark.parametrize("text", ["nope = 1", "enabled = 1.5", "segment_bytes = true", "= broken"])
def test_a_bad_file_is_named(tmp_path, text):
    """Unknown settings, wrong types and broken TOML."""
    config = tmp_path / "settings.toml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"settings\.toml"):
        load(config=config)


def test_an_unknown_argument_is_refused_and_a_foreign_variable_ignored():
    """The environment is shared with others, arguments are not."""
    with pytest.raises(SettingsError, match="'topic' in an argument"):
        load({"topic": "t"})
    assert load(environ={"SKILLAUDIT_SOMETHING_ELSE": "1"}) == load()


@pytest.mark.parametrize(
    ("word", "meaning"), [("1", True), ("Yes", True), ("on", True), ("0", False), ("FALSE", False)]
)
def test_switches(word, meaning):
    """In the usual words."""
    assert load(environ={"SKILLAUDIT_ENABLED": word}).enabled is meaning


def test_secrets_are_read_and_never_shown(tmp_path):
    """Neither by repr nor in what is printed; the file's line end is none of the password."""
    file = tmp_path / "password"
    file.write_text("hunter2\n", encoding="utf-8")
    settings = load({"kafka_sasl_password_file": file})
    assert settings.kafka_sasl_password == "hunter2"
    assert "hunter2" not in repr(settings)
    assert settings.printable()["kafka_sasl_password"] == "(set)"
    assert "hunter2" not in str(settings.printable())


def test_every_default_lies_within_its_own_bounds():
    """What is printed can be read back."""
    printed = load({"data": Path("/data")}).printable()
    assert load({k: v for k, v in printed.items() if v}).printable() == printed
    assert set(printed) == {field.name for field in fields(Settings)}


def test_places_follow_the_data_directory():
    """Unless a database file is named."""
    settings = load({"data": "/data"})
    assert settings.database == Path("/data/audit.duckdb")
    assert (settings.outbox_dir, settings.archive_dir) == (Path("/data/outbox"), Path("/data/archive"))
    assert load({"data": "/data", "db_file": "/elsewhere.db"}).database == Path("/elsewhere.db")


def test_topics_and_the_broker():
    """Several topics by comma; a broker's address switches Kafka on."""
    settings = load({"kafka_topic": "a, b,", "kafka_bootstrap_servers": "h:1"})
    assert settings.kafka_topics == ("a", "b")
    assert settings.uses_kafka
    assert not load().uses_kafka


def test_the_data_directory_stays_where_it_is(monkeypatch, tmp_path):
    """A relative one is where the process was then; an empty one is the default."""
    monkeypatch.chdir(tmp_path)
    settings = load({"data": "here"})
    monkeypatch.chdir("/")
    assert settings.outbox_dir == tmp_path / "here" / "outbox"
    assert load(environ={"SKILLAUDIT_DATA": ""}).data == load().data
