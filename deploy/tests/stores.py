"""What the stores behind the gateway are told: PostgreSQL itself, and AWS by what it publishes of its calls."""

import json
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import botocore.session
import botocore.validate

from kit import DEPLOY, call, check, equal, eventually, free_port, holds


class Cluster:
    """A throwaway PostgreSQL. It does not run as root, so as root it is another user's."""

    def __init__(self, context):
        self.bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.home = context.directory("postgres")
        self.user = None
        if os.geteuid() == 0:
            self.user = "postgres" if "postgres" in [entry.pw_name for entry in pwd.getpwall()] else "nobody"
            shutil.chown(self.home, self.user)
        self.port = free_port()
        self.run("initdb", "--pgdata", self.home / "data", "--username=super", "--auth=scram-sha-256", "--no-sync", "--pwfile", self.password())
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.home} -c fsync=off"
        self.process = context.start(
            [self.bin / "postgres", "-D", self.home / "data", *options.split()], context.home / "postgres.log", user=self.user, cwd=self.home
        )
        eventually(lambda: self.psql("SELECT 1", ok=False).returncode == 0, "PostgreSQL serves")

    def password(self):
        """A file with the superuser's."""
        path = self.home / "password"
        path.write_text("superpassword")
        path.chmod(0o644)
        return path

    def run(self, program, *words):
        """One of its programs, as its user."""
        return call(self.bin / program, *words, user=self.user, cwd=self.home)

    def psql(self, *statements, file=None, user="super", password="superpassword", database="postgres", ok=True, **environment):
        """Statements, or a file of them."""
        words = [word for statement in statements for word in ("--command", statement)]
        if file:
            words = ["--file", str(file)]
        address = ["--host=127.0.0.1", f"--port={self.port}", f"--username={user}", f"--dbname={database}"]
        variables = {"PATH": os.environ["PATH"], "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5", **environment}
        return call("psql", "--no-psqlrc", "--tuples-only", "--no-align", *address, *words, env=variables, ok=ok)


@check
def role(context):
    """postgres: role.sql makes a role that owns its database and nothing else."""
    cluster = Cluster(context)
    script = DEPLOY / "postgres" / "role.sql"
    done = cluster.psql(file=script, ok=False)
    holds(done.returncode != 0 and "FILEGATE_DB_PASSWORD" in done.stdout + done.stderr, "not without a password")
    equal(cluster.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'filegate'").stdout.strip(), "0", "and then nothing is made")
    password = "it's \"odd\" $1"
    cluster.psql(file=script, FILEGATE_DB_PASSWORD=password)
    ours = {"user": "filegate", "password": password, "database": "filegate"}
    cluster.psql("CREATE TABLE t (a bigint)", "INSERT INTO t VALUES (1)", "SELECT pg_advisory_lock(1)", "DROP TABLE t", **ours)
    for statement in ("CREATE ROLE other", "CREATE DATABASE other", "SELECT * FROM pg_authid"):
        holds("ERROR" in cluster.psql(statement, ok=False, **ours).stderr, f"{statement} is refused")
    cluster.psql("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    done = cluster.psql("SELECT 1", user="stranger", password="stranger", database="filegate", ok=False)
    holds("permission denied" in done.stderr, f"others do not come in: {done.stderr}")
    limit = cluster.psql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'filegate'").stdout.strip()
    connections = int(re.search(r"^connections = (\d+)", (DEPLOY.parent / "filegate.example.toml").read_text(), flags=re.M).group(1))
    holds(int(limit) >= 5 * connections, "room for three replicas, two more and a command")
    context.stop(cluster.process)


@check
def lifecycle(context):
    """s3: the lifecycle rule is one that PutBucketLifecycleConfiguration takes."""
    rules = json.loads((DEPLOY / "s3" / "lifecycle.json").read_text())
    operation = botocore.session.get_session().get_service_model("s3").operation_model("PutBucketLifecycleConfiguration")

    def errors(configuration):
        shape = operation.input_shape
        given = {"Bucket": "b", "LifecycleConfiguration": configuration}
        return botocore.validate.ParamValidator().validate(given, shape).generate_report()

    equal(errors(rules), "")
    holds(errors({"Rules": [{"Status": "Enabled", "AbortIncomplete": {}}]}), "another is refused")
    (rule,) = rules["Rules"]
    equal((rule["Status"], rule["AbortIncompleteMultipartUpload"]), ("Enabled", {"DaysAfterInitiation": 1}))
    holds("Expiration" not in rule, "nothing that is stored expires by it")


@check
def policy(context):
    """s3: the policy is valid for AWS and allows what filegate calls and no more."""
    text = (DEPLOY / "s3" / "policy.json").read_text()

    def findings(policy):
        # It reads a policy from its standard input, and takes anything there for one.
        done = subprocess.run(["parliament"], input=policy, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    equal(findings(text).strip(), "", "parliament's findings")
    holds("GetObjekt" in findings(text.replace("s3:GetObject", "s3:GetObjekt")), "a misspelt action is found")
    allowed = {action for statement in json.loads(text)["Statement"] for action in statement["Action"]}
    holds(not [action for action in allowed if "*" in action], "no wildcards")
    model = botocore.session.get_session().get_service_model("s3")
    # An action is named after its call but for those with one of their own.
    own_names = {"ListBucket", "ListBucketMultipartUploads", "ListMultipartUploadParts", "GetLifecycleConfiguration"}
    for action in allowed:
        name = action.removeprefix("s3:")
        holds(name in own_names or name in model.operation_names, f"{action} is a call of S3")
