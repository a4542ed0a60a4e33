#!/usr/bin/env python3
"""Tests of scripts/trace2json: python3 -m unittest discover tests/trace (scripts/test trace)."""

import base64
import json
import random
import struct
import subprocess
import sys
import unittest
import xml.etree.ElementTree
import zlib
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "scripts/trace2json"

# What the hypervisor's own test expects its dump to be (hypervisor/core/src/trace/tests.rs).
FROM_RUST = """\
(XEN) TRACE v1 h 0001 WFRSQwEAGACgrLkDBAAAAGMAAAAAAAAA c4add25e
(XEN) TRACE v1 s 0001 AwAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA 4245f3e8
(XEN) TRACE v1 r 0001 0003 00000000 6AMAAAAAAAABAwMAAQACAAAAAAAHAAAA f718bff0
"""

SWITCH, MIGRATE, RUNSTATE, TRAP, ENTER, INTERRUPT, INJECT, HYPERCALL, HYPERCALL_END, WAKE, SEND_IPI = (
    0x001, 0x002, 0x101, 0x201, 0x202, 0x301, 0x302, 0x401, 0x402, 0x501, 0x601,
)  # fmt: skip
IDLE = (0x7FFF, 0)
NONE = 0x7FFF0000


def header(frequency=1_000_000_000, cpus=2, boot=0, version=1, size=24):
    return struct.pack("<4sHHIHHQ", b"XTRC", version, size, frequency, cpus, 0, boot)


def record(time, code, cpu, who, a=0, b=0):
    return struct.pack("<QHHHHII", time, code, cpu, *who, a, b)


def section(cpu, count, first=0):
    return struct.pack("<HHIQQ", cpu, 0, count, first, 0)


def line(text):
    return f"(XEN) {text} {zlib.crc32(text.encode()):08x}\n"


def encode(data):
    return base64.b64encode(data).decode()


def log(records, dump=1, first=None, head=None):
    """Returns the lines of a dump of {pcpu: [records]}."""
    lines = [line(f"TRACE v1 h {dump:04x} {encode(head or header())}")]
    for cpu, events in records.items():
        start = (first or {}).get(cpu, 0)
        lines.append(line(f"TRACE v1 s {dump:04x} {encode(section(cpu, len(events), start))}"))
        for i in range(0, len(events), 3):
            number = start + i & 0xFFFFFFFF
            lines.append(line(f"TRACE v1 r {dump:04x} {cpu:04x} {number:08x} {encode(b''.join(events[i : i + 3]))}"))
    return lines


def binary(records):
    return header() + b"".join(section(cpu, len(events)) + b"".join(events) for cpu, events in records.items())


def run(data, *words):
    data = data if isinstance(data, bytes) else "".join(data).encode()
    return subprocess.run([sys.executable, TOOL, *words], input=data, capture_output=True, check=False, timeout=60)


def events_of(data, *words):
    done = run(data, *words)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)["traceEvents"]


