"""tuspy as it comes from PyPI: whole, in chunks, with checksums, and gone on with by another process."""

import hashlib
import io
import json
import os

from tusclient.client import TusClient

MIB = 1 << 20
BATCH = os.environ["CAUDAL_BATCH"]
ENDPOINT = os.environ["CAUDAL_GATEWAY"] + "/files/"
client = TusClient(ENDPOINT, headers={"Authorization": "Bearer " + os.environ["CAUDAL_API_KEY"]})


def sent(path: str, content: bytes) -> None:
    print(json.dumps({"path": path, "sha256": hashlib.sha256(content).hexdigest()}), flush=True)


def upload(path: str, content: bytes, **options) -> None:
    uploader = client.uploader(file_stream=io.BytesIO(content), metadata={"batch": BATCH, "path": path}, **options)
    uploader.upload()
    sent(path, content)


upload("whole.bin", os.urandom(9 * MIB))
upload("chunks.bin", os.urandom(5 * MIB + 1), chunk_size=MIB)
upload("checked.bin", os.urandom(3 * MIB), chunk_size=MIB, upload_checksum=True)

content = os.urandom(4 * MIB)
first = client.uploader(file_stream=io.BytesIO(content), metadata={"batch": BATCH, "path": "resumed.bin"}, chunk_size=MIB)
first.upload_chunk()
first.upload_chunk()
second = client.uploader(file_stream=io.BytesIO(content), url=first.url, chunk_size=MIB)
assert second.get_offset() == 2 * MIB, second.get_offset()
second.upload()
sent("resumed.bin", content)
