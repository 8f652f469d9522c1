//! What a message will weigh when it is read. An element of two bytes becomes a hundred in memory, so what a tenant sends at
//! once is bounded by weight, and a message of nothing but tiny elements is refused before it is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use caudal_domain::limits::MAX_MESSAGE_BYTES;
use caudal_domain::{Refusal, TenantId};
use caudal_proto::FILE_DESCRIPTOR_SET;
use caudal_proto::status::to_status;
use futures::{StreamExt as _, stream};
use prost::Message as _;
use prost::bytes::{Buf as _, Bytes, BytesMut};
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::{Label, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// A flag and the length.
const HEAD_BYTES: usize = 5;
/// What is smaller is let through unlooked at.
const SMALL: usize = 64 * 1024;
/// What an element of a repeated field takes in memory, beside its text.
const ELEMENT_BYTES: usize = 128;
/// What a message may weigh for each of its bytes, and beside that. Pages of honest entries weigh less, with metadata of nothing
/// but yes and no too.
const WEIGHT_A_BYTE: usize = 16;
const WEIGHT_BESIDE: usize = 4 * 1024 * 1024;
/// What the messages of one tenant that are in work may weigh: one of the largest at a time, or many of the usual.
const MOST_OF_A_TENANT: usize = MAX_MESSAGE_BYTES * WEIGHT_A_BYTE;
/// In which units it is counted.
const UNIT: usize = 1024;
/// Messages inside messages; whoever reads them goes no deeper either.
const DEPTH: usize = 100;
/// Tenants whose pools are kept at once, and beyond it those that are in use.
const MOST_TENANTS: usize = 10_000;

/// A field that has weight.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// Repeated texts.
    Texts,
    /// Repeated messages of this kind.
    Messages(usize),
    /// One message of this kind.
    Message(usize),
}

/// The kinds of messages, and which calls take which.
struct Contract {
    fields: Vec<HashMap<u64, Field>>,
    calls: HashMap<String, usize>,
}

/// The pools of the tenants; none for operators.
type Pools = HashMap<Option<TenantId>, Arc<Semaphore>>;

/// Weighs messages.
#[derive(Clone)]
pub(crate) struct Scales {
    contract: Arc<Contract>,
    pools: Arc<Mutex<Pools>>,
}

/// What a message that is in work weighs; given back when it is dropped.
pub(crate) struct Weight {
    _taken: OwnedSemaphorePermit,
}

impl Contract {
    fn read() -> Result<Self, prost::DecodeError> {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?;
        let mut all = Vec::new();
        for file in &set.file {
            let mut inner: Vec<_> = file
                .message_type
                .iter()
                .map(|message| (format!(".{}.{}", file.package(), message.name()), message))
                .collect();
            while let Some((name, message)) = inner.pop() {
                let nested = message.nested_type.iter();
                inner.extend(nested.map(|nested| (format!("{name}.{}", nested.name()), nested)));
                all.push((name, message));
            }
        }
        let kinds: HashMap<&str, usize> = all
            .iter()
            .enumerate()
            .map(|(kind, (name, _))| (name.as_str(), kind))
            .collect();
        let fields = all.iter().map(|(_, message)| {
            let fields = message.field.iter().filter_map(|field| {
                let kind = kinds.get(field.type_name()).copied();
                let weighs = match (field.label(), field.r#type()) {
                    (Label::Repeated, Type::String | Type::Bytes) => Field::Texts,
                    (Label::Repeated, Type::Message) => Field::Messages(kind?),
                    (_, Type::Message) => Field::Message(kind?),
                    _ => return None,
                };
                Some((u64::from(field.number().unsigned_abs()), weighs))
            });
            fields.collect()
        });
        let fields = fields.collect();
        let services = set
            .file
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file, service)));
        let calls = services.flat_map(|(file, service)| {
            service.method.iter().map(move |method| {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                (path, method.input_type())
            })
        });
        let calls = calls
            .filter_map(|(path, input)| Some((path, *kinds.get(input)?)))
            .collect();
        Ok(Self { fields, calls })
    }

    /// Whether a message weighs no more than `left`. Bytes that cannot be read are for whoever reads them.
    fn fits(&self, kind: usize, mut bytes: &[u8], left: &mut usize, depth: usize) -> bool {
        while !bytes.is_empty() && depth > 0 {
            let Ok(key) = prost::encoding::decode_varint(&mut bytes) else {
                return true;
            };
            let skipped = match key & 7 {
                0 => match prost::encoding::decode_varint(&mut bytes) {
                    Ok(_) => continue,
                    Err(_) => return true,
                },
                1 => 8,
                5 => 4,
                2 => match prost::encoding::decode_varint(&mut bytes).map(usize::try_from) {
                    Ok(Ok(length)) => length,
                    _ => return true,
                },
                _ => return true,
            };
            let Some((value, rest)) = bytes.split_at_checked(skipped) else {
                return true;
            };
            bytes = rest;
            let field = self
                .fields
                .get(kind)
                .and_then(|fields| fields.get(&(key >> 3)));
            let inner = match field {
                Some(Field::Message(inner) | Field::Messages(inner)) => Some(*inner),
                Some(Field::Texts) | None => None,
            };
            if matches!(field, Some(Field::Texts | Field::Messages(_))) {
                let Some(less) = left.checked_sub(ELEMENT_BYTES) else {
                    return false;
                };
                *left = less;
            }
            if let Some(inner) = inner
                && !self.fits(inner, value, left, depth - 1)
            {
                return false;
            }
        }
        true
    }
}