def rows(events):
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def slices(events, row):
    names = {name: key for key, name in rows(events).items()}
    pid, tid = names[row]
    return [(e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == (pid, tid)]


def instants(events, row):
    names = {name: key for key, name in rows(events).items()}
    return [(e["name"], e["ts"]) for e in events if e["ph"] == "i" and (e["pid"], e["tid"]) == names[row]]


# Two pCPUs: d0v0 runs, makes a hypercall and wakes d1v0 on the other one, which runs and blocks.
STORY = {
    0: [
        record(1000, SWITCH, 0, (0, 0), NONE),
        record(1000, RUNSTATE, 0, (0, 0), 0, 1),
        record(2000, TRAP, 0, (0, 0), 0x12, 0xC0100000),
        record(2100, HYPERCALL, 0, (0, 0), 32, 4),
        record(2300, WAKE, 0, (1, 0)),
        record(2300, RUNSTATE, 0, (1, 0), 1, 2),
        record(2350, SEND_IPI, 0, (0, 0), 0, 1),
        record(2500, HYPERCALL_END, 0, (0, 0), 32, 0xFFFFFFEA),
        record(2600, ENTER, 0, (0, 0)),
        record(5000, INTERRUPT, 0, (0, 0), 27),
        record(5100, INJECT, 0, (0, 0), 27),
    ],
    1: [
        record(3000, SWITCH, 1, (1, 0), NONE),
        record(3000, RUNSTATE, 1, (1, 0), 0, 1),
        record(4000, RUNSTATE, 1, (1, 0), 2, 0),
        record(4000, SWITCH, 1, IDLE, 1 << 16),
    ],
}


class Timelines(unittest.TestCase):
    def test_the_dump_of_the_hypervisor_is_understood(self):
        events = events_of(FROM_RUST)
        self.assertEqual(instants(events, "pCPU3"), [("interrupt 0", (1000 - 99) * 16 / 1000)])

    def test_a_row_for_each_pcpu_and_vcpu(self):
        events = events_of(log(STORY))
        self.assertEqual(sorted(rows(events).values()), ["d0v0", "d1v0", "pCPU0", "pCPU1"])
        self.assertEqual(slices(events, "pCPU0"), [("d0v0", 1.0, 4.1), ("trap hvc", 2.0, 0.6)])
        self.assertEqual(slices(events, "pCPU1"), [("d1v0", 3.0, 1.0)])
        self.assertEqual(slices(events, "d0v0"), [("running", 1.0, 4.1), ("event_channel_op", 2.1, 0.4)])
        self.assertEqual(slices(events, "d1v0"), [("blocked", 1.0, 1.3), ("runnable", 2.3, 0.7), ("running", 3.0, 1.0), ("blocked", 4.0, 1.1)])
        self.assertEqual(instants(events, "pCPU0"), [("IPI event check to pCPU1", 2.35), ("interrupt 27", 5.0)])
        self.assertEqual(instants(events, "d0v0"), [("inject 27", 5.1)])
        self.assertEqual(instants(events, "d1v0"), [("wake", 2.3)])
        call = next(e for e in events if e["name"] == "event_channel_op")
        self.assertEqual(call["args"], {"argument": "0x4", "result": -22})

    def test_a_file_says_the_same_as_a_log(self):
        self.assertEqual(events_of(binary(STORY)), events_of(log(STORY)))

    def test_lines_in_between_and_prefixes_do_not_matter(self):
        lines = log(STORY)
        head, rest = lines[:2], lines[2:]
        noisy = []
        for text in head + rest:
            noisy += ["(XEN) d0v0: something else\r\n", text.replace("(XEN) ", "(XEN) [    1.234567] ").replace("\n", "\r\n"), "\xff login: TRACE v1\n"]
        self.assertEqual(events_of(noisy), events_of(lines))

    def test_without_run_states_switches_make_the_slices_of_vcpus(self):
        events = events_of(log({0: [record(10, SWITCH, 0, (0, 1), NONE), record(50, SWITCH, 0, (0, 2), 1), record(90, SWITCH, 0, IDLE, 2)]}))
        self.assertEqual(slices(events, "d0v1"), [("running", 0.01, 0.04)])
        self.assertEqual(slices(events, "d0v2"), [("running", 0.05, 0.04)])
        self.assertEqual(slices(events, "pCPU0"), [("d0v1", 0.01, 0.04), ("d0v2", 0.05, 0.04)])

    def test_hypercalls_without_ends_are_instants(self):
        events = events_of(log({0: [record(10, HYPERCALL, 0, (0, 0), 29, 1)]}))
        self.assertEqual(instants(events, "d0v0"), [("hypercall sched_op 0x1", 0.01)])

    def test_unknown_events_are_shown(self):
        events = events_of(log({0: [record(10, 0x1F01, 0, (0, 0), 1, 2)]}))
        self.assertEqual(instants(events, "pCPU0"), [("event 0x1f01 0x1 0x2", 0.01)])

    def test_slices_of_a_row_nest(self):
        # Whatever a dump says: Perfetto refuses slices that overlap in part.
        for seed in range(30):
            rng = random.Random(seed)
            records = {}
            for cpu in range(3):
                time, records[cpu] = 0, []
                for _ in range(120):
                    time += rng.randrange(50)
                    code = rng.choice((SWITCH, RUNSTATE, TRAP, ENTER, HYPERCALL, HYPERCALL_END, WAKE))
                    who = rng.choice(((0, 0), (0, 1), (1, 0), IDLE))
                    a = rng.choice((0, 1, 0x10000, NONE)) if code == SWITCH else rng.randrange(6)
                    records[cpu].append(record(time, code, cpu, who, a, rng.randrange(6)))
            events = events_of(log(records))
            for row in rows(events).values():
                open_ends = []
                for name, start, duration in slices(events, row):
                    start, end = round(start * 1000), round((start + duration) * 1000)
                    while open_ends and open_ends[-1] <= start:
                        open_ends.pop()
                    self.assertTrue(not open_ends or end <= open_ends[-1], f"seed {seed}: {row} {name} at {start}")
                    open_ends.append(end)


class Losses(unittest.TestCase):
    def test_damaged_and_missing_lines_are_reported_and_marked(self):
        lines = log({0: [record(i * 10, INTERRUPT, 0, (0, 0), i) for i in range(12)]})
        lines[3] = lines[3].replace("0003", "0004", 1)
        done = run(lines)
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"3 records are missing from the dump, 1 lines are damaged", done.stderr)
        self.assertIn(("3 records missing", 0.06), instants(json.loads(done.stdout)["traceEvents"], "pCPU0"))

    def test_a_gap_hides_who_ran(self):
        events = [record(0, SWITCH, 0, (0, 0), NONE), record(10, ENTER, 0, (0, 0)), record(20, ENTER, 0, (0, 0))]
        events += [record(30, SWITCH, 0, (0, 1), 0)] * 3 + [record(60, ENTER, 0, (0, 2)), record(90, SWITCH, 0, IDLE, 2)]
        lines = log({0: events})
        del lines[3]
        self.assertEqual(slices(events_of(lines), "pCPU0"), [("d0v0", 0.0, 0.02), ("d0v2", 0.06, 0.03)])

    def test_overwritten_records_are_reported_and_numbers_wrap(self):
        first = (1 << 32) - 2
        lines = log({0: [record(i, INTERRUPT, 0, (0, 0), i) for i in range(7)]}, first={0: first})
        done = run(lines)
        self.assertIn(f"{first} older ones were overwritten".encode(), done.stderr)
        self.assertNotIn(b"warning", done.stderr)
        self.assertEqual(len(instants(json.loads(done.stdout)["traceEvents"], "pCPU0")), 7)

    def test_every_single_damage_is_noticed(self):
        lines = log({0: [record(1, WAKE, 0, (0, 0))]})
        whole = lines[2]
        for at in range(whole.index("r 0001"), len(whole) - 1):
            lines[2] = whole[:at] + chr(ord(whole[at]) ^ 1) + whole[at + 1 :]
            done = run(lines) if at % 8 == 0 else None
            if done:
                self.assertNotIn(b'"wake"', done.stdout, lines[2])


