"""What the options of the schedulers do, seen in the trace."""

import json
import re
import statistics
import subprocess

import messages
from harness import TOP, Failure, test
from test_console import SWITCH, to_xen
from test_dom0 import require

XEN = "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all"


def key(m, letter, end, timeout=60):
    """Types a debug key; returns what it printed up to `end`."""
    to_xen(m)
    start = m.pos
    m.send(letter)
    m.expect(end, timeout)
    text = m.text[start:m.pos]
    m.send(SWITCH)
    m.expect(messages.INPUT_TO_DOM0, 20)
    return text


def timeline(m):
    """The events of the last dump in the log."""
    m.log.flush()
    run = subprocess.run([TOP / "scripts/trace2json", m.log_path], capture_output=True, text=True)
    if run.returncode:
        raise Failure(f"scripts/trace2json failed: {run.stderr.strip()[-300:]}")
    events = json.loads(run.stdout)
    return events["traceEvents"] if isinstance(events, dict) else events


def slices(m):
    """How long (ms) dom0's vCPUs ran at a time; not what an interrupt cut to next to nothing."""
    events = timeline(m)
    return [event["dur"] / 1000 for event in events
            if event.get("ph") == "X" and re.fullmatch(r"d0v\d+", event.get("name", "")) and event["dur"] > 300]


def timeslice(t, options, expected):
    """Two busy vCPUs share a pCPU: each runs for a time slice."""
    m = t.debian("--xen-cmdline", f"{XEN} dom0_max_vcpus=2 maxcpus=1 trace=switch {options}")
    m.login()
    m.shell("for i in 1 2; do taskset $i timeout 8 sh -c 'while :; do :; done' & done; sleep 3; echo busy", 60)
    key(m, "T", r"\(XEN\) trace: end", 120)
    m.shell("wait", 60)
    m.poweroff()
    # The guest's own ticks (4 ms) end many early, by waking the other vCPU. Of the rest most last the whole slice.
    found = [round(length) for length in slices(m) if length > 4.5]
    require(len(found) > 20, f"only {len(found)} long slices in the trace")
    usual = statistics.mode(found)
    require(usual == expected, f"slices last {usual} ms, not {expected} ms")


for _options, _ms in [("sched=credit", 30), ("sched=credit sched_credit_tslice_ms=6", 6)]:
    test(f"sched/timeslice-{_ms}-ms", "sched debian ours", cost=25)(
        lambda t, options=_options, ms=_ms: timeslice(t, options, ms))


@test("sched/parameters", "sched debian ours", cost=15)
def parameters(t):
    """Good values are taken; of bad ones the default holds, and the console says so."""
    m = t.debian("--xen-cmdline", f"{XEN} sched_credit_tslice_ms=2000 sched_ratelimit_us=500 vcpu_migration_delay=1500")
    m.expect(r'\(XEN\) .*"sched_credit_tslice_ms=2000" is out of range: 30 holds\n', 30)
    m.login()
    text = key(m, "r", r"tslice \d+ ms.*\n")
    require("tslice 30 ms, ratelimit 500 us, migration delay 1500 us" in text, f"other parameters hold: {text[-300:]}")
    m.poweroff()


@test("sched/parameters-null", "sched debian ours", cost=15)
def parameters_null(t):
    m = t.debian("--xen-cmdline", f"{XEN} sched=null sched_ratelimit_us=500")
    m.expect(r'\(XEN\) .*"sched_ratelimit_us" has no effect on the scheduler null\n', 30)
    m.login()
    m.poweroff()


def waits(t, options):
    """How many traps of WFI or WFE a trace of an idle dom0 has, and how many of anything."""
    m = t.debian("--xen-cmdline", f"{XEN} trace=trap {options}")
    m.login()
    m.shell("for i in 1 2 3 4 5 6 7 8; do sleep 0.2; done", 30)
    key(m, "T", r"\(XEN\) trace: end", 120)
    m.poweroff()
    m.log.flush()
    run = subprocess.run([TOP / "scripts/trace2json", "--text", m.log_path], capture_output=True, text=True)
    return len(re.findall(r"trap wfi/wfe", run.stdout)), len(re.findall(r"trap ", run.stdout))


@test("sched/vwfi", "sched debian ours", cost=30)
def vwfi(t):
    """vwfi=native: an idle guest waits by itself, and is woken all the same."""
    trapped, others = waits(t, "vwfi=trap")
    require(trapped > 8, f"an idle dom0 traps {trapped} times in {others} traps")
    native, others = waits(t, "vwfi=native")
    require(native == 0 and others > 20, f"with vwfi=native {native} of {others} traps are WFI or WFE")
