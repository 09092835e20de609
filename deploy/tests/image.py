"""The Dockerfile: linted, its sources held against .dockerignore, its commands tried. No image is built: that needs a daemon."""

import json
import os
import re
import shlex
import shutil
import tomllib

from kit import DEPLOY, ROOT, call, check, equal, holds

DOCKERFILE = DEPLOY / "Dockerfile"


def instructions():
    """The Dockerfile as (instruction, arguments), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]


def copied():
    """What is copied from the repository."""
    sources = []
    for name, arguments in instructions():
        words = [word for word in arguments.split() if not word.startswith("--")]
        if name == "COPY" and "--from=" not in arguments:
            sources += words[:-1]
    return sources


def sent():
    """What .dockerignore lets through to the builder: its `!` lines, after a `*`."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    equal(lines[0], "*", "the first rule of .dockerignore")
    holds(all(line.startswith("!") for line in lines[1:]), "after it only what is let through")
    return [line[1:] for line in lines[1:]]


@check
def lint(context):
    """Dockerfile: hadolint finds nothing."""
    call("hadolint", "--failure-threshold", "info", DOCKERFILE)


@check
def scripts(context):
    """scripts: shellcheck finds nothing."""
    call("shellcheck", DEPLOY / "compose" / "secrets", DEPLOY / "test")


@check
def conventions(context):
    """Dockerfile: two stages, a numeric user, SIGTERM, only the clients' port."""
    stages = [arguments for name, arguments in instructions() if name == "FROM"]
    equal(len(stages), 2, "stages")
    toolchain = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    holds(stages[0].startswith(f"rust:{toolchain}-"), f"the builder is Rust {toolchain}, as in Cargo.toml: {stages[0]}")
    builder, runtime = (re.search("bookworm|trixie", stage).group() for stage in stages)
    equal(builder, runtime, "one glibc for both")
    last = dict(instructions())
    holds(re.fullmatch(r"[1-9]\d+:[1-9]\d+", last["USER"]), last["USER"])
    equal(last["STOPSIGNAL"], "SIGTERM")
    equal([arguments for name, arguments in instructions() if name == "EXPOSE"], ["8080"], "exposed")
    equal(last["ENTRYPOINT"], '["filegate"]')
    equal(last["CMD"], '["serve"]')


@check
def context_is_enough(context):
    """Dockerfile: cargo resolves the workspace from what is copied, and every included file is among it."""
    allowed = sent()
    tree = context.directory("context")
    for source in copied():
        holds((ROOT / source).exists(), f"{source} is not there")
        holds(any(source == rule or source.startswith(f"{rule}/") for rule in allowed), f"{source} is ignored")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tree / source)
        else:
            (tree / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, tree / source)
    # With the lock file as it is, as the build has it.
    call("cargo", "metadata", "--locked", "--format-version=1", "--no-deps", cwd=tree)
    call("cargo", "tree", "--locked", "--package", "filegate", "--depth", "1", cwd=tree)
    included = re.compile(r'include_(?:str|bytes)!\(\s*"([^"]+)"')
    found = 0
    for source in (tree / "crates").glob("*/src/**/*.rs"):
        # What stands below the tests' module is not in a release.
        product = source.read_text().split("#[cfg(test)]\nmod tests")[0]
        for path in included.findall(product):
            found += 1
            holds((source.parent / path).exists(), f"{source.relative_to(tree)} includes {path}, which is not copied")
    holds(found > 3, "the search for included files finds them")


@check
def cargo_command(context):
    """Dockerfile: cargo understands the command line of the build, and what is copied from it is what it makes."""
    (run,) = [arguments for name, arguments in instructions() if name == "RUN"]
    steps = [step.strip() for step in re.sub(r"--mount=\S+", "", run).split("&&")]
    build = shlex.split(steps[0])
    equal(build[:2], ["cargo", "build"])
    holds({"--release", "--locked"} <= set(build), build)
    # Parsed whole; --unit-graph prints what would be built. It is an unstable option, hence the variable.
    done = call(*build, "-Z", "unstable-options", "--unit-graph", cwd=ROOT, env={**os.environ, "RUSTC_BOOTSTRAP": "1"})
    holds('"name":"filegate"' in done.stdout, "the graph has the binary")
    made = {word for step in steps[1:] for word in step.split() if word.startswith("/out/")}
    for name, arguments in instructions():
        if name == "COPY" and "--from=build" in arguments:
            source = [word for word in arguments.split() if not word.startswith("--")][0]
            holds(source in made or source.startswith("/etc/"), f"{source} is made by the build: {made}")


@check
def health(context):
    """The health check's command: 0 for a gateway that answers, 3 for one that does not."""
    gateway = context.gateway
    checks = [arguments for name, arguments in instructions() if name == "HEALTHCHECK"]
    words = json.loads(checks[0][checks[0].index("CMD ") + 4 :])
    equal(words[:3], ["filegate", "health", "--live"])
    for address in (gateway.admin, gateway.address):
        call(context.filegate, *words[1:-1], f"http://{address}")
        call(context.filegate, "health", "--url", f"http://{address}")
    equal(call(context.filegate, *words[1:-1], "http://127.0.0.1:1", ok=False).returncode, 3, "nobody")
