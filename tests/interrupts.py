"""Invariant: an interrupt at any moment arrives as itself, and never leaves a connection deaf.

Python runs signal handlers in the main thread, between any two steps, and what they raise
comes out there. Here a timer interrupts a thread that is busy with a connection of
``koko.sync``, again and again, at random moments. After each interrupt the connection goes
on - what is sent comes back, nothing torn, nothing taken for a violation - or it says that
an interrupt has ended it; and ``close()`` returns in time. For what fails, the line that
was hit is printed.

    python -m tests.interrupts [--trials 1000] [--seed 1] [KIND ...]

A kind is a codec, a way and a verb: native-tls-send.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

CODECS = ("native", "pure")
WAYS = ("plain", "tls", "compressed")
VERBS = ("recv", "send", "ping", "close", "streams")

CLOSE_TIMEOUT = 1.0
IN_TIME = CLOSE_TIMEOUT + 10.0  # what a close() may take, on a busy machine
HUNG = 60.0  # seconds after which a trial hangs: all stacks are printed
MOMENTS = 0.003  # seconds within which an interrupt comes
TEXT = "".join(map(chr, range(0xC0, 0x140)))


class Interrupt(BaseException):
    """What the signal handler raises."""


class Failure(Exception):
    """What must not be."""


# One kind, in a process of its own


class Alarm:
    """Interrupts this thread once, after a while; remembers what was hit."""

    def __init__(self, moments: random.Random) -> None:
        self._moments = moments
        self._armed = False
        self.hit: list[str] = []
        signal.signal(signal.SIGALRM, self._ring)

    def arm(self) -> None:
        self.hit = []
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, self._moments.uniform(1e-5, MOMENTS))

    def disarm(self) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        self._armed = False
        while frame is not None:
            name = Path(frame.f_code.co_filename).name
            self.hit.append(f"{name}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        raise Interrupt


class Trials:
    """Trials of one kind on connections to one server."""

    def __init__(self, url: str, way: str, verb: str, seed: str, certificate: str) -> None:
        from koko.sync import Dialer

        self._random = random.Random(seed)
        self._alarm = Alarm(self._random)
        context = ssl.create_default_context(cafile=certificate) if way == "tls" else None
        self._dialer = Dialer(
            proxy=None, ssl=context, compression=way == "compressed", close_timeout=CLOSE_TIMEOUT
        )
        self._url = url
        self._verb = verb
        self._numbers = itertools.count()
        self.outcomes: Counter[str] = Counter()
        self.conn = self._dial()

    def run(self) -> None:
        """Try once: interrupt, look whether the connection goes on, close it now and then."""
        faulthandler.dump_traceback_later(HUNG, exit=True)
        self._interrupt()
        outcome = "closed"
        if self._verb != "close":
            outcome = self._goes_on()
        self.outcomes[outcome] += 1
        if outcome != "went on" or self._random.random() < 0.05:
            self._close()
            self.conn = self._dial()
        faulthandler.cancel_dump_traceback_later()

    @property
    def hit(self) -> str:
        return " < ".join(self._alarm.hit[:4])

    def _dial(self):
        return self._dialer.dial(self._url)

    def _interrupt(self) -> None:
        work: Callable[[], object] = getattr(self, f"_{self._verb}")
        try:
            self._alarm.arm()
            while not self._alarm.hit:
                work()
            # What falls into a finalizer, after the verb, Python itself ignores.
            if any(f"_{self._verb}" in line for line in self._alarm.hit):
                raise Failure("it did not arrive")
        except Interrupt:
            pass
        except Failure:
            raise
        except BaseException as error:
            raise Failure(f"it came as {error!r}") from error
        finally:
            self._alarm.disarm()

    def _send(self) -> None:
        self.conn.send("skip" + TEXT * self._random.choice([1, 1, 1, 40, 2000]))

    def _recv(self) -> None:
        self.conn.send("flood")
        for _ in range(20):
            self._check(self.conn.recv())

    def _ping(self) -> None:
        self.conn.ping()

    def _streams(self) -> None:
        with self.conn.next_writer(1) as writer:
            for _ in range(self._random.choice([1, 3])):
                writer.write("echo" + TEXT * 30)
        _, reader = self.conn.next_reader()
        while reader.read(999):
            pass

    def _close(self) -> None:
        conn, began = self.conn, time.monotonic()
        try:
            conn.close()
        finally:
            if self._verb == "close":  # under fire
                self.conn = conn if self._alarm.hit else self._dial()
        self._in_time(began)

    def _goes_on(self) -> str:
        from koko import CloseError

        token = f"echo {next(self._numbers)}"
        try:
            self.conn.send(token, timeout=10)
            while (message := self.conn.recv(timeout=10)) != token:
                self._check(message)
        except CloseError as error:
            if "interrupt" not in str(error) and "cut off" not in str(error):
                raise Failure(f"the connection ended: {error!r}") from error
            return "said why not"
        except BaseException as error:
            raise Failure(f"the connection does not go on: {error!r}") from error
        return "went on"

    def _check(self, message: str | bytes) -> None:
        if not isinstance(message, str) or not message.startswith(("echo", "flood")):
            raise Failure(f"it received {message!r:.80}")

    def _in_time(self, began: float) -> None:
        if time.monotonic() - began > IN_TIME:
            raise Failure(f"close() took {time.monotonic() - began:.1f} s")


def kind_main(way: str, verb: str, url: str, trials: int, seed: int, certificate: str) -> int:
    from koko.core.codec import IMPLEMENTATION

    kind, failures = f"{IMPLEMENTATION}-{way}-{verb}", 0
    work = Trials(url, way, verb, f"{seed} {kind}", certificate)
    for _ in range(trials):
        try:
            work.run()
            if verb == "close":
                finish_close(work)
        except Failure as failure:
            failures += 1
            print(f"FAIL {kind}: {failure}; hit {work.hit}", flush=True)
            work.conn.abort()
            work.conn = work._dial()
    said = ", ".join(f"{count} {what}" for what, count in sorted(work.outcomes.items()))
    print(f"{kind}: {said}{f', {failures} FAILED' if failures else ''}", flush=True)
    work.conn.abort()
    return failures


def finish_close(work: Trials) -> None:
    """Close what was interrupted in its close(): that ends in time, too."""
    began = time.monotonic()
    work.conn.close()
    work._in_time(began)
    work.conn = work._dial()


def serve_main(certificate: str) -> None:
    """Serve what the trials talk to, on two ports: plain and with TLS."""
    from koko.sync import Server, Upgrader

    def answer(conn):
        for message in conn:
            if message == "flood":
                for number in range(20):
                    conn.send(f"flood {number} {TEXT}")
            elif message.startswith("echo"):
                conn.send(message)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    upgrader = Upgrader(compression=True)
    with (
        Server(answer, "127.0.0.1", upgrader=upgrader) as plain,
        Server(answer, "127.0.0.1", upgrader=upgrader, ssl=context) as secure,
    ):
        print(plain.address[1], secure.address[1], flush=True)
        sys.stdin.read()


# All kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        certificate = str(Path(folder) / "certificate.pem")
        make_certificate(certificate)
        ports = {}
        servers = []
        for codec in CODECS:
            server = start(codec, "serve", certificate, stdin=subprocess.PIPE)
            servers.append(server)
            ports[codec] = server.stdout.readline().split()
        failed = run_all(options, ports, certificate)
        for server in servers:
            server.communicate()
    print("every interrupt arrived, and no connection was left deaf" if not failed else "FAILED")
    return int(failed)


def run_all(options: argparse.Namespace, ports: dict, certificate: str) -> bool:
    """Run both codecs side by side, a process for each kind."""
    failed = False
    for way, verb in itertools.product(WAYS, VERBS):
        running = []
        for codec in CODECS:
            if options.kinds and f"{codec}-{way}-{verb}" not in options.kinds:
                continue
            scheme, port = ("wss", ports[codec][1]) if way == "tls" else ("ws", ports[codec][0])
            url = f"{scheme}://127.0.0.1:{port}"
            arguments = (way, verb, url, str(options.trials), str(options.seed), certificate)
            running.append(start(codec, "kind", *arguments))
        for process in running:
            said, _ = process.communicate()
            print(said, end="", flush=True)
            failed = failed or process.returncode != 0
    return failed


def start(codec: str, *arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--", *arguments],
        env=dict(os.environ, KOKO_CODEC=codec),
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )


def make_certificate(path: str) -> None:
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    pems = [issued.private_key_pem, *issued.cert_chain_pems, authority.cert_pem]
    Path(path).write_bytes(b"".join(pem.bytes() for pem in pems))


if __name__ == "__main__":
    if sys.argv[1:3] == ["--", "serve"]:
        serve_main(sys.argv[3])
        sys.exit()
    if sys.argv[1:3] == ["--", "kind"]:
        way, verb, url, trials, seed, certificate = sys.argv[3:]
        sys.exit(kind_main(way, verb, url, int(trials), int(seed), certificate) > 0)
    sys.exit(main())