impl Scales {
    pub(crate) fn new() -> Result<Self, prost::DecodeError> {
        Ok(Self {
            contract: Arc::new(Contract::read()?),
            pools: Arc::default(),
        })
    }

    /// The request as it was, and its weight while it is in work; waits until the tenant's other messages leave room for it.
    pub(crate) async fn weigh(
        &self,
        tenant: Option<TenantId>,
        request: Request,
    ) -> Result<(Request, Option<Weight>), Status> {
        let (head, body) = request.into_parts();
        let mut rest = body.into_data_stream();
        let mut read = BytesMut::new();
        read_on(&mut rest, &mut read, HEAD_BYTES).await?;
        let length = length_of(&read);
        let (Some(kind), Some(length)) = (self.contract.calls.get(head.uri.path()), length) else {
            return Ok((Request::from_parts(head, whole(read, rest)), None));
        };
        if length <= SMALL || length > MAX_MESSAGE_BYTES {
            return Ok((Request::from_parts(head, whole(read, rest)), None));
        }
        let units = (length * WEIGHT_A_BYTE).min(MOST_OF_A_TENANT) / UNIT;
        let taken = self
            .pool(tenant)
            .acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX))
            .await
            .map_err(|_| to_status(&Refusal::internal()))?;
        read.reserve(HEAD_BYTES + length - read.len().min(HEAD_BYTES + length));
        read_on(&mut rest, &mut read, HEAD_BYTES + length).await?;
        let message = read
            .get(HEAD_BYTES..HEAD_BYTES + length)
            .unwrap_or_default();
        let mut left = length * WEIGHT_A_BYTE + WEIGHT_BESIDE;
        if !self.contract.fits(*kind, message, &mut left, DEPTH) {
            let words = format!(
                "holds so many elements in {length} bytes that they would take {} MB; send fewer at once",
                (length * WEIGHT_A_BYTE + WEIGHT_BESIDE) >> 20
            );
            let refusal = Refusal::invalid("(message)", words).with_reason("TOO_MANY_ELEMENTS");
            return Err(to_status(&refusal));
        }
        let request = Request::from_parts(head, whole(read, rest));
        Ok((request, Some(Weight { _taken: taken })))
    }

    fn pool(&self, tenant: Option<TenantId>) -> Arc<Semaphore> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= MOST_TENANTS {
            pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        }
        let new = || Arc::new(Semaphore::new(MOST_OF_A_TENANT / UNIT));
        Arc::clone(pools.entry(tenant).or_insert_with(new))
    }
}

/// The length of the message that a head announces; none where it is compressed, or there is none.
fn length_of(read: &BytesMut) -> Option<usize> {
    let mut head = read.get(..HEAD_BYTES)?;
    let is_compressed = head.get_u8() != 0;
    usize::try_from(head.get_u32())
        .ok()
        .filter(|_| !is_compressed)
}

/// Reads until there are so many bytes, or no more.
async fn read_on(
    rest: &mut BodyDataStream,
    read: &mut BytesMut,
    bytes: usize,
) -> Result<(), Status> {
    while read.len() < bytes {
        match rest.next().await {
            Some(Ok(more)) => read.extend_from_slice(&more),
            Some(Err(error)) => {
                let words = format!("the request broke off: {error}");
                return Err(Status::cancelled(words));
            }
            None => return Ok(()),
        }
    }
    Ok(())
}

