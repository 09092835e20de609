"""nginx and Caddy, the real ones with the real files, in front of a running gateway: what passes, what does not, and who answers."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import threading
from pathlib import Path

from kit import DEPLOY, SAMPLES, Gateway, accepts, call, check, equal, eventually, free_port, holds, paragraphs, replaced

MIB = 1 << 20
HOST = "files.example.com"
BOUNDARY = "xxxxxxxx"
FORM_END = f"\r\n--{BOUNDARY}--\r\n".encode()


class Decoy:
    """A replica that dies in the middle: ready when asked, but an upload it begins to read it drops without an answer."""

    def __init__(self):
        self.uploads = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        """One connection after the other, until the listener is closed."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                head = connection.recv(65536)
                if head.startswith(b"GET /readyz"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nready\n")
                elif head:
                    self.uploads += 1

    def close(self):
        """Stops."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Proxy:
    """A running proxy with TLS."""

    def __init__(self, context, home, port, authority, host, process):
        self.context, self.home, self.port = context, home, port
        self.authority, self.host, self.process = authority, host, process

    def curl(self, path, *words, source="127.0.0.1", ok=True):
        """Status and body, as a client at `source` sees them."""
        done = call(
            "curl", "--silent", "--show-error", "--max-time", "60", "--cacert", self.authority, "--interface", source,
            "--connect-to", f"{self.host}:443:127.0.0.1:{self.port}", "--write-out", "\n%{http_code}",
            *words, f"https://{self.host}{path}", ok=ok,
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def api(self, path, *words, **options):
        """The JSON of an answer of the API, which is HTTP 200."""
        status, body = self.curl(path, *words, **options)
        equal(status, 200, body)
        return json.loads(body)

    def upload(self, key, path, purpose="retrieval", **options):
        """The answer to an upload."""
        form = ["-F", f"purpose={purpose}", "-F", f"file=@{path}"]
        return self.api("/minimax/v1/files/upload", "-H", f"Authorization: Bearer {key}", *form, **options)

    def connect(self):
        """A connection, for requests that curl does not make."""
        tls = ssl.create_default_context(cafile=self.authority)
        return tls.wrap_socket(socket.create_connection(("127.0.0.1", self.port), 20), server_hostname=self.host)

    def close(self):
        """Stops."""
        self.context.stop(self.process)


def certificate(home):
    """A certificate for HOST, that is its own authority."""
    call(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", home / "key.pem", "-out", home / "fullchain.pem",
    )


def nginx(context, *upstreams):
    """nginx with deploy/nginx, on ports and files of the check's own."""
    home, port, plain = context.directory("nginx"), free_port(), free_port()
    home.chmod(0o755)
    certificate(home)
    servers = "".join(f"    server 127.0.0.1:{upstream} max_fails=2 fail_timeout=5s;\n" for upstream in upstreams)
    text = (DEPLOY / "nginx" / "filegate.conf").read_text()
    text, count = re.subn(r"(    server 10\.0\.0\.\d+:8080 max_fails=2 fail_timeout=5s;\n)+", servers, text)
    equal(count, 2, "lists of replicas")
    text = replaced(
        text,
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/filegate/", f"{home}/"),
    )
    (home / "filegate.conf").write_text(text)
    (home / "filegate_proxy.conf").write_text((DEPLOY / "nginx" / "filegate_proxy.conf").read_text())
    user = "user root;\n" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"    {kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(
        f"{user}worker_processes 2;\npid {home}/pid;\nerror_log {home}/error.log;\nevents {{}}\n"
        f"http {{\n    access_log {home}/access.log;\n{temporary}    include filegate.conf;\n}}\n"
    )
    command = ["nginx", "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"]
    done = call(*command, "-t")
    holds("warn" not in done.stderr and "test is successful" in done.stderr, done.stderr)
    process = context.start([*command, "-g", "daemon off;"], home / "log")
    eventually(lambda: accepts(port), "nginx listens")
    proxy = Proxy(context, home, port, home / "fullchain.pem", HOST, process)
    proxy.plain, proxy.command = plain, command
    return proxy