class Choices(unittest.TestCase):
    def test_of_several_dumps_the_last_or_the_chosen_one(self):
        one, two = log({0: [record(1, WAKE, 0, (1, 0))]}, dump=1), log({0: [record(1, WAKE, 0, (2, 0))]}, dump=0x1A)
        self.assertIn("d2v0", rows(events_of(one + two)).values())
        self.assertIn("d1v0", rows(events_of(one + two, "--dump", "1")).values())
        self.assertIn("d2v0", rows(events_of(one + two, "--dump=1a")).values())
        done = run(one + two, "--dump=3")
        self.assertEqual((done.returncode, b"--dump 1 or 1a" in done.stderr), (1, True))

    def test_a_dump_after_a_restart_replaces_the_first_of_its_name(self):
        one, two = log({0: [record(1, WAKE, 0, (1, 0))] * 5}), log({0: [record(1, WAKE, 0, (2, 0))]})
        self.assertNotIn("d1v0", rows(events_of(one + two)).values())

    def test_text(self):
        text = run(log(STORY), "--text").stdout.decode().splitlines()
        self.assertEqual(len(text), 15)
        self.assertEqual(text[0].split(), ["0.000001000", "pCPU0", "d0v0", "switch", "from", "idle"])
        self.assertTrue(any("event_channel_op = -22" in row for row in text))


    def test_a_part_of_the_time(self):
        events = events_of(log(STORY), "--from", "0.0022", "--to=0.0025")
        self.assertEqual(instants(events, "d1v0"), [("wake", 2.3)])
        self.assertEqual(slices(events, "d1v0"), [("blocked", 1.0, 1.3), ("runnable", 2.3, 0.7)])
        self.assertEqual(instants(events, "d0v0"), [])
        text = run(log(STORY), "--text", "--from", "0.005").stdout.decode().splitlines()
        self.assertEqual([row.split()[3] for row in text], ["interrupt", "inject"])

    def test_a_picture(self):
        done = run(log(STORY), "--svg")
        self.assertEqual(done.returncode, 0)
        root = xml.etree.ElementTree.fromstring(done.stdout)
        tag = "{http://www.w3.org/2000/svg}"
        labels = [text.text for text in root.iter(tag + "text")]
        self.assertEqual(labels[:4], ["pCPU0", "pCPU1", "d0v0", "d1v0"])
        # The background, and each slice.
        slices = sum(e["ph"] == "X" for e in events_of(log(STORY)))
        self.assertEqual(len(list(root.iter(tag + "rect"))), 1 + slices)
        for rect in list(root.iter(tag + "rect"))[1:]:
            self.assertGreaterEqual(float(rect.get("x")), 60)
            self.assertLessEqual(float(rect.get("x")) + float(rect.get("width")), 960.5)