/// What was read, and what comes after it.
fn whole(read: BytesMut, rest: BodyDataStream) -> Body {
    let read: Result<Bytes, axum::Error> = Ok(read.freeze());
    Body::from_stream(stream::iter([read]).chain(rest))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use std::time::Duration;

    use caudal_proto::v1;
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct, Value};
    use uuid::Uuid;

    use super::*;

    const ADD: &str = "/caudal.v1.BatchService/AddEntries";
    const COUNT: &str = "/caudal.v1.FileService/CountFiles";

    fn request(path: &str, message: &impl prost::Message) -> Request {
        let bytes = message.encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        body.extend(bytes);
        // In pieces, as it comes.
        let pieces = body
            .chunks(1_000)
            .map(|piece| Ok::<_, axum::Error>(piece.to_vec()));
        let pieces: Vec<_> = pieces.collect();
        let body = Body::from_stream(stream::iter(pieces));
        Request::builder().uri(path).body(body).unwrap()
    }

    async fn weighed(path: &str, message: &impl prost::Message) -> Result<usize, Status> {
        let scales = Scales::new().unwrap();
        let (request, _weight) = scales.weigh(None, request(path, message)).await?;
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        Ok(body.unwrap().len() - HEAD_BYTES)
    }

    fn entry(metadata: Struct) -> v1::Entry {
        v1::Entry {
            path: "folder/of/the/usual/depth/and/a/name.txt".into(),
            kind: Some(v1::entry::Kind::File(v1::FileEntry {
                size: 1,
                metadata: Some(metadata),
                ..v1::FileEntry::default()
            })),
        }
    }

    #[tokio::test]
    async fn a_message_of_tiny_elements_is_refused_before_it_is_read_and_an_honest_page_is_not() {
        let nothing = v1::AddEntriesRequest {
            entries: vec![v1::Entry::default(); 2_000_000],
            ..v1::AddEntriesRequest::default()
        };
        let refused = weighed(ADD, &nothing).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let texts = v1::CountFilesRequest {
            selector: Some(v1::FileSelector {
                reasons: vec![String::new(); 1_000_000],
                ..v1::FileSelector::default()
            }),
            ..v1::CountFilesRequest::default()
        };
        assert!(weighed(COUNT, &texts).await.is_err());
        let null = Value {
            kind: Some(Kind::NullValue(0)),
        };
        let nulls = Value {
            kind: Some(Kind::ListValue(ListValue {
                values: vec![null; 500_000],
            })),
        };
        let deep = v1::AddEntriesRequest {
            entries: vec![entry(Struct {
                fields: [("all".to_owned(), nulls)].into(),
            })],
            ..v1::AddEntriesRequest::default()
        };
        assert!(weighed(ADD, &deep).await.is_err());

        let yes = Value {
            kind: Some(Kind::BoolValue(true)),
        };
        let fields = (0..300).map(|number| (number.to_string(), yes.clone()));
        let honest = v1::AddEntriesRequest {
            entries: vec![
                entry(Struct {
                    fields: fields.collect()
                });
                1_000
            ],
            ..v1::AddEntriesRequest::default()
        };
        assert_eq!(weighed(ADD, &honest).await.unwrap(), honest.encoded_len());
    }

    #[tokio::test]
    async fn what_a_tenant_has_in_work_leaves_room_or_is_waited_for_and_another_waits_for_nothing()
    {
        let scales = Scales::new().unwrap();
        let page = v1::AddEntriesRequest {
            request_id: "x".repeat(MAX_MESSAGE_BYTES * 3 / 4),
            ..v1::AddEntriesRequest::default()
        };
        let [one, other] = [1, 2].map(|id| Some(TenantId::from_uuid(Uuid::from_u128(id))));
        let (_, first) = scales.weigh(one, request(ADD, &page)).await.unwrap();
        assert!(first.is_some());
        let second = scales.weigh(one, request(ADD, &page));
        assert!(
            tokio::time::timeout(Duration::from_millis(50), second)
                .await
                .is_err()
        );
        assert!(scales.weigh(other, request(ADD, &page)).await.is_ok());
        let small = v1::AddEntriesRequest::default();
        let (_, none) = scales.weigh(one, request(ADD, &small)).await.unwrap();
        assert!(none.is_none());
        drop(first);
        assert!(scales.weigh(one, request(ADD, &page)).await.is_ok());
    }
}
