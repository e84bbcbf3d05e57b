r"""Makes digests.json: events of a few runs with all bytes that are hashed on the way, and the records that carry them.

Written from the format's description alone, with hashlib and string formatting; it must not import the project, or the
vectors would prove nothing. `python tests/vectors/make_digests.py` writes the file; a test says when it is stale.

    header    log     log SEQ AT T(event_type)
              start   start 0 AT T(parent_run_id) T(skill_id) SOURCE_ID SOURCE_SEQ
              finish  finish SEQ AT T(status) TOOL_CALLS RUNTIME_US IN OUT THINKING T(lost)
    T(x)      <bytes of x>:<x>
    salt      a hex half (even SEQ: first 32 digits, odd: last) of SHA-256("skillaudit salt 1\n" RUN_SALT "\n" SEQ/2 "\n")
    digest    SHA-256("skillaudit event 1\n" salt "\n" header "\n" body); its first 16 hex digits are the tag
    body      log: the payload; start, finish: per field a line "name DIGEST\n" of
              SHA-256("skillaudit field 1\n" FIELD_SALT "\n" name "\n" T(value)), FIELD_SALT the first 32 digits of
              SHA-256("skillaudit salt 1\n" RUN_SALT "\n" SEQ "." name "\n")
    manifest  "skillaudit run 1\n" T(run_id) "\n", then per event "header digest\n", and "lost 5-7\n" in the place of events
              that are declared lost; its SHA-256 through an event is the head there

Of runs of which content was taken out (`redacted`) there is besides what a database keeps of them: `stored` columns with the
run's salt gone, `redactions` with a digest for each place that was taken out, `run_salts` with the salts of all else. From
these alone the same headers, digests and heads come out.
"""

import json
from hashlib import sha256
from pathlib import Path

FILE = Path(__file__).parent / "digests.json"
AT = 1_763_800_000_000_000


def hexdigest(text):
    return sha256(text.encode()).hexdigest()


def t(text):
    return f"{len(text.encode())}:{text}"


def string(text):
    return json.dumps(text, ensure_ascii=False)


def members(pairs):
    """A JSON object in the given order; each value is JSON already."""
    return "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"


def event_salt(run_salt, seq):
    digits = hexdigest(f"skillaudit salt 1\n{run_salt}\n{seq // 2}\n")
    return digits[32:] if seq % 2 else digits[:32]


def field(run_salt, seq, name, value):
    salt = hexdigest(f"skillaudit salt 1\n{run_salt}\n{seq}.{name}\n")[:32]
    digest = hexdigest(f"skillaudit field 1\n{salt}\n{name}\n{t(value)}")
    return {"name": name, "value": value, "salt": salt, "digest": digest}


def ranges(numbers):
    """Numbers as ascending ranges [low, high]."""
    found = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def text_of(found):
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in found)


