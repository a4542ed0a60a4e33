"""Runs QEMU, watches its serial line, types at it. Python's standard library only.

A test waits for text, never for time: every wait has a bound, and ends early on
a message that no good run prints (messages.FORBIDDEN), when QEMU ends, or when
the line has been silent too long. What was on the line is kept in a log file.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import messages

TOP = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
LOGS = TARGET / "test-logs"
# Multiplies every bound: for slow machines, and by itself for busy ones. A good
# run never comes near its bounds, so being generous costs nothing.
SCALE = float(os.environ.get("XENITH_TEST_SCALE", 0)) or max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
# Set when the run is being given up: every wait ends.
ABORT = threading.Event()

CSI = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[78=>])")
XEN_LINE = re.compile(r"\(XEN\) [^\n]*\n")


class Failure(Exception):
    """A test did not see what it should; the text says what."""


class Skip(Exception):
    """A test cannot be run here; the text says why."""


def _die_with_parent():
    # QEMU must not outlive a harness that was killed. PR_SET_PDEATHSIG = 1.
    with contextlib.suppress(Exception):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


class Machine:
    """One QEMU with its serial line."""

    def __init__(self, command, log, *, limit=300, silence=90, allow=(), show=False):
        """Starts `command`.

        log: file that keeps the line. limit: seconds the whole machine may take.
        silence: seconds without output that end a wait. allow: regular
        expressions that make a forbidden line acceptable.
        """
        self.command = command
        self.log_path = Path(log)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log = open(self.log_path, "wb")
        self.log.write(("# " + shlex.join(command) + "\n").encode())
        self.show = show
        self.deadline = time.monotonic() + limit * SCALE
        self.silence = silence * SCALE
        self.forbidden = re.compile("|".join(f"(?:{p})" for p in messages.FORBIDDEN))
        self.allow = [re.compile(p) for p in allow]
        self.text = ""  # all so far, without escape sequences and carriage returns
        self.pos = 0  # what expect() has not consumed starts here
        self.checked = 0  # lines before this were looked at for forbidden words
        self.pending = b""
        self.lenient = False  # when a failure is being looked at
        self.started = self.heard = time.monotonic()
        # For post_mortem(); in a short path, as sockets need.
        self.sockets = tempfile.TemporaryDirectory(prefix="xenith-")
        qmp = ["-qmp", f"unix:{self.sockets.name}/qmp,server=on,wait=off"]
        self.qemu = subprocess.Popen(
            command + qmp, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            bufsize=0, start_new_session=True, preexec_fn=_die_with_parent)

    # --- reading ---------------------------------------------------------------
    def _read(self, wait):
        """Takes what QEMU wrote, after at most `wait` seconds. False at its end."""
        ready, _, _ = select.select([self.qemu.stdout], [], [], wait)
        if not ready:
            return True
        data = os.read(self.qemu.stdout.fileno(), 65536)
        if not data:
            return False
        self.heard = time.monotonic()
        self.log.write(data)
        self.log.flush()
        if self.show:
            os.write(2, data)
        # Only whole lines and the rest that cannot be an unfinished escape.
        self.pending += data
        cut = self.pending.rfind(b"\x1b")
        if cut >= 0 and len(self.pending) - cut < 12 and not CSI.match(self.pending[cut:].decode("latin-1")):
            part, self.pending = self.pending[:cut], self.pending[cut:]
        else:
            part, self.pending = self.pending, b""
        self.text += CSI.sub("", part.decode("utf-8", "replace")).replace("\r", "")
        self._check()
        return True

    def _check(self):
        end = self.text.rfind("\n") + 1
        for line in self.text[self.checked:end].splitlines():
            if self.forbidden.search(line) and not self.lenient and not any(a.search(line) for a in self.allow):
                self.checked = end
                raise Failure(f"forbidden message: {line.strip()[:200]}")
        self.checked = max(self.checked, end)

    def expect(self, pattern, timeout=60, plain=False):
        """Waits for a regular expression after the last match; returns the match.

        plain: takes the hypervisor's lines out first, as they may come in the
        middle of what the guest prints.
        """
        what = re.compile(pattern)
        until = time.monotonic() + timeout * SCALE
        self.heard = time.monotonic()
        ended = False
        while True:
            rest = self.text[self.pos:]
            found = what.search(XEN_LINE.sub("", rest) if plain else rest)
            if found:
                self.pos = len(self.text) if plain else self.pos + found.end()
                return found
            now = time.monotonic()
            if ended:
                killed = re.search(r"qemu-system-arm: terminating on signal \d+ from .*", rest)
                if killed:
                    raise Failure(f"somebody else ended this QEMU ({killed.group(0)})")
                raise Failure(f"QEMU ended (status {self.qemu.wait()}) before {pattern!r} came")
            if ABORT.is_set():
                raise Failure("given up")
            if now > until or now > self.deadline:
                raise Failure(f"{pattern!r} did not come within {timeout * SCALE:.0f} s"
                              + (" (the test's own limit)" if now > self.deadline else ""))
            if now - self.heard > self.silence:
                raise Failure(f"silent for {self.silence:.0f} s while waiting for {pattern!r}")
            ended = not self._read(0.5)

    def quiet_for(self, seconds, pattern):
        """Fails if `pattern` comes, or QEMU ends, within so many seconds."""
        what, until = re.compile(pattern), time.monotonic() + seconds
        while time.monotonic() < until:
            if not self._read(0.3):
                raise Failure(f"QEMU ended (status {self.qemu.wait()})")
            if what.search(self.text, self.pos):
                raise Failure(f"{pattern!r} came")

    def wait_exit(self, timeout=30, status=0):
        """Waits for QEMU to end by itself, with this exit status."""
        until = min(time.monotonic() + timeout * SCALE, self.deadline)
        while self._read(0.3):
            if time.monotonic() > until or ABORT.is_set():
                raise Failure(f"QEMU did not end within {timeout * SCALE:.0f} s")
        try:
            code = self.qemu.wait(10)
        except subprocess.TimeoutExpired:
            raise Failure("QEMU closed its output and did not end") from None
        if code != status:
            raise Failure(f"QEMU ended with status {code}, not {status}")

    # --- typing ------------------------------------------------------------------
    def send(self, text):
        """Types text as it is."""
        try:
            self.qemu.stdin.write(text.encode())
        except OSError:
            raise Failure("QEMU ended while typing") from None

    def login(self, timeout=150):
        """Waits for dom0's shell; returns the match of messages.DOM0_UP.

        The shell is then replaced by one without prompt and line editing, and the
        kernel keeps all but emergencies off the console.
        """
        up = self.expect(messages.DOM0_UP, timeout)
        self.expect(messages.PROMPT, 30)
        # The line editor drops what is typed before it gives the terminal back.
        self.send("dmesg -n 1; echo @@ready$((1))@@; while IFS= read -r l; do eval \"$l\"; done\n")
        self.expect(r"@@ready1@@\n", 30, plain=True)
        self.shell("true")
        return up

    def shell(self, command, timeout=30, check=True):
        """Runs a command line in dom0; returns its output, with check=False (status, output)."""
        line = "{ " + command + "; } </dev/null 2>&1; echo \"@@$?@@E\"\n"
        # A serial port has small buffers: each piece waits for its echo.
        for i in range(0, len(line), 48):
            piece = line[i:i + 48]
            self.send(piece)
            # A message may split the echo; then the pause alone has to do.
            with contextlib.suppress(Failure):
                self._echo(piece)
        found = self.expect(r"([\s\S]*?)@@(\d+)@@E\n", timeout, plain=True)
        output = found.group(1)
        # What precedes is the rest of the echo, up to its own end mark.
        mark = output.rfind('echo "@@$?@@E"\n')
        output = output[mark:].partition("\n")[2] if mark >= 0 else output
        status = int(found.group(2))
        if not check:
            return status, output
        if status:
            raise Failure(f"dom0: `{command}` gave status {status}: {output.strip()[-300:]}")
        return output

    def _echo(self, piece):
        want, until = piece.rstrip("\n"), time.monotonic() + 5 * SCALE
        while want not in XEN_LINE.sub("", self.text[self.pos:]):
            if time.monotonic() > until or not self._read(0.2):
                raise Failure("no echo")

    def poweroff(self):
        """Ends the machine from dom0's shell and checks QEMU's exit status."""
        self.send("poweroff -f\n")
        self.expect(messages.POWER_DOWN, 30)
        self.wait_exit(30)

    # --- the end -----------------------------------------------------------------
    def post_mortem(self):
        """Adds to the log what QEMU and the hypervisor say of a machine that hangs:
        the registers of all processors twice, then debug keys."""
        self.lenient = True
        if self.qemu.poll() is not None:
            return
        with contextlib.suppress(OSError, ValueError, Failure):
            line = socket.socket(socket.AF_UNIX)
            line.settimeout(5)
            line.connect(self.sockets.name + "/qmp")
            answers = line.makefile("r")

            def ask(command, **arguments):
                line.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
                while "return" not in (answer := json.loads(answers.readline())):
                    if "error" in answer:
                        return str(answer)
                return answer["return"]

            answers.readline()
            ask("qmp_capabilities")
            for n in (1, 2):
                text = ask("human-monitor-command", **{"command-line": "info registers -a"})
                text = re.sub(r"(?m)^(s\d\d=.*|FPSCR.*)\s*\n", "", text.replace("\r", ""))
                self.log.write(f"\n# --- registers, look {n} ---\n{text}".encode())
                time.sleep(0.2)
            line.close()
            self.log.write(b"\n# --- debug keys d, q, r ---\n")
            self.send("\x01\x01\x01dqr")
            until = time.monotonic() + 2
            while time.monotonic() < until and self._read(0.2):
                pass

    def tail(self, lines=30):
        """The last lines of the serial line, with what still comes: a backtrace, say."""
        self.lenient = True
        until = time.monotonic() + 1
        with contextlib.suppress(Failure, OSError, ValueError):
            while time.monotonic() < until and self._read(0.2):
                pass
        return "\n".join(self.text.splitlines()[-lines:])

    def close(self):
        """Ends this QEMU if it still runs."""
        if self.qemu.poll() is None:
            self.qemu.kill()
        self.qemu.wait()
        self.qemu.stdin.close()
        self.qemu.stdout.close()
        self.log.close()
        self.sockets.cleanup()


class Context:
    """What a test gets: makes machines, files, and cleans up after it."""

    def __init__(self, test, options, turn=1):
        self.test, self.options = test, options
        self.machines = []
        self.dir = LOGS / (test.name.replace("/", ".") + (f".{turn}" if turn > 1 else ""))
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)

    @property
    def image(self):
        """The hypervisor's zImage."""
        return Path(self.options.image)

    def file(self, name, data=b""):
        """Writes a file for this test and returns its path."""
        path = self.dir / name
        path.write_bytes(data)
        return path

    def start(self, command, **more):
        """Starts a QEMU command line as a Machine."""
        log = self.dir / ("console.log" if not self.machines else f"console-{len(self.machines) + 1}.log")
        more.setdefault("limit", self.test.limit)
        self.machines.append(Machine([str(c) for c in command], log, show=self.options.show, **more))
        return self.machines[-1]

    def run_command(self, *args):
        """The QEMU command that scripts/run would use with these arguments."""
        line = [TOP / "scripts/run", "--dry-run", "--no-build", "--no-monitor", *map(str, args)]
        # The image comes first, so that a test can choose another.
        if not any(str(a).startswith("--image") for a in args):
            line[1:1] = ["--image", str(self.image)]
        done = subprocess.run([str(a) for a in line], capture_output=True, text=True)
        if done.returncode:
            raise Failure("scripts/run: " + done.stderr.strip()[-400:])
        return shlex.split(done.stdout)

    def debian(self, *args, **more):
        """Starts Debian as dom0 with the options of scripts/run."""
        if self.options.reference and not any("--highmem" in str(a) for a in args):
            # Real Xen 4.17 hangs in dom0's PCI probe otherwise.
            args += ("--highmem", "off")
        return self.start(self.run_command(*args), **more)

    def guest_file(self, suite, item, arch="arm32"):
        """Path of a fetched file of Debian: see scripts/fetch-guest."""
        done = subprocess.run([TOP / "scripts/fetch-guest", "--arch", arch, "--suite", suite, "--print", item],
                              stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failure(f"scripts/fetch-guest {item} failed")
        return Path(done.stdout.strip())

    def initrd(self, suite="bookworm", arch="arm32"):
        """Path of the initramfs that scripts/run makes for a suite."""
        self.run_command("--arch", arch, "--suite", suite)
        return TARGET / "images" / f"dom0-{suite}{'' if arch == 'arm32' else '-' + arch}.cpio.gz"

    def close(self):
        for machine in self.machines:
            machine.close()


class Test:
    """A test function with its name, tags, estimated seconds and own limit."""

    def __init__(self, name, tags, cost, limit, function):
        self.name, self.tags, self.cost, self.limit, self.function = name, set(tags.split()), cost, limit, function


TESTS = {}


def test(name, tags="", cost=15, limit=300):
    """Registers a function as a test. Tag "ours": not for another hypervisor."""
    def register(function):
        assert name not in TESTS, name
        TESTS[name] = Test(name, tags, cost, limit, function)
        return function
    return register
