"""Two domains of our own (tests/guests/pair) that talk over a static event channel and through grants."""

from harness import Failure, test

# The static channel: port 10 of the first domain, port 11 of the second.
CHANNEL = (
    'one: evtchn@1 { compatible = "xen,evtchn-v1"; xen,evtchn = <10 &two>; }; }; '
    'domU2 { two: evtchn@1 { compatible = "xen,evtchn-v1"; xen,evtchn = <11 &one>; };'
)
# Domains without privileges have to do with each other.
XEN = "console=dtuart dom0_mem=64M loglvl=all guest_loglvl=all xsm=dummy"


def start(t, *more, args="", xen=XEN, smp=2, boot=None, **other):
    """Boots both domains; `boot` instead of t.debian for another architecture."""
    return (boot or t.debian)(
        "--guest", "pair", "--no-dom0", "--dom0less", 2, "--domu-mem", "32M", "--mem", "256M", "--smp", smp,
        "--domu-first", CHANNEL, "--domu-props", 'xen,enhanced = "no-xenstore";', "--domu-args", (args + " pair=real-xen") if t.options.reference else args or "pair=plain", "--xen-cmdline", xen, *more, **other)


def lines(m, *wanted, timeout=90):
    """Waits for lines of both domains, in any order."""
    missing = set(wanted)
    while missing:
        found = m.expect(r"(pair-[ab]: [^\n]*)\n", timeout)[1]
        missing = {line for line in missing if not found.startswith(line)}
        if "PANIC" in found:
            raise Failure(found)


def both(t, smp, boot=None):
    m = start(t, smp=smp, boot=boot)
    lines(m, "pair-a: 2000 rounds", "pair-b: 2000 rounds", "pair-a: 20 times 16 pages and back",
          "pair-b: 20 times 16 pages and back", "pair-a: done", "pair-b: done")


for _smp in (1, 2, 3, 4):
    test(f"pair/{_smp}-cpus", "pair", cost=10)(lambda t, smp=_smp: both(t, smp))


@test("pair/granter-crashes", "pair", cost=10)
def granter_crashes(t, boot=None):
    """A domain crashes while another has its pages mapped, which goes on with them."""
    m = start(t, args="pair=a-crashes", boot=boot, allow=[r"[Cc]rash"])
    lines(m, "pair-a: crashes", "pair-b: survives", "pair-b: done")


def mapper_dies(t, how):
    m = start(t, args=f"pair={how}", allow=[r"[Cc]rash"])
    lines(m, "pair-b: ends", "pair-a: survives", "pair-a: done")


test("pair/mapper-crashes", "pair", cost=10)(lambda t: mapper_dies(t, "b-crashes"))
test("pair/mapper-ends", "pair", cost=10)(lambda t: mapper_dies(t, "b-ends"))


@test("pair/version-2", "pair ours", cost=10)
def version_two(t, boot=None):
    """Version 2 of the grant table where the command line allows it; the rest goes on in version 1."""
    m = start(t, args="pair=v2", boot=boot, xen=XEN + " gnttab=max-ver:2")
    lines(m, "pair-a: version 2 done", "pair-a: done", "pair-b: done")


@test("pair/silo", "pair", cost=10)
def silo(t):
    """By default domains without privileges may not map each other's grants; a static channel works all the same."""
    m = start(t, xen=XEN.replace("dummy", "silo"), allow=["PANIC"])
    m.expect(r"pair-b: up on [^\n]*\n", 60)
    m.expect(r"PANIC: [^\n]*control page: -8\r?\n|control page: -8\r?\n", 60)
