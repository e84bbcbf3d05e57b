"""Who reads Kafka's records for a check that holds events against them: the process that has the database open."""

from __future__ import annotations

from typing import Final

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings
from skillaudit.proof.verify.records import OpenRecords, Records

OWNER: Final = "the process that owns the database"


def require_kafka(settings: Settings, by: str) -> None:
    """Raise `SettingsError` where the settings name no Kafka."""
    if not settings.uses_kafka:
        raise SettingsError(
            f"records can't be held against Kafka: {by} has no kafka_bootstrap_servers; set it"
            " (SKILLAUDIT_KAFKA_BOOTSTRAP_SERVERS) to the cluster that the database was consumed from"
        )


def records_opener(settings: Settings, by: str) -> OpenRecords:
    """How a check opens the topics that these settings name. `by`: in whose name it reads."""

    def opened() -> Records:
        require_kafka(settings, by)
        from skillaudit.proof.kafka_records import KafkaRecords

        return KafkaRecords(settings, by=by)

    return opened