class Run:
    def __init__(self, name, run_id, salt, source_id, source_seq):
        self.name, self.run_id, self.salt = name, run_id, salt
        self.source_id, self.source_seq = source_id, source_seq
        self.manifest = f"skillaudit run 1\n{t(run_id)}\n"
        self.events, self.lost, self.next, self.columns = [], [], 0, []

    def _take(self, kind, at_us, header, body, fields=(), columns=()):
        seq = self.next
        before = [r for r in ranges(self.lost) if r[1] == seq - 1]
        for low, high in before:
            self.manifest += f"lost {text_of([[low, high]])}\n"
        salt = event_salt(self.salt, seq)
        digest = hexdigest(f"skillaudit event 1\n{salt}\n{header}\n{body}")
        self.manifest += f"{header} {digest}\n"
        self.next += 1
        event = {
            "kind": kind,
            "seq": seq,
            "at_us": at_us,
            "header": header,
            "salt": salt,
            "fields": list(fields),
            "body": body,
            "digest": digest,
            "tag": digest[:16],
            "head": hexdigest(self.manifest),
        }
        self.events.append(event)
        self.columns.append({"kind": kind, "seq": seq, "at_us": at_us, **dict(columns)})
        return event

    def lose(self, count):
        self.lost += range(self.next, self.next + count)
        self.next += count

    def start(self, skill, caller="", channel="", parent="", inputs="{}", attributes="{}", clock="boottime"):
        values = {"caller_id": caller, "channel_id": channel, "inputs": inputs, "attributes": attributes}
        fields = [field(self.salt, 0, name, value) for name, value in values.items()]
        body = "".join(f"{f['name']} {f['digest']}\n" for f in fields)
        header = f"start 0 {AT} {t(parent)} {t(skill)} {self.source_id} {self.source_seq}"
        columns = {"parent_run_id": parent, "skill_id": skill, "source_id": self.source_id}
        columns |= {"source_seq": self.source_seq, **values}
        event = self._take("start", AT, header, body, fields, columns)
        event["record"] = members(
            [
                ("v", 1),
                ("type", '"run.started"'),
                ("run_id", string(self.run_id)),
                ("seq", 0),
                ("at_us", AT),
                ("tag", f'"{event["tag"]}"'),
                ("skill_id", string(skill)),
                ("caller_id", string(caller)),
                ("channel_id", string(channel)),
                ("parent_run_id", string(parent)),
                ("salt", f'"{self.salt}"'),
                ("source_id", f'"{self.source_id}"'),
                ("source_seq", self.source_seq),
                ("clock", string(clock)),
                ("inputs", inputs),
                ("attributes", attributes),
            ]
        )
        return self

    def log(self, event_type, payload, after_us=1):
        at_us = self.events[-1]["at_us"] + after_us
        columns = {"event_type": event_type, "payload": payload}
        event = self._take("log", at_us, f"log {self.next} {at_us} {t(event_type)}", payload, (), columns)
        lost = [("lost", string(text_of(ranges(self.lost))))] if self.lost else []
        event["record"] = members(
            [
                ("v", 1),
                ("type", '"run.log"'),
                ("run_id", string(self.run_id)),
                ("seq", event["seq"]),
                ("at_us", at_us),
                ("tag", f'"{event["tag"]}"'),
                ("event_type", string(event_type)),
                *lost,
                ("payload", payload),
            ]
        )
        return self

    def finish(self, status, output="", error="", counts=(0, 0, 0, 0, 0), after_us=1):
        at_us = self.events[-1]["at_us"] + after_us
        seq, lost = self.next, text_of(ranges(self.lost))
        fields = [
            field(self.salt, seq, name, value) for name, value in (("output", output), ("error", error))
        ]
        body = "".join(f"{f['name']} {f['digest']}\n" for f in fields)
        numbers = " ".join(str(count) for count in counts)
        names = ("tool_calls", "runtime_us", "input_tokens", "output_tokens", "thinking_tokens")
        columns = {"status": status, **dict(zip(names, counts, strict=True)), "lost": lost}
        columns |= {"output": output, "error": error}
        header = f"finish {seq} {at_us} {t(status)} {numbers} {t(lost)}"
        event = self._take("finish", at_us, header, body, fields, columns)
        event["record"] = members(
            [
                ("v", 1),
                ("type", '"run.finished"'),
                ("run_id", string(self.run_id)),
                ("seq", seq),
                ("at_us", at_us),
                ("tag", f'"{event["tag"]}"'),
                ("status", string(status)),
                ("output", string(output)),
                ("error", string(error)),
                *zip(names, counts, strict=True),
                ("events", seq + 1),
                ("source_id", f'"{self.source_id}"'),
                ("source_seq", self.source_seq),
                ("head", f'"{event["head"]}"'),
                ("lost", string(lost)),
            ]
        )
        return self

    def vector(self):
        return {
            "name": self.name,
            "run_id": self.run_id,
            "salt": self.salt,
            "lost": text_of(ranges(self.lost)),
            "manifest": self.manifest,
            "events": self.events,
        }

    def without(self, *acts):
        """What a database keeps when these acts have taken content out: (act, [(number, field or None), ...]) each."""
        gone = {place: act for act, places in acts for place in places}
        redactions, salts, kept = [], [], []
        for event, columns in zip(self.events, self.columns, strict=True):
            seq, left = event["seq"], dict(columns)
            for name, salt, digest in [
                (None, event["salt"], event["digest"]),
                *((f["name"], f["salt"], f["digest"]) for f in event["fields"]),
            ]:
                if (seq, name) not in gone:
                    salts.append({"seq": seq, "field": name, "salt": salt})
                    continue
                act = gone[seq, name]
                redactions.append({"seq": seq, "field": name, "digest": digest, "act_id": act})
                is_text = name in {"caller_id", "channel_id", "output", "error"}
                column = name or "payload"
                left[column] = (
                    "[redacted]" if is_text else members([("_redacted", members([("act", string(act))]))])
                )
            kept.append({"stored": left, **{name: event[name] for name in ("header", "digest", "head")}})
        return {
            "name": self.name,
            "run_id": self.run_id,
            "lost": text_of(ranges(self.lost)),
            "acts": [{"act_id": act, "places": [list(place) for place in places]} for act, places in acts],
            "records": [event["record"] for event in self.events],
            "redactions": redactions,
            "run_salts": salts,
            "events": kept,
        }

    def places(self):
        """Everything that can be taken out."""
        for event in self.events:
            if event["kind"] == "log":
                yield event["seq"], None
            yield from ((event["seq"], field["name"]) for field in event["fields"])


