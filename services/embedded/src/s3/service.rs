//! The S3 operations Caudal and its clients use, on the store. One bucket; whatever is not here is answered NotImplemented.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::pages::{Asked, Page, length};
use super::receive::{Declared, Received, blocking, receive};
use super::record::Attributes;
use super::store::{Opened, ReadCondition, Store, WriteCondition};
use super::uploads::NamedPart;

/// S3's bound of a page of parts.
const MAX_PARTS: i32 = 1000;
/// S3's bound of one DeleteObjects.
const MAX_DELETES: usize = 1000;

/// Cloned for each door: all are to the same store.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) store: Arc<Store>,
    pub(super) bucket: String,
}

impl Service {
    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket {
            return Ok(());
        }
        Err(s3_error!(NoSuchBucket))
    }

    fn source_of(&self, source: CopySource) -> S3Result<String> {
        match source {
            CopySource::Bucket {
                bucket,
                key,
                version_id: None,
            } => {
                self.check_bucket(&bucket)?;
                Ok(key.into_string())
            }
            _ => Err(s3_error!(
                NotImplemented,
                "a copy's source is bucket/key, without a version"
            )),
        }
    }

    async fn page(&self, asked: Asked) -> S3Result<Page> {
        self.with_store(move |store| asked.page_of(store)).await
    }

    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let store = Arc::clone(&self.store);
        blocking(move || work(&store)).await
    }
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        if req.input.bucket == self.bucket {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        Err(s3_error!(
            AccessDenied,
            "this server has one bucket, made when it starts"
        ))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let made = self.with_store(Store::made).await?;
        let bucket = Bucket {
            name: Some(self.bucket.clone()),
            creation_date: Some(made.into()),
            ..Bucket::default()
        };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(vec![bucket]),
            ..ListBucketsOutput::default()
        }))
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let declared = Declared {
            md5: input.content_md5,
            checksum: Checksum {
                checksum_crc32: input.checksum_crc32,
                checksum_crc32c: input.checksum_crc32c,
                checksum_crc64nvme: input.checksum_crc64nvme,
                checksum_sha1: input.checksum_sha1,
                checksum_sha256: input.checksum_sha256,
                ..Checksum::default()
            },
            algorithm: input.checksum_algorithm,
            trailers: req.trailing_headers,
        };
        let Received { content, etag } = receive(&self.store, input.body, declared).await?;
        let attributes = Attributes {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            metadata: input.metadata,
        };
        let condition = WriteCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        let put = self
            .store
            .put(input.key, content, etag.clone(), attributes, condition);
        put.outcome().await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        if input.part_number.is_some() || input.version_id.is_some() {
            return Err(s3_error!(NotImplemented));
        }
        let opened = self.store.get(&input.key)?;
        let condition = ReadCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        condition.check_read(&opened.etag)?;
        let range = match input.range {
            Some(range) => range.check(opened.size)?,
            None => 0..opened.size,
        };
        let content_range = input.range.map(|_| {
            let last = range.end.saturating_sub(1);
            format!("bytes {}-{last}/{}", range.start, opened.size)
        });
        let Opened {
            body,
            modified,
            etag,
            attributes,
            ..
        } = opened;
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(range.end - range.start)?),
            body: Some(body.stream(range).await?),
            content_range,
            last_modified: Some(modified.into()),
            e_tag: Some(ETag::Strong(etag)),
            content_type: attributes.content_type,
            content_encoding: attributes.content_encoding,
            content_disposition: attributes.content_disposition,
            content_language: attributes.content_language,
            cache_control: attributes.cache_control,
            metadata: attributes.metadata,
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let record = self.store.head(&input.key)?;
        let condition = ReadCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        condition.check_read(&record.etag)?;
        let attributes = record.attributes;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(record.size)?),
            last_modified: Some(record.modified.into()),
            e_tag: Some(ETag::Strong(record.etag)),
            content_type: attributes.content_type,
            content_encoding: attributes.content_encoding,
            content_disposition: attributes.content_disposition,
            content_language: attributes.content_language,
            cache_control: attributes.cache_control,
            metadata: attributes.metadata,
            ..HeadObjectOutput::default()
        }))
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let source = self.source_of(input.copy_source)?;
        let is_replacing = input
            .metadata_directive
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let replaced = is_replacing.then_some(Attributes {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            metadata: input.metadata,
        });
        let condition = ReadCondition {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
        };
        let copy = self.store.copy(source, condition, replaced, input.key);
        let etag = copy.outcome().await?;
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(ETag::Strong(etag)),
                last_modified: Some(std::time::SystemTime::now().into()),
                ..CopyObjectResult::default()
            }),
            ..CopyObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&req.input.bucket)?;
        let deleted = self.store.delete(vec![req.input.key]).outcome().await?;
        deleted.into_iter().try_for_each(|(_, outcome)| outcome)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.check_bucket(&req.input.bucket)?;
        let Delete { objects, quiet } = req.input.delete;
        if objects.len() > MAX_DELETES {
            return Err(s3_error!(MalformedXML));
        }
        let keys = objects.into_iter().map(|object| object.key).collect();
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        for (key, outcome) in self.store.delete(keys).outcome().await? {
            match outcome {
                Ok(()) => deleted.push(DeletedObject {
                    key: Some(key),
                    ..DeletedObject::default()
                }),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(key),
                    message: error.message().map(str::to_owned),
                    ..Error::default()
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (quiet != Some(true)).then_some(deleted),
            errors: (!errors.is_empty()).then_some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let asked = Asked {
            prefix: input.prefix.clone().unwrap_or_default(),
            after: input.marker.clone().unwrap_or_default(),
            delimiter: input.delimiter,
            max_keys: input.max_keys,
            encoding: input.encoding_type,
        };
        let page = self.page(asked).await?;
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| page.encoded(prefix)),
            marker: input.marker.map(|marker| page.encoded(marker)),
            next_marker: page.next.clone().map(|next| page.encoded(next)),
            delimiter: page.delimiter,
            encoding_type: page.encoding,
            max_keys: Some(page.max_keys),
            is_truncated: Some(page.next.is_some()),
            contents: Some(page.contents),
            common_prefixes: Some(page.common_prefixes),
            ..ListObjectsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        // The token is the last name of the page before.
        let after = input
            .continuation_token
            .clone()
            .or(input.start_after.clone());
        let asked = Asked {
            prefix: input.prefix.clone().unwrap_or_default(),
            after: after.unwrap_or_default(),
            delimiter: input.delimiter,
            max_keys: input.max_keys,
            encoding: input.encoding_type,
        };
        let page = self.page(asked).await?;
        let key_count = page.contents.len() + page.common_prefixes.len();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| page.encoded(prefix)),
            start_after: input.start_after.map(|after| page.encoded(after)),
            delimiter: page.delimiter,
            encoding_type: page.encoding,
            continuation_token: input.continuation_token,
            max_keys: Some(page.max_keys),
            key_count: Some(i32::try_from(key_count).map_err(S3Error::internal_error)?),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next,
            contents: Some(page.contents),
            common_prefixes: Some(page.common_prefixes),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let attributes = Attributes {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            metadata: input.metadata,
        };
        let id = self
            .store
            .create_upload(input.key.clone(), attributes)
            .await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let declared = Declared {
            md5: input.content_md5,
            checksum: Checksum {
                checksum_crc32: input.checksum_crc32,
                checksum_crc32c: input.checksum_crc32c,
                checksum_crc64nvme: input.checksum_crc64nvme,
                checksum_sha1: input.checksum_sha1,
                checksum_sha256: input.checksum_sha256,
                ..Checksum::default()
            },
            algorithm: input.checksum_algorithm,
            trailers: req.trailing_headers,
        };
        let Received { content, etag } = receive(&self.store, input.body, declared).await?;
        let (id, key, number) = (input.upload_id, input.key, input.part_number);
        self.store
            .put_part(&id, key, number, content, etag.clone())
            .await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..UploadPartOutput::default()
        }))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let source = self.source_of(input.copy_source)?;
        let condition = ReadCondition {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
        };
        let range = match input
            .copy_source_range
            .as_deref()
            .map(s3s::dto::Range::parse)
        {
            None => None,
            Some(Ok(range)) => Some(range),
            Some(Err(_)) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "copy-source-range is bytes=FIRST-LAST"
                ));
            }
        };
        // The very bytes that were opened are checked and copied.
        let source = self.store.get(&source)?;
        condition.check_source(&source.etag)?;
        let range = match range {
            Some(range) => range.check(source.size)?,
            None => 0..source.size,
        };
        let (id, key, number) = (input.upload_id, input.key, input.part_number);
        let store = Arc::clone(&self.store);
        let etag = store.copy_part(&id, key, number, source, range).await?;
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: Some(ETag::Strong(etag)),
                last_modified: Some(std::time::SystemTime::now().into()),
                ..CopyPartResult::default()
            }),
            ..UploadPartCopyOutput::default()
        }))
    }

    /// All of them in one page: there are few.
    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let unfinished = self
            .with_store(move |store| store.unfinished(&prefix))
            .await?;
        let uploads = unfinished
            .into_iter()
            .map(|(key, id, begun)| MultipartUpload {
                key: Some(key),
                upload_id: Some(id),
                initiated: Some(begun.into()),
                ..MultipartUpload::default()
            })
            .collect();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(false),
            uploads: Some(uploads),
            ..ListMultipartUploadsOutput::default()
        }))
    }

    async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let max_parts = input.max_parts.unwrap_or(MAX_PARTS).clamp(1, MAX_PARTS);
        let max = usize::try_from(max_parts).map_err(S3Error::internal_error)?;
        let after = input.part_number_marker.unwrap_or(0);
        let (id, key) = (input.upload_id.clone(), input.key.clone());
        let mut stored = self.with_store(move |store| store.parts(&id, &key)).await?;
        stored.retain(|(number, _)| PartNumber::from(*number) > after);
        let is_truncated = stored.len() > max;
        stored.truncate(max);
        let next = stored
            .last()
            .filter(|_| is_truncated)
            .map(|(number, _)| PartNumber::from(*number));
        let mut parts = Vec::new();
        for (number, part) in stored {
            parts.push(Part {
                part_number: Some(number.into()),
                size: Some(length(part.size)?),
                e_tag: Some(ETag::Strong(part.etag)),
                last_modified: Some(part.modified.into()),
                ..Part::default()
            });
        }
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: Some(max_parts),
            part_number_marker: input.part_number_marker,
            next_part_number_marker: next,
            is_truncated: Some(is_truncated),
            parts: Some(parts),
            ..ListPartsOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let completed = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default();
        let mut named = Vec::with_capacity(completed.len());
        for part in completed {
            let (Some(number), Some(etag)) = (part.part_number, part.e_tag) else {
                return Err(s3_error!(
                    MalformedXML,
                    "a part is named by its number and its ETag"
                ));
            };
            named.push(NamedPart {
                number,
                etag: etag.into_value(),
            });
        }
        let condition = WriteCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
        };
        // Clients take an answer without it for none. It stands where the request came to.
        let host = req.headers.get(http::header::HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let location = format!("http://{host}{}", req.uri.path());
        let (id, key) = (input.upload_id, input.key.clone());
        let completed = self.store.complete_upload(&id, key, named, condition);
        let etag = completed.await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            location: Some(location),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.check_bucket(&req.input.bucket)?;
        let (id, key) = (req.input.upload_id, req.input.key);
        self.store.abort_upload(&id, key).await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
