"""The tools that MCP hosts call, called directly, with a stand-in for MiniMax behind them or behind a gateway."""

import os
import re
from pathlib import Path

import requests
from minimax_mcp import server

told = server.voice_clone("my-voice-1", "samples/voice.mp3", "hello", output_directory="out").text
assert "Voice cloned successfully: Voice ID: my-voice-1" in told, told
print(re.search(r"saved as: (\S+)", told).group(1))

told = server.text_to_audio("With a voice of my own.", output_directory="out", voice_id="my-voice-1").text
assert "Success. File saved as: " in told, told
print(re.search(r"saved as: (\S+?)\. Voice", told).group(1))

assert "my-voice-1" in server.list_voices("voice_cloning").text
assert "female-shaonv" in server.list_voices("system").text

told = server.voice_clone("my-voice-2", "samples/too-long.mp3", "hello").text
assert "2037-voice duration too long" in told, told
told = server.voice_clone("my-voice-1", "samples/voice.mp3", "hello").text
assert "2039-voice clone voice id duplicate" in told, told

told = server.generate_video(prompt="a cat", async_mode=True).text
task_id = re.search(r"Task ID: (\d+)", told).group(1)
told = server.query_video_generation(task_id, "out").text
assert "is still processing" in told, told
emulator = os.environ.get("EMULATOR_URL", os.environ["MINIMAX_API_HOST"])
requests.post(emulator + "/emulate/clock", json={"advance": "10s"}).raise_for_status()
told = server.query_video_generation(task_id, "out").text
assert "Success. Video saved as: " in told, told
print(re.search(r"saved as: (\S+)", told).group(1))

server.api_client.session.headers["Authorization"] = "Bearer sk-nobody"
told = server.list_voices("system").text
assert "2049-invalid api key" in told, told
assert all(Path(name).stat().st_size > 1000 for name in Path("out").iterdir())
