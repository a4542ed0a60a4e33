"""The console that dom0 and the hypervisor share."""

import messages
from harness import Failure, test

SWITCH = "\x01\x01\x01"


def to_xen(m):
    m.send(SWITCH)
    m.expect(messages.INPUT_TO_XEN, 20)


@test("console/switch", "console debian")
def switch(t):
    """The keyboard goes to the hypervisor and comes back."""
    m = t.debian()
    m.login()
    to_xen(m)
    m.send("h")
    m.expect(messages.KEYS[0][1], 20)
    m.send(SWITCH)
    m.expect(messages.INPUT_TO_DOM0, 20)
    if m.shell("echo back").strip() != "back":
        raise Failure("dom0 does not answer after switching back")
    m.poweroff()


@test("console/keys", "console debian")
def keys(t):
    """The debug keys say something of their subject, and dom0 lives on."""
    m = t.debian()
    m.login()
    for key, words in messages.KEYS:
        to_xen(m)
        m.send(key)
        m.expect(words, 30)
        m.send(SWITCH)
        m.expect(messages.INPUT_TO_DOM0, 20)
    m.shell("true")
    m.poweroff()


@test("console/key-reboot", "console debian power")
def key_reboot(t):
    m = t.debian()
    m.login()
    to_xen(m)
    m.send("R")
    m.expect(messages.BANNER, 60)


@test("console/two-ctrl-a-are-dom0s", "console debian")
def two_ctrl_a(t):
    """Less than three belong to dom0: the shell gets them as what they are."""
    m = t.debian()
    m.expect(messages.DOM0_UP, 150)
    m.expect(messages.PROMPT, 30)
    # Ctrl-a twice: to the start of the line, where the rest is put.
    m.send("x42\x01\x01echo y\n")
    m.expect(r"\nyx42\n", 20)


@test("console/long-output", "console debian", cost=20)
def long_output(t):
    """Nothing of a flood of output is lost or out of order."""
    m = t.debian()
    m.login()
    out = m.shell("i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done", 120)
    got = out.split()
    want = [f"line-{i}" for i in range(3000)]
    if got != want:
        bad = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
        raise Failure(f"{len(got)} of {len(want)} lines, first wrong one: {bad}: {got[bad:bad + 2]}")


@test("console/paste", "console debian ours")
def paste(t):
    """A long line that is pasted at once arrives whole: what dom0 has not read yet waits in the UART."""
    import hashlib
    m = t.debian()
    m.login()
    m.send("IFS= read -r x; echo sum $(printf %s \"$x\" | md5sum)\n")
    m.expect(r"md5sum\)\n", 20)
    line = "".join(chr(33 + i * 7 % 90) for i in range(2048)).replace("\\", "/")
    m.send(line + "\n")
    got = m.expect(r"\nsum (\w+) ", 30, plain=True)[1]
    if got != hashlib.md5(line.encode()).hexdigest():
        raise Failure("dom0 got something else")
    # The debug keys are still there, and are not fed with the rest of a line.
    to_xen(m)
    m.send(SWITCH)
    m.expect(messages.INPUT_TO_DOM0, 20)
    m.poweroff()


@test("console/stuck-dom0", "console debian ours")
def stuck(t):
    """dom0 does not read: what is typed fills the queue, and yet CTRL-a three times reaches the hypervisor."""
    m = t.debian()
    m.login()
    m.send("stty -icanon -echo; kill -STOP $$\n")
    for _ in range(40):
        m.send("x" * 511 + "\n")
    to_xen(m)
    m.send("m")
    m.expect(messages.KEYS[4][1], 20)


@test("console/sync-and-timestamps", "console ours")
def options(t):
    m = t.debian("--xen-cmdline", "console=dtuart dom0_mem=256M sync_console console_timestamps=boot conring_size=64k loglvl=all")
    m.expect(r"\(XEN\) \[ *\d+\.\d+\] ", 60)
    m.login()
    m.poweroff()
