"""The outbox as a machine of its own against lists: append, read, acknowledge, retire, reopen, crash, begin anew."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.outbox.support import append, read_all, settings

from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.outbox.acknowledgement import Acknowledgement, write_acknowledgement
from skillaudit.contract.outbox.directory import source_status
from skillaudit.contract.outbox.findings import DamageKind
from skillaudit.contract.outbox.layout import encode_line, segment_name, unpack_position
from skillaudit.contract.outbox.reader import SourceReader
from skillaudit.contract.outbox.retire import remove_source, retire_segments
from skillaudit.producer.outbox import OutboxLog

sizes = st.one_of(st.integers(0, 400), st.integers(10_000, 90_000))


@dataclass
class Model:
    """What one source should hold, and how far it was read and acknowledged."""

    directory: Path
    written: list[bytes] = field(default_factory=list)
    read: int = 0
    acknowledged: int = 0
    torn: bool = False
    reader: SourceReader | None = None


class OutboxMachine(RuleBasedStateMachine):
    """One writer after the other; a reader of each source that may be closed and opened at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.data = Path(tempfile.mkdtemp())
        self.archive = self.data / "archive"
        self.log = self.new_log()
        self.models: dict[str, Model] = {}
        self.count = 0

    def new_log(self) -> OutboxLog:
        return OutboxLog(settings(self.data, segment_bytes=65_536, record_bytes_max=100_000))

    def record(self, size: int) -> bytes:
        self.count += 1
        return b'{"at_us":%d,"x":"%b"}' % (self.count, b"x" * size)

    @rule(size=sizes)
    def append(self, size):
        record = self.record(size)
        append(self.log, record)
        self.current().written.append(record)

    @rule(items=st.lists(sizes, min_size=1, max_size=4))
    def append_many(self, items):
        records = [self.record(size) for size in items]
        self.log.append_many([("k", record, RecordKind.LOG) for record in records], wait_ms=0)
        self.current().written += records

    def current(self) -> Model:
        return self.models.setdefault(self.log.source_id, Model(self.log.source_dir))

    @precondition(lambda self: self.models)
    @rule(data=st.data(), records_max=st.integers(1, 10), bytes_max=st.sampled_from([1, 1_000, 200_000]))
    def read(self, data, records_max, bytes_max):
        model = self.choose(data)
        if model.reader is None:
            model.reader = SourceReader.resume(model.directory).reader
            model.read = model.acknowledged
        lines = model.reader.read(records_max, bytes_max)
        expected = model.written[model.read : model.read + len(lines)]
        assert [line.record for line in lines] == expected
        assert [line.line for line in lines] == list(range(model.read + 1, model.read + 1 + len(lines)))
        model.read += len(lines)
        if not lines:
            assert model.read == len(model.written)
            assert model.reader.finished == (model.directory != self.log.source_dir)
        kinds = {damage.kind for damage in model.reader.take_findings()}
        assert kinds <= ({DamageKind.UNFINISHED} if model.torn else set())

    def choose(self, data) -> Model:
        return self.models[data.draw(st.sampled_from(sorted(self.models)))]

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def acknowledge(self, data):
        model = self.choose(data)
        if model.reader is None:
            return
        ack = Acknowledgement(position=model.reader.position, records=model.reader.records)
        assert ack.records == model.read
        write_acknowledgement(model.directory, ack)
        model.acknowledged = model.read
        if model.directory == self.log.source_dir:
            self.log.notify_acknowledged(ack)
            assert self.log.backlog().records == len(model.written) - model.acknowledged

    @precondition(lambda self: self.models)
    @rule(data=st.data(), archived=st.booleans())
    def retire(self, data, archived):
        model = self.choose(data)
        ack = SourceReader.resume(model.directory).acknowledgement
        archive = self.archive if archived else None
        retire_segments(model.directory, ack, archive)
        live = model.directory == self.log.source_dir
        whole = ack.records == len(model.written) and not live
        if remove_source(model.directory, ack, archive):
            assert whole
            self.forget(model)
        else:
            assert live or not whole or model.torn

    def forget(self, model: Model) -> None:
        if model.reader is not None:
            model.reader.close()
        del self.models[model.directory.name]

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def reopen_the_reader(self, data):
        model = self.choose(data)
        if model.reader is not None:
            model.reader.close()
            model.reader = None

    @precondition(lambda self: self.log.position)
    @rule(torn=st.integers(0, 60))
    def crash(self, torn):
        """The process dies, in the middle of an append perhaps: nothing is cut, the lock is free."""
        model = self.current()
        number, byte = unpack_position(self.log.position)
        path = model.directory / segment_name(number)
        line = encode_line(self.record(100))[:torn]
        if byte + len(line) <= path.stat().st_size and line:
            with path.open("r+b") as file:
                file.seek(byte)
                file.write(line)
            model.torn = True
        self.log._source.release()
        self.log = self.new_log()

    @precondition(lambda self: self.log.position)
    @rule()
    def close(self):
        assert self.log.close(0).pending == len(self.current().written) - self.current().acknowledged
        self.log = self.new_log()

    @invariant()
    def backlog_is_counted(self):
        for model in self.models.values():
            status = source_status(model.directory)
            waiting = len(model.written) - model.acknowledged
            assert status.backlog_records == waiting

    def teardown(self):
        """In the end everything that was appended and not acknowledged is read, in order, once."""
        self.log.close(0)
        for model in self.models.values():
            if model.reader is not None:
                model.reader.close()
            found = read_all(SourceReader.resume(model.directory).reader)
            assert found.records == model.written[model.acknowledged :]
            assert found.finished
        shutil.rmtree(self.data)


OutboxMachine.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=30, deadline=None)
TestOutbox = OutboxMachine.TestCase