class Errors(unittest.TestCase):
    def check(self, done, status, *words):
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertNotIn(b"Traceback", done.stderr)
        self.assertIn(b"try: ", done.stderr)
        for word in words:
            self.assertIn(word, done.stderr.decode())

    def test_what_is_no_dump(self):
        self.check(run(b""), 1, "no trace in standard input")
        self.check(run(b"(XEN) hello\n"), 1, "no trace")
        self.check(run(b"(XEN) TRACE v1 h 0001 AAAA 00000000\n"), 1, "only damaged lines")
        self.check(run(b"", "/nonexistent"), 1, "/nonexistent")
        self.check(run(binary(STORY), "-o", "/nonexistent/x"), 1, "cannot write")

    def test_what_is_not_understood(self):
        self.check(run(header(version=2)), 1, "version 2")
        self.check(run([line("TRACE v2 h 0001 AAAA")]), 1, "version 2")
        self.check(run(header(frequency=0)), 1, "0 Hz")
        self.check(run(header()[:10]), 1, "header")
        self.check(run(header() + b"123"), 1, "ends within a section")
        self.check(run(log(STORY)[1:]), 1, "header is missing")

    def test_a_cut_file_gives_what_is_there(self):
        done = run(binary({0: [record(1, WAKE, 0, (0, 0))] * 4})[:-30])
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"2 records are missing", done.stderr)

    def test_usage(self):
        self.check(run(b"", "--wrong"), 2, "unknown option")
        self.check(run(b"", "--dump", "zz"), 2, "hexadecimal")
        self.check(run(b"", "--output"), 2, "needs a value")
        self.check(run(b"", "--from", "soon"), 2, "no number")
        self.check(run(b"", "a", "b"), 2, "more than one")

    def test_noise_never_crashes(self):
        rng = random.Random(1)
        whole = binary(STORY)
        for _ in range(25):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 8)):
                data[rng.randrange(4, len(data))] = rng.randrange(256)
            done = run(bytes(data[: rng.randrange(4, len(data) + 1)]))
            self.assertIn(done.returncode, (0, 1))
            self.assertNotIn(b"Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
