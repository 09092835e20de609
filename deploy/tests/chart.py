"""The Helm chart, linted and rendered by Helm's own library and held against the schemas of Kubernetes. Nothing is installed anywhere."""

import json
import re
import tomllib

import helm_python as helm
import kubernetes_validate
import yaml

from kit import DEPLOY, ROOT, Gateway, check, equal, holds

CHART = str(DEPLOY / "helm" / "filegate")
# The oldest that the chart says it is for, one between, and the newest known.
RELEASES = ("1.25.0", "1.31.0", "1.37.0")
LEAST = {
    "database": {"url": "postgres://filegate:secret@db:5432/filegate?sslmode=verify-full"},
    "blobs": {"url": "s3://files?endpoint=https://s3.example.com&region=eu-1"},
    "redis": {"url": "rediss://:secret@redis:6379/0"},
}
MOST = {
    **LEAST,
    "replicaCount": 5,
    "image": {"repository": "registry.example.com/filegate", "tag": "0.1.0", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "blobs": {**LEAST["blobs"], "accessKeyId": "id", "secretAccessKey": "secret"},
    "trustedProxies": ["10.244.0.0/16", "fd00::/8"],
    "listenHost": "[::]",
    "config": '[limits]\nuploads_max = 64\n\n[log]\nformat = "json"\n',
    "extraEnv": [{"name": "FILEGATE_PROBE__DECODE", "value": "whole"}],
    "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
    "extraVolumeMounts": [{"name": "authorities", "mountPath": "/etc/authorities", "readOnly": True}],
    "shutdown": {"drainSeconds": 20, "requestSeconds": 60},
    "spool": {"sizeLimit": "1Gi", "medium": "Memory"},
    "networkPolicy": {
        "enabled": True,
        "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "operators": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    },
    "ingress": {"enabled": True, "host": "files.example.com", "tlsSecret": "files-tls"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/filegate"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "files", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "service": {"annotations": {"e": "f"}},
    "adminService": {"annotations": {"g": "h"}},
}
OWN_SECRET = {"blobs": LEAST["blobs"], "existingSecret": "mine", "limits": {"scope": "per-replica"}}


def rendered(values, name="demo"):
    """The manifests, by kind and name, and the notes."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace="prod", is_install=True)
    notes = "".join(text for path, text in files.items() if path.endswith("NOTES.txt"))
    documents = {}
    for path, text in files.items():
        if not path.endswith("NOTES.txt"):
            for document in yaml.safe_load_all(text):
                if document:
                    documents[document["kind"], document["metadata"]["name"]] = document
    return documents, notes


def refused(values):
    """Why values are refused, or None."""
    try:
        rendered(values)
    except helm.HelmError as error:
        return str(error)
    return None


def container(documents):
    """The gateway's container and its pod."""
    pod = next(document for (kind, _), document in documents.items() if kind == "Deployment")["spec"]["template"]["spec"]
    return pod["containers"][0], pod


@check
def lint(context):
    """chart: helm lint --strict finds nothing, with few values and with many."""
    for values in (LEAST, MOST, OWN_SECRET):
        report = helm.lint(CHART, values, strict=True, kube_version="v1.31.0")
        equal(report["errors"], [], "errors")
        # 1 is information, such as that an icon is recommended.
        equal([message for message in report["messages"] if message["severity"] > 1], [], "messages")


@check
def valid_for_kubernetes(context):
    """chart: every manifest is valid, strictly, for the oldest and the newest Kubernetes."""
    kinds = set()
    for values in (LEAST, MOST, OWN_SECRET):
        documents, _ = rendered(values)
        for (kind, name), document in documents.items():
            kinds.add(kind)
            # Prometheus' own kind, which is not in the schemas of Kubernetes; see `monitored`.
            if kind != "ServiceMonitor":
                for release in RELEASES:
                    kubernetes_validate.validate(document, release, strict=True)
    equal(
        kinds,
        {
            "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "Pod", "PodDisruptionBudget",
            "Secret", "Service", "ServiceAccount", "ServiceMonitor",
        },
        "kinds",
    )
    document = rendered(LEAST)[0]["Deployment", "demo-filegate"]
    document["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    try:
        kubernetes_validate.validate(document, RELEASES[0], strict=True)
    except kubernetes_validate.ValidationError:
        return
    raise AssertionError("a misspelt word is found")


@check
def values_are_checked(context):
    """chart: wrong and missing values are refused with a reason."""
    for change, word in (
        ({"replicaCount": "three"}, "replicaCount"),
        ({"replicas": 3}, "replicas"),
        ({"database": {"url": "mysql://db"}}, "/database/url"),
        ({"blobs": {"url": "https://s3"}}, "/blobs/url"),
        ({"redis": {"url": "http://redis"}}, "/redis/url"),
        ({"trustedProxies": ["10.0.0.0"]}, "/trustedProxies"),
        ({"limits": {"scope": "global"}}, "/limits/scope"),
        ({"ingress": {"paths": ["/"]}}, "/ingress/paths"),
        ({"ingress": {"paths": ["/metrics"]}}, "/ingress/paths"),
        ({"blobs": {"url": ""}}, "blobs.url is needed"),
        ({"database": {"url": ""}}, "database.url or existingSecret is needed"),
        ({"redis": {"url": ""}}, "redis.url or existingSecret is needed"),
        ({"blobs": {**LEAST["blobs"], "accessKeyId": "id"}}, "go together"),
    ):
        why = refused({**LEAST, **change})
        holds(why is not None and word in why, f"{change}: {why}")
    holds(refused({"redis": {"url": ""}, **{k: LEAST[k] for k in ("database", "blobs")}, "limits": {"scope": "per-replica"}}) is None, "per replica")
    with open(f"{CHART}/values.schema.json") as schema, open(f"{CHART}/values.yaml") as values:
        equal(set(json.load(schema)["properties"]) - {"global"}, set(yaml.safe_load(values)), "values and schema name the same")


@check
def documented_values(context):
    """chart: the values in docs/DEPLOYMENT.md are right, with what they say of the Secret and the policy."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "DEPLOYMENT.md").read_text(), flags=re.S)
    values = yaml.safe_load(block)
    equal(helm.lint(CHART, values, strict=True)["errors"], [])
    documents, _ = rendered(values)
    for document in documents.values():
        kubernetes_validate.validate(document, RELEASES[-1], strict=True)
    references = [v["valueFrom"]["secretKeyRef"]["key"] for v in container(documents)[0]["env"] if "valueFrom" in v]
    holds(all(key in block for key in references), f"{references} are named")
    rules = documents["NetworkPolicy", "demo-filegate"]["spec"]["ingress"]
    holds(values["networkPolicy"]["operators"][0] in rules[1]["from"], "who may call the operators' port")


@check
def rolling_updates(context):
    """chart: an update takes nothing away, and a pod that goes has the time it needs."""
    for values, drain, requests in ((LEAST, 10, 30), (MOST, 20, 60)):
        documents, _ = rendered(values)
        spec = documents["Deployment", "demo-filegate"]["spec"]
        equal(spec["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})
        gateway, pod = container(documents)
        environment = {variable["name"]: variable.get("value") for variable in gateway["env"]}
        equal(environment["FILEGATE_LIMITS__SHUTDOWN"], f"{requests}s")
        equal(environment["FILEGATE_LIMITS__DRAIN"], f"{drain}s")
        holds(pod["terminationGracePeriodSeconds"] > drain + requests, "grace")
        ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
        equal(ports, {"http": 8080, "admin": 8081})
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            equal(gateway[probe]["httpGet"], {"path": path, "port": "admin"}, probe)
            status, _ = context.gateway.get(path, admin=True)
            equal(status, 200, f"{path} of a gateway")
        budget = documents["PodDisruptionBudget", "demo-filegate"]["spec"]
        equal(budget["maxUnavailable"], 1)
    holds("replicas" not in spec, "with autoscaling the number is not the chart's")


@check
def pods_may_do_little(context):
    """chart: no root, no writable root, no capabilities, no token of Kubernetes."""
    for values in (LEAST, MOST):
        documents, _ = rendered(values)
        pods = [container(documents)[1], documents["Pod", "demo-filegate-test"]["spec"]]
        for pod in pods:
            holds(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, "not root")
            equal(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            equal(pod["automountServiceAccountToken"], False)
            # Else the Service called filegate gives the pod FILEGATE_PORT.
            equal(pod["enableServiceLinks"], False)
            for one in pod["containers"]:
                equal(
                    one["securityContext"],
                    {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                )
        (user,) = {pod["securityContext"]["runAsUser"] for pod in pods}
        holds(f"USER {user}:" in (DEPLOY / "Dockerfile").read_text(), "the user of the image")
        gateway, pod = container(documents)
        (spool,) = [volume for volume in pod["volumes"] if volume["name"] == "spool"]
        holds("emptyDir" in spool and spool["emptyDir"]["sizeLimit"], "the only place to write is bounded")


@check
def service_links(context):
    """chart: filegate does refuse what Kubernetes would set for a Service of its name."""
    try:
        Gateway(context, FILEGATE_PORT="tcp://10.96.0.7:80")
    except AssertionError as error:
        holds("PORT" in str(error), error)
    else:
        raise AssertionError("it starts: enableServiceLinks: false is not needed any more")


@check
def who_reaches_what(context):
    """chart: clients reach clients' paths alone; the operators' port is named by the policy."""
    documents, _ = rendered(MOST)
    admin = documents["Service", "demo-filegate-admin"]["spec"]
    equal((admin["type"], [port["targetPort"] for port in admin["ports"]]), ("ClusterIP", ["admin"]))
    public = documents["Service", "demo-filegate"]["spec"]
    equal([port["targetPort"] for port in public["ports"]], ["http"])
    labels = documents["Deployment", "demo-filegate"]["spec"]["template"]["metadata"]["labels"]
    for service in (admin, public):
        holds(service["selector"].items() <= labels.items(), "selects the pods")
        holds(not service["selector"].items() <= documents["Pod", "demo-filegate-test"]["metadata"]["labels"].items(), "and no other")
    ingress = documents["Ingress", "demo-filegate"]
    (rule,) = ingress["spec"]["rules"]
    equal([path["path"] for path in rule["http"]["paths"]], ["/minimax", "/minimaxi", "/v1", "/d"])
    equal({path["backend"]["service"]["name"] for path in rule["http"]["paths"]}, {"demo-filegate"})
    annotations = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    equal(
        [annotations[name] for name in ("proxy-body-size", "proxy-request-buffering", "proxy-buffering", "proxy-next-upstream")],
        ["0", "off", "off", "error timeout"],
    )
    equal(ingress["spec"]["tls"], [{"hosts": ["files.example.com"], "secretName": "files-tls"}])

    def policy(values):
        rules = rendered(values)[0]["NetworkPolicy", "demo-filegate"]["spec"]["ingress"]
        return {rule["ports"][0]["port"]: rule.get("from") for rule in rules}

    tests = {
        "podSelector": {
            "matchLabels": {
                "app.kubernetes.io/name": "filegate", "app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "test",
            }
        }
    }
    equal(policy(LEAST), {"http": None, "admin": [tests]}, "by default")
    equal(policy(MOST), {"http": MOST["networkPolicy"]["clients"], "admin": [tests, *MOST["networkPolicy"]["operators"]]}, "as told")


@check
def secrets_stay_in_the_secret(context):
    """chart: secrets are in the Secret alone, or in one that is there already."""
    documents, notes = rendered(MOST)
    equal(
        documents["Secret", "demo-filegate"]["stringData"],
        {
            "database-url": LEAST["database"]["url"],
            "redis-url": LEAST["redis"]["url"],
            "s3-access-key-id": "id",
            "s3-secret-access-key": "secret",
        },
    )
    others = json.dumps([document for (kind, _), document in documents.items() if kind != "Secret"]) + notes
    holds(":secret@" not in others, "no password elsewhere")
    references = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in container(documents)[0]["env"] if "valueFrom" in variable
    }
    equal({reference["name"] for reference in references.values()}, {"demo-filegate"})
    equal({reference["key"] for reference in references.values()}, set(documents["Secret", "demo-filegate"]["stringData"]))
    holds("optional" not in references["FILEGATE_REDIS_URL"], "shared limits need it")
    documents, _ = rendered(OWN_SECRET)
    holds(not [kind for kind, _ in documents if kind == "Secret"], "none is made")
    references = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in container(documents)[0]["env"] if "valueFrom" in v}
    equal({reference["name"] for reference in references.values()}, {"mine"})
    equal(references["FILEGATE_REDIS_URL"]["optional"], True)


@check
def gateway_takes_the_settings(context):
    """chart: filegate starts with the environment and the file that a pod has, and a change of them is a new pod."""
    sums = set()
    for values in (LEAST, MOST):
        documents, _ = rendered(values)
        text = documents["ConfigMap", "demo-filegate-config"]["data"]["filegate.toml"]
        tomllib.loads(text)
        file = context.directory("chart") / "filegate.toml"
        file.write_text(text)
        environment = {v["name"]: v["value"] for v in container(documents)[0]["env"] if "value" in v}
        equal(environment.pop("FILEGATE_CONFIG"), "/etc/filegate/filegate.toml")
        # There is no S3 here; and the ports and the directory are those of a pod.
        for name in ("FILEGATE_BLOB_URL", "FILEGATE_LISTEN", "FILEGATE_ADMIN_LISTEN", "FILEGATE_DATA_DIR"):
            environment.pop(name)
        gateway = Gateway(context, FILEGATE_CONFIG=str(file), **environment)
        equal(gateway.get("/readyz", admin=True)[0], 200)
        settings = gateway.command("--json", "config", "show")
        for value in values.get("trustedProxies", []):
            holds(value in settings, f"{value} is in force")
        context.stop(gateway.process)
        annotations = documents["Deployment", "demo-filegate"]["spec"]["template"]["metadata"]["annotations"]
        sums.add((annotations["checksum/config"], annotations["checksum/secret"]))
    equal(len(sums), 2, "checksums")


@check
def monitored(context):
    """chart: the ServiceMonitor selects the operators' service, whose /metrics is there."""
    documents, _ = rendered(MOST)
    monitor = documents["ServiceMonitor", "demo-filegate"]
    equal(monitor["metadata"]["labels"]["release"], "prometheus")
    chosen = [
        name
        for (kind, name), document in documents.items()
        if kind == "Service" and monitor["spec"]["selector"]["matchLabels"].items() <= document["metadata"]["labels"].items()
    ]
    equal(chosen, ["demo-filegate-admin"])
    (endpoint,) = monitor["spec"]["endpoints"]
    equal(endpoint["port"], documents["Service", "demo-filegate-admin"]["spec"]["ports"][0]["name"])
    status, text = context.gateway.get(endpoint["path"], admin=True)
    holds(status == 200 and "filegate_" in text, "metrics")


@check
def names_and_notes(context):
    """chart: names fit, the notes say what is to be done next, versions agree."""
    documents, notes = rendered({**LEAST, "limits": {"scope": "per-replica"}}, name="a" * 53)
    holds(all(len(name) <= 63 for _, name in documents), "names")
    for word in ("rollout status", "token create", "key create", "publicUrl", "trustedProxies", "per-replica"):
        holds(word in notes, f"{word} is in the notes")
    documents, notes = rendered(MOST)
    holds("https://files.example.com/minimax" in notes, notes)
    holds("trustedProxies" not in notes and "per-replica" not in notes, notes)
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    with open(f"{CHART}/Chart.yaml") as chart:
        equal(yaml.safe_load(chart)["appVersion"], version, "appVersion and Cargo.toml")
    test = documents["Pod", "demo-filegate-test"]
    equal(test["metadata"]["annotations"]["helm.sh/hook"], "test")
    equal({tuple(one["args"][:2]) for one in test["spec"]["containers"]}, {("health", "--url")})
