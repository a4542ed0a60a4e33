"""A guest that attacks in every way it knows, beside one that behaves."""

import re

import messages
from harness import TARGET, Failure, test
from test_dom0less import SWITCH

GUEST = TARGET / "images/guest-hostile.zImage"
# The machine's own lines that the attacks may cause; a guest must not fill the log.
MOST_LINES = 200
ROUND = r"witness: round (\d+) is right\."


def require(condition, why):
    if not condition:
        raise Failure(why)


def witness(m, count, timeout=120):
    """Waits for so many more rounds of the witness."""
    for _ in range(count):
        m.expect(ROUND, timeout)


def attacks(m):
    """Follows the witness until the attacks are through. Returns the names of the classes."""
    while "hostile: all done; now at random." not in m.text:
        witness(m, 1)
    return re.findall(r"hostile: ([a-z0-9-]+) done\n", m.text)


def checked(m, names):
    """What must hold of the whole log."""
    require("WRONG" not in m.text, "the witness was harmed")
    require("ODD" not in m.text, "a hypercall gave what is no result")
    require(len(names) == len(set(names)) == 22, f"classes: {names}")
    survived = re.search(r"(\d+) of (\d+) exclusives survived a trap", m.text)
    require(survived is not None and survived[1] == "0", "the exclusive monitor is not cleared on the way to the guest")
    require("read-only: [-14, -14, -14] true" in m.text, "the hypervisor wrote where the guest may not")
    flips = re.search(r"(\d+) faults, (\d+) other results, (\d+) changes meanwhile", m.text)
    require(flips is not None and int(flips[3]) > 0, "the tables did not change")
    lines = len(re.findall(r"^\(XEN\) (?!\(d\d\))", m.text, re.M))
    require(lines < MOST_LINES, f"{lines} lines of the hypervisor's log")


@test("hostile/beside-a-witness", "hostile ours", cost=35, limit=400)
def beside_a_witness(t):
    """Two domains without dom0: after every class of attacks the other one still has its memory, timer and events."""
    m = t.debian(
        "--no-dom0", "--dom0less", 2, "--domu-cpus", 2, "--domu-mem", "32M", "--mem", "512M",
        # Without guest_loglvl=all: what guests cause has a limit then (XSA-118, 141, 146).
        "--xen-cmdline", "console=dtuart loglvl=all",
        "--domu-props", 'xen,enhanced = "no-xenstore";', "--kernel", GUEST, "--initrd", "none",
        # What becomes of it among random words is its own affair.
        allow=[r"\(XEN\) \(d1\)"])
    m.expect(r"witness: begins, events true\n", 60)
    names = attacks(m)
    witness(m, 12)
    checked(m, names)
    # Who has the keyboard depends on whether the attacker is still there.
    for _ in range(4):
        m.send(SWITCH)
        if m.expect(r"\(XEN\) .*Serial input to (\S+) ", 20)[1] == "Xen":
            break
    m.send("q")
    m.expect(r"General information for domain 2", 30)
    m.expect(ROUND, 60)