def caddy(context, text, environment):
    """Caddy with a Caddyfile, its authority and its data in a directory of the check's own."""
    home, port = context.directory("caddy"), free_port()
    (home / "Caddyfile").write_text(text)
    variables = {
        "PATH": os.environ["PATH"], "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home),
        "FILEGATE_SITE": f"https://localhost:{port}", **environment,
    }
    process = context.start(["caddy", "run", "--config", home / "Caddyfile", "--adapter", "caddyfile"], home / "log", env=variables)
    authority = home / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    def serves():
        holds(process.poll() is None, f"caddy ended:\n{(home / 'log').read_text()}")
        if not (authority.exists() and accepts(port)):
            return False
        return call("curl", "--silent", "--cacert", authority, f"https://localhost:{port}/", ok=False).returncode == 0

    eventually(serves, "Caddy listens")
    return Proxy(context, home, port, authority, "localhost", process)


# It must not touch the machine's trust store, nor ports that are another's.
CADDY_HERE = "\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n"


def caddyfile(directory):
    """One of the two, for here. An hour is too long for a check."""
    text = (DEPLOY / directory / "Caddyfile").read_text()
    return replaced(text, ("{\n\tservers {", f"{{\n{CADDY_HERE}\tservers {{"), ("read_body 1h", "read_body 10s"))


def caddy_alone(context, *upstreams):
    """Caddy with deploy/caddy/Caddyfile."""
    text = caddyfile("caddy")
    return caddy(context, text, {"FILEGATE_UPSTREAMS": " ".join(f"127.0.0.1:{port}" for port in upstreams)})


def caddy_of_compose(context, *upstreams):
    """Caddy with deploy/compose/Caddyfile, which finds its replicas by name."""
    (port,) = upstreams
    return caddy(context, caddyfile("compose"), {"FILEGATE_SERVICE": "localhost", "FILEGATE_SERVICE_PORT": str(port)})


def text_file(context, size, name="text.txt"):
    """A text of `size` bytes."""
    path = context.directory("upload") / name
    path.write_bytes(paragraphs(size))
    return path


def upload_head(proxy, key, size):
    """A request to upload a text of `size` bytes, up to its first byte. FORM_END goes after the last."""
    form = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nretrieval\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="slow.txt"\r\n\r\n'
    ).encode()
    head = (
        f"POST /minimax/v1/files/upload HTTP/1.1\r\nHost: {proxy.host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(form) + size + len(FORM_END)}\r\n\r\n"
    )
    return head.encode() + form


def large_uploads_pass(context, proxy):
    """25 MiB there and back, and nothing of it on the proxy's disk."""
    key = context.gateway.key("large")
    path = text_file(context, 25 * MIB)
    answer = proxy.upload(key, path)
    equal(answer["base_resp"]["status_code"], 0, answer)
    equal(answer["file"]["bytes"], 25 * MIB)
    back = path.with_suffix(".back")
    words = ["-H", f"Authorization: Bearer {key}", "-o", back]
    status, _ = proxy.curl(f"/minimax/v1/files/retrieve_content?file_id={answer['file']['file_id']}", *words)
    equal(status, 200)
    holds(back.read_bytes() == path.read_bytes(), "the same bytes")


def bodies_are_not_buffered(context, proxy):
    """The gateway has the beginning of an upload while its end is not sent yet."""
    key = context.gateway.key("slow")
    body = paragraphs(8 * MIB)
    before = {row["id"] for row in context.gateway.rows("inflight", "ls")}
    with proxy.connect() as connection:
        connection.sendall(upload_head(proxy, key, len(body)) + body[: 4 * MIB])
        eventually(
            lambda: {row["id"] for row in context.gateway.rows("inflight", "ls")} - before, "the upload is in progress at the gateway"
        )
        connection.sendall(body[4 * MIB :] + FORM_END)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        equal(json.loads(answer.read())["base_resp"]["status_code"], 0)


def limits_are_the_gateways(context, proxy):
    """What is too large is refused by the gateway, in the API's words."""
    key = context.gateway.key("too-large")
    path = text_file(context, 25 * MIB, "voice.mp3")
    answer = proxy.upload(key, path, "voice_clone")
    equal(answer["base_resp"]["status_code"], 2013, answer)
    holds("20 MiB" in answer["base_resp"]["status_msg"] or "20971520" in answer["base_resp"]["status_msg"], answer)


def refused_before_it_is_sent(context, proxy):
    """A client that asks first (Expect: 100-continue) is refused without sending a body that no purpose takes."""
    key = context.gateway.key("huge")
    # A hole of a file. nginx cannot do this: it says 100 by itself.
    huge = context.directory("upload") / "huge.txt"
    with open(huge, "wb") as file:
        file.truncate(600 * MIB)
    for _ in range(5):
        answer = proxy.upload(key, huge)
        equal(answer["base_resp"]["status_code"], 2013, answer)
    holds("629" in answer["base_resp"]["status_msg"], f"by its declared length: {answer}")


