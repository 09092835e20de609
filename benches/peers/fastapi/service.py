"""The upload service that people write by hand: read a part in chunks, write a file. No sync, no check, no hash."""

import os
import uuid
from pathlib import Path

from fastapi import FastAPI, UploadFile

app = FastAPI()
directory = Path(os.environ["UPLOADS"])


@app.post("/upload")
async def upload(file: UploadFile):
    name = uuid.uuid4().hex
    size = 0
    with open(directory / name, "wb") as out:
        while chunk := await file.read(64 * 1024):
            out.write(chunk)
            size += len(chunk)
    return {"id": name, "filename": file.filename, "bytes": size}
