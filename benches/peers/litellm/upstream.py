"""What LiteLLM forwards files to: takes any POST, keeps its body (a form, as it came) and answers as OpenAI does, at once.

upstream.py PORT DIR. It reads heads and Content-Length only, so that nearly none of the time is its own.
"""

import asyncio
import json
import os
import sys
import time
import uuid


async def connection(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            if headers.get(b"transfer-encoding") == b"chunked":
                body = await chunks(reader)
            else:
                body = await reader.readexactly(int(headers.get(b"content-length", 0)))
            name = "file-" + uuid.uuid4().hex
            with open(os.path.join(directory, name), "wb") as out:
                out.write(body)
            answer = json.dumps({"id": name, "object": "file", "bytes": len(body), "created_at": int(time.time()),
                                 "filename": "upload", "purpose": "user_data", "status": "processed"}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer))
            writer.write(answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def chunks(reader):
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", int(sys.argv[1]), limit=1 << 20)
    await server.serve_forever()


directory = sys.argv[2]
asyncio.run(main())
