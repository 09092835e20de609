"""The tool that MCP hosts call, called directly. Prints the id that its upload step was given."""

from minimax_mcp import server

ids = []
post = server.api_client.post


def watched(endpoint, **arguments):
    reply = post(endpoint, **arguments)
    if endpoint == "/v1/files/upload":
        ids.append(reply["file"]["file_id"])
    return reply


server.api_client.post = watched

told = server.voice_clone("my-voice", "samples/voice.mp3", "hello").text
assert len(ids) == 1, told
# Cloning itself is a call for upstream.
assert "404" in told and "/v1/voice_clone" in told, told

told = server.voice_clone("my-voice", "samples/too-long.mp3", "hello").text
assert "2037-voice duration too long: 305 s, at most 300 s" in told, told

server.api_client.session.headers["Authorization"] = "Bearer fg-" + "0" * 43
told = server.voice_clone("my-voice", "samples/voice.mp3", "hello").text
assert "2049-invalid api key" in told, told

print(ids[0])
