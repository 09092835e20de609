"""The systemd unit: held against systemd's own judgement, and its filter against what filegate calls. systemd itself does not run here."""

import os
import re
import signal
from pathlib import Path

from compose import environment_file
from kit import DEPLOY, SAMPLES, Gateway, call, check, equal, holds, replaced

UNIT = DEPLOY / "systemd" / "filegate.service"
# What systemd thinks is exposed, times ten; a network service cannot do without 0.8.
EXPOSURE_MAX = 15
NOBODY = 65534


def setting(name):
    """The values of a setting of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), flags=re.M)


def unit(context):
    """The unit with the path of the program that is here."""
    path = context.directory("unit") / "filegate.service"
    path.write_text(replaced(UNIT.read_text(), ("/usr/local/bin/filegate", str(context.filegate))))
    return path


@check
def verify(context):
    """systemd: systemd-analyze verify finds nothing."""
    path = unit(context)
    done = call("systemd-analyze", "verify", "--recursive-errors=no", path)
    equal(done.stderr.strip(), "", "complaints")
    path.write_text(replaced(path.read_text(), ("NoNewPrivileges=", "NoNewPrivilege=")))
    done = call("systemd-analyze", "verify", "--recursive-errors=no", path, ok=False)
    holds("NoNewPrivilege" in done.stderr, "a misspelt word is found")


@check
def security(context):
    """systemd: systemd-analyze security calls it well enclosed."""
    path = unit(context)
    call("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", path)
    path.write_text("[Service]\nExecStart=/bin/true\n")
    done = call("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", path, ok=False)
    holds(done.returncode != 0, "a unit without any of it is not")


@check
def times_and_limits(context):
    """systemd: time to stop, descriptors and the directory are what filegate needs."""
    example = (DEPLOY.parent / "filegate.example.toml").read_text()
    shutdown = int(re.search(r'^shutdown = "(\d+)s"', example, flags=re.M).group(1))
    holds(int(setting("TimeoutStopSec")[0].rstrip("s")) > shutdown, "TimeoutStopSec is longer than limits.shutdown")
    connections = int(re.search(r"^connections_max = (\d+)", example, flags=re.M).group(1))
    holds(int(setting("LimitNOFILE")[0]) > 2 * connections, "descriptors for both listeners")
    equal(setting("Environment"), [f"FILEGATE_DATA_DIR=/var/lib/{setting('StateDirectory')[0]}"])
    equal(setting("Type"), ["exec"])
    equal(setting("Restart"), ["on-failure"])
    (user,) = setting("User")
    users = [line.split() for line in (DEPLOY / "systemd" / "filegate.sysusers").read_text().splitlines() if line[:1] != "#"]
    equal([(line[0], line[1], line[-1]) for line in users], [("u", user, "/var/lib/filegate")])
    # It would say so if it were not to be tried again with other settings.
    refused = call(context.filegate, "serve", "--listen", "nowhere", ok=False).returncode
    equal(setting("RestartPreventExitStatus"), [str(refused)], "the status for wrong settings")


@check
def environment(context):
    """systemd: filegate starts with the example of its environment, and knows what is commented out there."""
    path = DEPLOY / "systemd" / "filegate.env.example"
    settings = environment_file(path)
    for name in ("FILEGATE_LISTEN", "FILEGATE_ADMIN_LISTEN"):
        holds(settings.pop(name).startswith("127.0.0.1:"), name)
    gateway = Gateway(context, **settings)
    equal(gateway.get("/readyz")[0], 200)
    context.stop(gateway.process)
    help_text = call(context.filegate, "serve", "--help").stdout
    example = (DEPLOY.parent / "filegate.example.toml").read_text()
    for name in re.findall(r"^#FILEGATE_(\w+)=", path.read_text(), flags=re.M):
        word = name.lower().rpartition("__")[2]
        known = f"FILEGATE_{name}" in help_text or re.search(rf"^{word} = ", example, flags=re.M)
        holds(known, f"{name} is a setting")


def allowed():
    """The system calls that the unit's filter lets through."""
    sets, current = {}, None
    for line in call("systemd-analyze", "syscall-filter").stdout.splitlines():
        word = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
        if line[:1] == "@" or re.match(r"\x1b\[[0-9;]*m@", line):
            current = sets.setdefault(word, set())
        elif word and not word.startswith("#") and current is not None:
            current.add(word)

    def calls(name):
        return set().union(*(calls(word) if word.startswith("@") else {word} for word in sets[name]))

    result = set()
    for value in setting("SystemCallFilter"):
        for name in value.lstrip("~").split():
            found = calls(name) if name.startswith("@") else {name}
            result = result - found if value.startswith("~") else result | found
    return result


@check
def system_calls(context):
    """systemd: filegate makes no call that the filter refuses, and no memory that is written and executed."""
    trace = context.directory("trace") / "calls"
    trace.parent.chmod(0o777)
    # As a user without rights, as the unit has it: SQLite chowns when it is root.
    user = NOBODY if os.geteuid() == 0 else None
    gateway = Gateway(context, prefix=["strace", "-f", "-qq", "-o", trace], user=user)
    key = gateway.key("traced")
    environment = {"PATH": os.environ["PATH"], "FILEGATE_URL": f"http://{gateway.address}/minimax", "FILEGATE_KEY": key}
    command = [context.filegate, "--quiet"]
    big = context.directory("trace") / "big.txt"
    big.write_bytes(b"text\n" * 200_000)
    ids = [
        call(*command, "upload", path, "--purpose", purpose, env=environment).stdout.strip()
        for path, purpose in ((SAMPLES / "voice.mp3", "voice_clone"), (big, "retrieval"))
    ]
    call(*command, "get", ids[0], "-o", big.parent / "back", env=environment)
    call(*command, "rm", ids[0], env=environment)
    # strace keeps SIGTERM from itself and from what it traces: the gateway is told directly.
    (child,) = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    gateway.process.wait(60)
    lines = trace.read_text().splitlines()
    made = {match.group(1) for line in lines if (match := re.match(r"\d+ +([a-z]\w*)\(", line))}
    holds(len(made) > 40 and {"fdatasync", "accept4"} & made, f"a trace of a gateway at work: {sorted(made)}")
    equal(sorted(made - allowed()), [], "refused by the filter")
    both = [line for line in lines if re.search(r"(mmap|mprotect)\(.*PROT_(WRITE\|PROT_EXEC|EXEC\|PROT_WRITE)", line)]
    equal(both, [], "written and executed")