def clients_have_their_addresses(context, proxy):
    """A key that is bound to a network works from there, and a forged X-Forwarded-For does not help elsewhere."""
    key = context.gateway.key("bound", "--networks", "127.0.0.2/32")
    words = ["-H", f"Authorization: Bearer {key}"]
    forged = [*words, "-H", "X-Forwarded-For: 127.0.0.2"]
    for source, given, expected in (
        ("127.0.0.2", words, 0), ("127.0.0.3", words, 1004), ("127.0.0.3", forged, 1004), ("127.0.0.2", forged, 0),
    ):
        answer = proxy.api("/minimax/v1/files/list", *given, source=source)
        equal(answer["base_resp"]["status_code"], expected, f"{source} {given[2:]}: {answer}")


def only_clients_paths_are_there(context, proxy):
    """What is for clients answers, under all its prefixes; the rest is 404."""
    key = context.gateway.key("paths")
    words = ["-H", f"Authorization: Bearer {key}"]
    for prefix in ("/minimax", "/minimaxi", ""):
        answer = proxy.api(f"{prefix}/v1/files/list", *words)
        equal(answer["base_resp"]["status_code"], 0, prefix)
    voice = proxy.upload(key, SAMPLES / "voice.mp3", "voice_clone")
    link = proxy.api(f"/minimax/v1/files/retrieve?file_id={voice['file']['file_id']}", *words)["file"]["download_url"]
    path = "/" + link.split("/", 3)[3]
    holds(path.startswith("/d/"), path)
    status, _ = proxy.curl(path, "-o", context.directory("link") / "back.mp3")
    equal(status, 200, path)
    for path in ("/openapi.json", "/docs"):
        equal(proxy.curl(path)[0], 200, path)
    admin = ["-H", f"Authorization: Bearer {context.gateway.token}"]
    for path in (
        "/", "/metrics", "/healthz", "/readyz", "/admin/v1/accounts", "/admin", "//metrics", "/minimax/../metrics", "/v1/..%2fmetrics",
        "/v1/%2e%2e/metrics", "/minimax", "/docs/../metrics",
    ):
        status, body = proxy.curl(path, "--path-as-is", *admin)
        holds(status in (400, 404) and "filegate_" not in body, f"{path}: {status} {body[:200]}")


def calls_go_round_the_dead(context, make):
    """A replica that nobody listens at costs no call."""
    proxy = make(context, free_port(), context.gateway.port)
    try:
        key = context.gateway.key("round")
        for _ in range(10):
            answer = proxy.upload(key, SAMPLES / "voice.mp3", "voice_clone")
            equal(answer["base_resp"]["status_code"], 0, answer)
            answer = proxy.api("/minimax/v1/files/list", "-H", f"Authorization: Bearer {key}")
            equal(answer["base_resp"]["status_code"], 0, answer)
    finally:
        proxy.close()


def uploads_are_sent_once(context, make):
    """An upload that a replica has begun to read and dropped is not sent to another, and the client hears so in the API's words."""
    decoy = Decoy()
    proxy = make(context, decoy.port, context.gateway.port)
    try:
        key = context.gateway.key("once", "--account", f"once-{decoy.port}")
        codes = [proxy.upload(key, SAMPLES / "voice.mp3", "voice_clone")["base_resp"]["status_code"] for _ in range(8)]
        holds(decoy.uploads > 0, "some went to the one that drops them")
        equal(sorted(codes), [0] * (8 - decoy.uploads) + [1013] * decoy.uploads, "answers")
        files = proxy_files(context, key)
        equal(len(files), 8 - decoy.uploads, "files that are stored")
    finally:
        proxy.close()
        decoy.close()


def slow_clients_are_the_gateways(context, make):
    """A client that falls silent is told so by the gateway, not cut off by the proxy."""
    gateway = Gateway(context, FILEGATE_LIMITS__BODY_IDLE="2s")
    proxy = make(context, gateway.port)
    try:
        key = gateway.key("silent")
        with proxy.connect() as connection:
            connection.sendall(upload_head(proxy, key, 8 * MIB) + paragraphs(MIB))
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            text = json.loads(answer.read())
            equal(text["base_resp"]["status_code"], 1001, text)
    finally:
        proxy.close()
        context.stop(gateway.process)


