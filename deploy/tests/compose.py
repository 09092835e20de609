"""The compose file, held against the published schema, and its services' settings against the programs that take them."""

import json
import os
import re
import shutil
import stat
import tomllib

import jsonschema
import yaml

from kit import DEPLOY, Gateway, accepts, call, check, equal, eventually, free_port, holds

COMPOSE = DEPLOY / "compose"
# ${NAME}, ${NAME:-default}, ${NAME:?message}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def environment_file(path):
    """A file of NAME=value lines."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def interpolated(text, variables):
    """As compose does it: the text of the file with its variables, or the message of one that is missing."""

    def value(match):
        name, kind, word = match.groups()
        given = variables.get(name, "")
        if given or kind is None:
            return given
        if kind == "?":
            raise KeyError(f"{name}: {word}")
        return word

    return VARIABLE.sub(value, text)


def secrets(context):
    """The .env that deploy/compose/secrets makes."""
    path = context.directory("compose") / ".env"
    call(COMPOSE / "secrets", path)
    return path


def services(context):
    """The services with fresh secrets filled in."""
    text = (COMPOSE / "compose.yaml").read_text()
    return yaml.safe_load(interpolated(text, environment_file(secrets(context))))["services"]


def seconds(span):
    """Seconds of 45s or 2m."""
    return int(span[:-1]) * {"s": 1, "m": 60}[span[-1]]


@check
def schema(context):
    """compose: the file is valid by the compose specification."""
    text = (COMPOSE / "compose.yaml").read_text()
    document = yaml.safe_load(interpolated(text, environment_file(secrets(context))))
    validator = jsonschema.validators.validator_for(json.loads(context.compose_schema.read_text()))
    schema = json.loads(context.compose_schema.read_text())
    validator(schema).validate(document)
    # The schema tells good from bad.
    document["services"]["redis"]["comand"] = "x"
    holds(list(validator(schema).iter_errors(document)), "a misspelt word is found")


@check
def no_working_secrets(context):
    """compose: the example has no secrets, and without them nothing starts."""
    text = (COMPOSE / "compose.yaml").read_text()
    example = environment_file(COMPOSE / ".env.example")
    needed = {name for name, kind, _ in VARIABLE.findall(text) if kind == "?"}
    equal({name for name, value in example.items() if not value}, needed, "empty in the example, and required")
    used = {name for name, _, _ in VARIABLE.findall(text)}
    equal(set(example) - used, set(), "in the example and nowhere used")
    try:
        interpolated(text, example)
    except KeyError as error:
        holds("secrets" in str(error), error)
    else:
        raise AssertionError("the example alone is enough")


@check
def fresh_secrets(context):
    """compose: secrets makes a private file of fresh ones, once."""
    first, second = secrets(context), secrets(context)
    equal(stat.S_IMODE(first.stat().st_mode), 0o600, "mode")
    values = environment_file(first)
    holds(all(values.values()), "all are filled in")
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "GARAGE_ACCESS_KEY", "GARAGE_SECRET_KEY", "GARAGE_RPC_SECRET"):
        holds(values[name] != environment_file(second)[name], f"{name} is the same twice")
        holds(re.fullmatch(r"[A-Za-z0-9]+", values[name]), f"{name} needs no escaping in a URL")
    holds(re.fullmatch("GK[0-9a-f]{24}", values["GARAGE_ACCESS_KEY"]), "a key as Garage wants it")
    holds(re.fullmatch("[0-9a-f]{64}", values["GARAGE_SECRET_KEY"]), "a secret as Garage wants it")
    holds(re.fullmatch("[0-9a-f]{64}", values["GARAGE_RPC_SECRET"]), "an rpc_secret as Garage wants it")
    equal(call(COMPOSE / "secrets", first, ok=False).returncode, 1, "a second time")
    ignored = (DEPLOY.parent / ".gitignore").read_text().split()
    holds("/deploy/compose/.env" in ignored, "git ignores it")


@check
def settings(context):
    """compose: times and sizes of its services go together."""
    everything = services(context)
    gateway = everything["filegate"]
    environment = gateway["environment"]
    holds(
        seconds(gateway["stop_grace_period"])
        > seconds(environment["FILEGATE_LIMITS__DRAIN"]) + seconds(environment["FILEGATE_LIMITS__SHUTDOWN"]),
        "stop_grace_period is longer than limits.drain and limits.shutdown",
    )
    connections = int(re.search(r"max_connections=(\d+)", " ".join(everything["postgres"]["command"])).group(1))
    replicas = int(gateway["deploy"]["replicas"])
    holds((replicas + 1) * int(environment["FILEGATE_DATABASE__CONNECTIONS"]) + 10 <= connections, "connections for all")
    published = [name for name, service in everything.items() if "ports" in service]
    equal(published, ["caddy"], "published")
    for name in ("filegate", "postgres", "garage", "redis"):
        holds("healthcheck" in everything[name], f"{name} has a health check")
        equal(everything["filegate" if name != "filegate" else "caddy"]["depends_on"][name]["condition"], "service_healthy")
    holds(gateway["read_only"] is True and gateway["cap_drop"] == ["ALL"], "the gateway may do little")
    holds(all(":latest" not in service["image"] or name == "filegate" for name, service in everything.items()), "tags")
    for name in ("Caddyfile", "garage.toml"):
        holds((COMPOSE / name).is_file(), f"{name} is mounted")
    network = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["networks"]
    subnet = network["front"]["ipam"]["config"][0]["subnet"]
    equal(json.loads(environment["FILEGATE_NETWORK__TRUSTED_PROXIES"]), [subnet], "trusted")
    equal(network["back"], {"internal": True})


@check
def gateway_takes_the_settings(context):
    """compose: filegate starts with its environment."""
    environment = dict(services(context)["filegate"]["environment"])
    # There is nothing at those addresses here; what connects to them has tests of its own.
    for name in ("FILEGATE_DATABASE_URL", "FILEGATE_BLOB_URL", "FILEGATE_REDIS_URL"):
        environment.pop(name)
    gateway = Gateway(context, **environment)
    equal(gateway.get("/readyz", admin=True)[0], 200)
    context.stop(gateway.process)


@check
def redis(context):
    """compose: Redis takes its command, wants the password and keeps nothing."""
    service = services(context)["redis"]
    port, home = free_port(), context.directory("redis")
    process = context.start([*service["command"], "--port", port, "--bind", "127.0.0.1", "--dir", home], home / "log")
    eventually(lambda: accepts(port), "Redis listens")
    environment = {**os.environ, **service["environment"]}
    health = service["healthcheck"]["test"]
    equal(health[:2], ["CMD", "redis-cli"])
    client = ["redis-cli", "-p", port]
    equal(call(*client, *health[2:], env=environment).stdout.strip(), "PONG")
    holds("NOAUTH" in call(*client, "ping").stdout, "not without the password")
    for setting, value in (("save", ""), ("appendonly", "no"), ("maxmemory-policy", "noeviction")):
        equal(call(*client, "config", "get", setting, env=environment).stdout.splitlines(), [setting, value])
    context.stop(process)


@check
def garage(context):
    """compose: Garage's settings sync what they acknowledge (and start it, where a garage is installed)."""
    text = (COMPOSE / "garage.toml").read_text()
    settings = tomllib.loads(text)
    equal((settings["metadata_fsync"], settings["data_fsync"], settings["replication_factor"]), (True, True, 1))
    service = services(context)["garage"]
    url = services(context)["filegate"]["environment"]["FILEGATE_BLOB_URL"]
    bucket, region = service["environment"]["GARAGE_DEFAULT_BUCKET"], settings["s3_api"]["s3_region"]
    port = settings["s3_api"]["api_bind_addr"].rpartition(":")[2]
    equal(url, f"s3://{bucket}?endpoint=http://garage:{port}&region={region}")
    if not shutil.which("garage"):
        print("        NOT CHECKED: no garage is installed here, so its settings were only read")
        return
    home, ports = context.directory("garage"), (free_port(), free_port())
    text = text.replace("/var/lib/garage", str(home)).replace(":3901", f":{ports[0]}").replace(":3900", f":{ports[1]}")
    (home / "garage.toml").write_text(text)
    environment = {**os.environ, **service["environment"], "GARAGE_CONFIG_FILE": str(home / "garage.toml")}
    process = context.start(["garage", *service["command"][1:]], home / "log", env=environment)
    eventually(lambda: accepts(ports[1]), "Garage listens")
    eventually(lambda: call("garage", "status", env=environment, ok=False).returncode == 0, "its health check")
    holds(bucket in call("garage", "bucket", "list", env=environment).stdout, "the bucket is there")
    context.stop(process)
