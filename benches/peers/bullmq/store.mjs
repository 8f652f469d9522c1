// The object store, through the AWS SDK with connections that are kept.
import { Agent } from "node:http";

import {
  GetObjectCommand,
  HeadObjectCommand,
  paginateListObjectsV2,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

import { settings } from "./settings.mjs";

const { endpoint, bucket: Bucket, ...credentials } = settings.s3;
const SHA256 = "x-amz-checksum-sha256";

const client = new S3Client({
  endpoint,
  credentials,
  region: "us-east-1",
  forcePathStyle: true,
  // The checksum that the client declares is verified by the store; the SDK's own CRC32 would cost time beside it.
  requestChecksumCalculation: "WHEN_REQUIRED",
  responseChecksumValidation: "WHEN_REQUIRED",
  requestHandler: { httpAgent: new Agent({ keepAlive: true, maxSockets: 256 }) },
});

// A URL that takes bytes of this SHA-256 alone, and the headers that go with it.
export async function signPut(Key, sha256) {
  const command = new PutObjectCommand({ Bucket, Key, ChecksumSHA256: sha256 });
  const url = await getSignedUrl(client, command, {
    expiresIn: 3600,
    unhoistableHeaders: new Set([SHA256]),
  });
  return { url, headers: { [SHA256]: sha256 } };
}

export async function head(Key) {
  const found = await client.send(new HeadObjectCommand({ Bucket, Key }));
  return { size: found.ContentLength, etag: found.ETag };
}

export async function getBytes(Key) {
  const found = await client.send(new GetObjectCommand({ Bucket, Key }));
  return found.Body.transformToByteArray();
}

export async function putText(Key, text) {
  await client.send(
    new PutObjectCommand({ Bucket, Key, Body: text, ContentType: "text/plain; charset=utf-8" }),
  );
}

export async function countObjects(Prefix) {
  let found = 0;
  for await (const page of paginateListObjectsV2({ client }, { Bucket, Prefix })) {
    found += page.Contents?.length ?? 0;
  }
  return found;
}