def proxy_files(context, key):
    """The files of a key's account, asked at the gateway itself."""
    answer = call(
        "curl", "--silent", "-H", f"Authorization: Bearer {key}", f"http://{context.gateway.address}/minimax/v1/files/list"
    )
    return json.loads(answer.stdout)["files"]


def nobody_there(context, make):
    """Without any replica the API's own words come back, with what is to be done."""
    proxy = make(context, free_port())
    try:
        answer = proxy.upload("fg-nothing", SAMPLES / "voice.mp3", "voice_clone")
        equal(answer["base_resp"]["status_code"], 1013, answer)
        _, headers = proxy.curl("/minimax/v1/files/list", "--dump-header", "-", "-o", "/dev/null")
        holds("retry-after: 1" in headers.lower() and "application/json" in headers.lower(), headers)
    finally:
        proxy.close()


SHARED = (
    large_uploads_pass, bodies_are_not_buffered, limits_are_the_gateways, clients_have_their_addresses, only_clients_paths_are_there,
)
OF_REPLICAS = (slow_clients_are_the_gateways, calls_go_round_the_dead, uploads_are_sent_once, nobody_there)


def with_one(name, make, function):
    """A check of one proxy in front of one gateway."""

    def run(context):
        proxy = make(context, context.gateway.port)
        try:
            function(context, proxy)
            left = [path for path in proxy.home.glob("client_body/**/*") if path.is_file()]
            left += [path for path in proxy.home.glob("proxy/**/*") if path.is_file()]
            equal(left, [], "files on the proxy's disk")
        finally:
            proxy.close()

    run.__doc__ = f"{name}: {function.__doc__}"
    check(run)


def with_several(name, make, function):
    """A check that has replicas of its own."""

    def run(context):
        function(context, make)

    run.__doc__ = f"{name}: {function.__doc__}"
    check(run)


for kind, maker in (("nginx", nginx), ("Caddy", caddy_alone), ("Caddy of compose", caddy_of_compose)):
    for one in SHARED:
        with_one(kind, maker, one)
    if maker is not nginx:
        with_one(kind, maker, refused_before_it_is_sent)
    for one in OF_REPLICAS:
        # By name alone there are no two replicas on one address.
        if maker is not caddy_of_compose or one in (slow_clients_are_the_gateways, nobody_there):
            with_several(kind, maker, one)


@check
def plain_http_is_sent_on(context):
    """nginx: plain HTTP is sent on to HTTPS, method and all."""
    proxy = nginx(context, context.gateway.port)
    try:
        headers = call(
            "curl", "--silent", "-X", "POST", "-H", f"Host: {HOST}", "--dump-header", "-", "-o", "/dev/null", f"http://127.0.0.1:{proxy.plain}/v1/files/delete"
        ).stdout
        holds(headers.startswith("HTTP/1.1 308") and f"Location: https://{HOST}/v1/files/delete" in headers, headers)
    finally:
        proxy.close()


@check
def a_replica_is_taken_out(context):
    """nginx: marked down, reloaded, and stopped when the old workers are gone, a replica costs no call of anybody."""
    leaving, staying = Gateway(context), Gateway(context)
    proxy = nginx(context, leaving.port, staying.port)
    codes, over = [], threading.Event()

    def caller():
        while not over.is_set():
            # A call that changes something; without a key every replica answers it alike.
            answer = proxy.api("/minimax/v1/files/delete", "-H", "Content-Type: application/json", "-d", '{"file_id":1}')
            codes.append(answer["base_resp"]["status_code"])

    def workers():
        pid = proxy.process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def calls(more):
        known = len(codes)
        eventually(lambda: len(codes) >= known + more or not thread.is_alive(), "calls are made")

    thread = threading.Thread(target=caller)
    thread.start()
    try:
        calls(20)
        holds("http.reply" in leaving.log.read_text(), "calls come to the one that is to go")
        line = f"server 127.0.0.1:{leaving.port} max_fails=2 fail_timeout=5s"
        path = proxy.home / "filegate.conf"
        path.write_text(replaced(path.read_text(), (f"{line};", f"{line} down;")))
        old = workers()
        proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: workers() and not workers() & old, "the old workers have ended")
        context.stop(leaving.process)
        equal(leaving.process.returncode, 0)
        calls(20)
    finally:
        over.set()
        thread.join()
        proxy.close()
        context.stop(leaving.process)
        context.stop(staying.process)
    equal(set(codes), {1004}, "answers")