def ascii_run():
    run = Run(
        "ascii", "0199f0a0-0000-7000-8000-000000000001", "00112233445566778899aabbccddeeff", "5" * 32, 1
    )
    run.start("support", "u-42", "web", inputs='{"q":"Where is my order?"}', attributes='{"model":"m-1"}')
    run.log("step", '{"model":"m-1","content":"Let me look.","input_tokens":12,"output_tokens":5}', 1500)
    run.log("tool_call", '{"name":"orders","call_id":"c1","arguments":{"id":7}}')
    run.log("tool_result", '{"name":"orders","call_id":"c1","content":"shipped","is_error":false}', 250_000)
    return run.finish("ok", "It is on its way.", "", (1, 251_502, 12, 5, 0))


def non_ascii_run():
    run = Run("non-ascii", "Lauf-Ünïcode-日本-🦆", "ffeeddccbbaa99887766554433221100", "a0" * 16, 2)
    run.start("übersetzen", "Jürgen", "チャット", inputs='{"text":"Grüße, 世界"}', attributes='{"ж":"é"}')
    run.log("schritt·é", '{"content":"naïve — 🦆\\u00e9"}')
    return run.finish("ok", "世界へ\u2028", "", (0, 1, 0, 0, 0))


def empty_run():
    """Everything that may be empty is; no log at all."""
    run = Run("empty", "r", "0" * 32, "0" * 32, 1)
    return run.start("", clock="").finish("", after_us=0)


def awkward_run():
    """Quotes, line ends and control characters, payloads as foreign encoders write them, the largest numbers."""
    run = Run(
        "awkward", 'a "run"\nwith\\all\tof it', "0123456789abcdef" * 2, "f" * 32, 9_223_372_036_854_775_807
    )
    run.start(
        'log 1 2 3:"', "\x00\x1f\x7f", "-", "0:\n", '{ "a" : 1.50,\n"a":[ ] }', '{"b":"\\ud83e\\udd86\\/"}'
    )
    run.log("", "{}", 0)
    run.log('tool "x"\n', '{ "n": 1E+2, "deep": [[[{}]]], "dup": 1, "dup": -0 }', 0)
    most = 9_223_372_036_854_775_807
    counts = (most, 86_400_000_001, most, most, most)
    return run.finish("budget\n", "line 1\r\nline 2\n", 'skillaudit event 1\n"', counts)


def child_run(parent):
    run = Run("child", "0199f0a0-0000-7000-8000-00000000000c", "89abcdef01234567" * 2, "5" * 32, 2)
    run.start("search", "u-42", "", parent.run_id, '{"q":"order 7"}')
    run.log("error", '{"type":"Timeout","message":"no answer in 5 s"}')
    return run.finish("timeout", "", "no answer in 5 s", (0, 5_000_000, 0, 0, 0))


def lossy_run():
    """Best effort: 3-5, 7 and, right before the finish, 9-10 are declared lost."""
    run = Run("lost", "0199f0a0-0000-7000-8000-0000000000f0", "fedcba9876543210" * 2, "6" * 32, 3)
    run.start("batch")
    run.log("step", '{"n":1}').log("step", '{"n":2}')
    run.lose(3)
    run.log("step", '{"n":6}')
    run.lose(1)
    run.log("step", '{"n":8}')
    run.lose(2)
    return run.finish("ok", counts=(0, 10, 0, 0, 0))


def long_run():
    run = Run("long", "long-1", "a5" * 16, "7" * 32, 12)
    run.start("agent", inputs='{"n":127}')
    for number in range(1, 128):
        kind = ("step", "tool_call", "tool_result")[number % 3]
        run.log(kind, f'{{"n":{number},"content":"{"x" * (number % 70)}"}}', number)
    return run.finish("error", "", "gave up", (42, 8128, 1000, 2000, 3000))


def redacted():
    """One payload, one field of the start and one of the finish were taken out; and everything of a run with a loss."""
    run = Run("redacted", "0199f0a0-0000-7000-8000-00000000000d", "0f1e2d3c4b5a6978" * 2, "5" * 32, 4)
    run.start("support", "u-42", "web", inputs='{"q":"my password is Ünïcode"}')
    run.log("step", '{"content":"Let me look."}', 1500).log("tool_result", '{"content":"yes"}')
    run.log("step", '{"content":"no"}').finish("ok", "It was yes.", "", (1, 1502, 12, 5, 0))
    yield run.without(("act-1", [(2, None)]), ("act-2", [(0, "inputs")]), ("act-3", [(4, "output")]))
    run = Run("erased", "0199f0a0-0000-7000-8000-00000000000e", "00f0" * 8, "6" * 32, 5)
    run.start("batch", "u-7", attributes='{"a":1}').log("step", '{"n":1}')
    run.lose(2)
    run.log("step", '{"n":4}').finish("error", "", "no", (0, 10, 0, 0, 0))
    yield run.without(("act-4", list(run.places())))


def text():
    parent = ascii_run()
    runs = [parent, non_ascii_run(), empty_run(), awkward_run(), child_run(parent), lossy_run(), long_run()]
    content = {"format": 1, "runs": [run.vector() for run in runs], "redacted": list(redacted())}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
