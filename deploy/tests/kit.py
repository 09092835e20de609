"""What the checks share: where things are, running programs, a gateway, and counting."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent.parent
ROOT = DEPLOY.parent
SAMPLES = ROOT / "samples"

CHECKS = []
GIVEN = set()


def check(function):
    """A check: it passes if it returns, and its doc string is its name."""
    CHECKS.append(function)
    return function


def run_all(context, word):
    """Runs the checks with `word` in their names, in order, and prints the counts. True if all passed."""
    failed = []
    chosen = [function for function in CHECKS if word in function.__doc__]
    for function in chosen:
        name = function.__doc__.strip().rstrip(".")
        started = time.monotonic()
        try:
            function(context)
        except Exception:
            failed.append(name)
            print(f"FAILED  {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
        else:
            print(f"ok      {name} ({time.monotonic() - started:.1f} s)", flush=True)
    for name in failed:
        print(f"failed: {name}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed", flush=True)
    return bool(chosen) and not failed


def equal(actual, expected, what=""):
    """Fails with both values."""
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r} is not {expected!r}")


def holds(condition, what):
    """Fails with what was to hold."""
    if not condition:
        raise AssertionError(what)


def replaced(text, *pairs):
    """`text` with each (old, new); an old that is not there is a failure, so that files and checks stay in step."""
    for old, new in pairs:
        holds(old in text, f"nothing to replace: {old!r}")
        text = text.replace(old, new)
    return text


def eventually(question, what, seconds=20):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        holds(time.monotonic() < end, f"not within {seconds} s: {what}")
        time.sleep(0.05)


def free_port():
    """A port that nobody has, and that the kernel gives to nobody who asks for any."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in GIVEN:
                GIVEN.add(port)
                return port


def accepts(port):
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def call(*command, stdin=None, env=None, ok=True, **options):
    """Runs a program to its end and returns its output."""
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    if ok and done.returncode != 0:
        raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Context:
    """The program, a directory for everything, and what has to be stopped at the end."""

    def __init__(self, filegate, compose_schema):
        self.home = Path(tempfile.mkdtemp(prefix="filegate-deploy-"))
        self.home.chmod(0o755)
        # A copy that other users can reach, too: some checks run it as one.
        self.filegate = self.home / "filegate"
        shutil.copyfile(filegate, self.filegate)
        self.filegate.chmod(0o755)
        self.compose_schema = Path(compose_schema)
        self.processes = []
        self._gateway = None

    def directory(self, name):
        """A fresh directory."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.home))

    def start(self, command, log, **options):
        """Starts a program that runs until the end of the checks, or until `stop`."""
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **options,
            )
        self.processes.append(process)
        return process

    def stop(self, process):
        """SIGTERM, and SIGKILL for what does not listen."""
        if process in self.processes:
            self.processes.remove(process)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def gateway(self):
        """One gateway for all checks that need any. It trusts what 127.0.0.1 says of its clients."""
        if self._gateway is None:
            self._gateway = Gateway(self, FILEGATE_NETWORK__TRUSTED_PROXIES='["127.0.0.1/32"]')
        return self._gateway

    def close(self):
        """Stops everything and removes it."""
        for process in reversed(self.processes[:]):
            self.stop(process)
        shutil.rmtree(self.home, ignore_errors=True)


class Gateway:
    """A running filegate."""

    def __init__(self, context, prefix=(), user=None, **settings):
        self.context = context
        self.data = context.directory("data")
        if user is not None:
            os.chown(self.data, user, user)
        self.log = context.home / f"{self.data.name}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "FILEGATE_LISTEN": "127.0.0.1:0",
            "FILEGATE_ADMIN_LISTEN": "127.0.0.1:0",
            "FILEGATE_DATA_DIR": str(self.data),
        }
        environment.update(settings)
        self.process = context.start(
            [*prefix, context.filegate, "serve"], self.log, env=environment, user=user, cwd=self.data
        )

        def started():
            holds(self.process.poll() is None, f"filegate ended:\n{self.log.read_text()}")
            return re.search(r"listening on http://(\S+) \(operators: http://(\S+)\)", self.log.read_text())

        self.address, self.admin = eventually(started, "filegate listens").groups()
        self.port = int(self.address.rpartition(":")[2])
        token = re.search(r"fg-admin-\S+", self.log.read_text())
        self.token = token.group() if token else None

    def command(self, *words, ok=True):
        """An operator's command, with the admin token."""
        environment = {
            "PATH": os.environ["PATH"],
            "FILEGATE_ADMIN_URL": f"http://{self.admin}",
            "FILEGATE_ADMIN_TOKEN": self.token,
        }
        return call(self.context.filegate, *words, env=environment, ok=ok).stdout

    def rows(self, *words):
        """The rows of a listing command."""
        return [json.loads(line) for line in self.command("--json", *words).splitlines()]

    def key(self, name, *words):
        """A fresh key."""
        return self.command("key", "create", "--name", name, *words).strip()

    def get(self, path, admin=False):
        """Status and body of a GET."""
        return get(f"http://{self.admin if admin else self.address}{path}")


def get(url):
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def paragraphs(size):
    """Plain text of `size` bytes."""
    line = b"The quick brown fox jumps over the lazy dog, again and again and again.\n"
    return (line * (size // len(line) + 1))[:size]
