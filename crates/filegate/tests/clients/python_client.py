"""The five calls as people write them with requests or httpx: python_client.py requests|httpx"""

import importlib
import os
import sys

library = importlib.import_module(sys.argv[1])
client = library.Session() if sys.argv[1] == "requests" else library.Client(timeout=60)
url = os.environ["FILEGATE_URL"] + "/v1/files"
client.headers["Authorization"] = "Bearer " + os.environ["FILEGATE_KEY"]
voice = open("samples/voice.mp3", "rb").read()


def ok(response):
    """The body of a success."""
    assert response.status_code == 200, response.status_code
    body = response.json()
    assert body["base_resp"] == {"status_code": 0, "status_msg": "success"}, body
    return body


def refused(response, code, message):
    """Errors are HTTP 200, since clients that raise on others lose the text."""
    response.raise_for_status()
    body = response.json()
    assert body["base_resp"]["status_code"] == code, body
    assert body["base_resp"]["status_msg"].startswith(message), body
    assert len(response.headers["Trace-Id"]) == 32


def upload(files, **fields):
    return client.post(url + "/upload", data=fields, files=files)


# purpose before file, which is what `data` and `files` make of it
file = ok(upload({"file": open("samples/voice.mp3", "rb")}, purpose="voice_clone"))["file"]
first = file["file_id"]
assert type(first) is int and 0 < first < 2**53
assert file["filename"] == "voice.mp3" and file["bytes"] == len(voice)
assert file["purpose"] == "voice_clone"

# file before purpose, and a name that is not ASCII
name = 'Stimme "ä" 声音 🎤 100%41.mp3'
parts = [("file", (name, voice, "application/octet-stream")), ("purpose", (None, "voice_clone"))]
file = ok(client.post(url + "/upload", files=parts))["file"]
second = file["file_id"]
assert file["filename"] == name, file

# list: all, of a purpose, of one without files
assert [f["file_id"] for f in ok(client.get(url + "/list"))["files"]] == [second, first]
listed = ok(client.get(url + "/list", params={"purpose": "voice_clone"}))["files"]
assert [f["filename"] for f in listed] == [name, "voice.mp3"]
assert ok(client.get(url + "/list", params={"purpose": "prompt_audio"}))["files"] == []

# retrieve; the link works with and without the key
file = ok(client.get(url + "/retrieve", params={"file_id": second}))["file"]
assert file["filename"] == name
assert client.get(file["download_url"]).content == voice
assert library.get(file["download_url"]).content == voice

# content
response = client.get(url + "/retrieve_content", params={"file_id": str(second)})
assert response.status_code == 200 and response.content == voice
assert not response.headers["Content-Type"].startswith("application/json")

# refusals say why
refused(upload({"file": open("samples/too-long.mp3", "rb")}, purpose="voice_clone"), 2037,
        "voice duration too long: 305 s, at most 300 s")
refused(upload({"file": open("samples/prompt.m4a", "rb")}, purpose="voice_clone"), 2037,
        "voice duration too short: 5")
refused(upload({"file": ("voice.ogg", voice)}, purpose="voice_clone"), 2013,
        "invalid params, invalid file ext for voice clone")
refused(upload({"file": ("voice.mp3", b"\0" * (6 << 20))}, purpose="nonsense"), 2013,
        "invalid params, invalid file purpose")
refused(upload({"file": ("voice.mp3", b"\0" * (60 << 20))}, purpose="voice_clone"), 2013,
        "invalid params, file is too large: over 20MiB")
refused(upload({"file": ("voice.mp3", b"")}, purpose="voice_clone"), 2013, "invalid params, ")

# delete: a number, a string, twice
assert ok(client.post(url + "/delete", json={"file_id": first, "purpose": "voice_clone"}))["file_id"] == first
assert ok(client.post(url + "/delete", json={"file_id": str(second)}))["file_id"] == second
refused(client.post(url + "/delete", json={"file_id": first}), 2013, "invalid params, file not found")
assert ok(client.get(url + "/list"))["files"] == []

# a key that does not exist, while a large body is on its way
client.headers["Authorization"] = "Bearer fg-" + "0" * 43
refused(upload({"file": ("voice.mp3", b"\0" * (6 << 20))}, purpose="voice_clone"), 2049, "invalid api key")
