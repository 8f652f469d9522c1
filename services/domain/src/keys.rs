//! Object keys: the only place that builds them. Each begins with the tenant, and can be computed from a row.

use uuid::Uuid;

use crate::ids::{BatchId, BatchRef, FileRef, Generation, Target, TenantId, Token};
use crate::limits::{MAX_ARTIFACT_NAME_BYTES, MAX_NONCE_BYTES};
use crate::stage::Stage;

/// `{tenant}/`: what every key of a tenant begins with.
#[must_use]
pub fn tenant_prefix(tenant: TenantId) -> String {
    format!("{tenant}/")
}

/// Where a client's bytes land: `{tenant}/landing/{batch}/{ordinal}/{target}` (protocol 12.1: the target keeps the late
/// delete of one upload away from the bytes of the next).
#[must_use]
pub fn landing_key(file: FileRef, target: Target) -> String {
    format!("{}{target}", landing_prefix(file))
}

/// What the landing keys of a file begin with, and nothing else does.
#[must_use]
pub fn landing_prefix(file: FileRef) -> String {
    let FileRef {
        tenant,
        batch,
        ordinal,
    } = file;
    format!("{tenant}/landing/{batch}/{ordinal}/")
}

/// What the landing keys of a batch begin with, and nothing else does.
#[must_use]
pub fn landing_of_batch(BatchRef { tenant, batch }: BatchRef) -> String {
    format!("{tenant}/landing/{batch}/")
}

/// The file and the target of a landing key; `None`: it is another key.
#[must_use]
pub fn parse_landing_key(key: &str) -> Option<(FileRef, Target)> {
    let mut parts = key.split('/');
    let tenant = parts.next()?;
    if parts.next()? != "landing" {
        return None;
    }
    let file = file_of(tenant, parts.next()?, parts.next()?)?;
    let target = Target(parts.next()?.parse().ok()?);
    (parts.next().is_none() && landing_key(file, target) == key).then_some((file, target))
}

fn file_of(tenant: &str, batch: &str, ordinal: &str) -> Option<FileRef> {
    let tenant = TenantId::from_uuid(Uuid::parse_str(tenant).ok()?);
    let batch = BatchId::from_uuid(Uuid::parse_str(batch).ok()?);
    Some(FileRef::new(tenant, batch, ordinal.parse().ok()?))
}

/// What the keys of an upload through gateways begin with: `{tenant}/tus/{upload}/`. They belong to it alone, so whoever
/// sends the same file another way is not disturbed.
#[must_use]
pub fn tus_prefix(tenant: TenantId, upload: Uuid) -> String {
    format!("{tenant}/tus/{upload}/")
}

/// Where its parts become one object.
#[must_use]
pub fn tus_bytes_key(tenant: TenantId, upload: Uuid) -> String {
    format!("{}bytes", tus_prefix(tenant, upload))
}

/// Where the bytes are kept that fill no part yet: the number, of the right to write under which they were put there, keeps
/// a gateway that was late from replacing those of another.
#[must_use]
pub fn tus_tail_key(tenant: TenantId, upload: Uuid, number: u64) -> String {
    format!("{}tail-{number}", tus_prefix(tenant, upload))
}

/// Where verified bytes stay: `{tenant}/files/{batch}/{ordinal}/{sha256 in hex}` (protocol 12.4: the hash keeps a late
/// copy from replacing other bytes).
#[must_use]
pub fn final_key(file: FileRef, sha256: &[u8; 32]) -> String {
    let FileRef {
        tenant,
        batch,
        ordinal,
    } = file;
    format!("{tenant}/files/{batch}/{ordinal}/{}", hex::encode(sha256))
}

/// What the final keys of a batch begin with, and nothing else does.
#[must_use]
pub fn finals_of_batch(BatchRef { tenant, batch }: BatchRef) -> String {
    format!("{tenant}/files/{batch}/")
}

/// The file and the checksum that a final key names; `None`: it is another key.
#[must_use]
pub fn parse_final_key(key: &str) -> Option<(FileRef, [u8; 32])> {
    let mut parts = key.split('/');
    let tenant = parts.next()?;
    if parts.next()? != "files" {
        return None;
    }
    let file = file_of(tenant, parts.next()?, parts.next()?)?;
    let mut sha256 = [0; 32];
    hex::decode_to_slice(parts.next()?, &mut sha256).ok()?;
    (parts.next().is_none() && key == final_key(file, &sha256)).then_some((file, sha256))
}

/// Where one execution writes: `{tenant}/{batch}/{ordinal}/{generation}/{stage}/{token}-{nonce}/` (protocol 6.1: the
/// nonce, new for each execution, keeps a second execution of one token from replacing what the first recorded).
/// The nonce has at most [`MAX_NONCE_BYTES`] letters and digits.
#[must_use]
pub fn artifact_prefix(
    file: FileRef,
    generation: Generation,
    stage: Stage,
    token: Token,
    nonce: &str,
) -> String {
    debug_assert!(
        !nonce.is_empty()
            && nonce.len() <= MAX_NONCE_BYTES
            && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "a nonce has 1 to {MAX_NONCE_BYTES} letters and digits"
    );
    let FileRef {
        tenant,
        batch,
        ordinal,
    } = file;
    format!("{tenant}/{batch}/{ordinal}/{generation}/{stage}/{token}-{nonce}/")
}

/// The key of one artifact: [`artifact_prefix`] and its name, which [`check_artifact_name`] must accept.
#[must_use]
pub fn artifact_key(
    file: FileRef,
    generation: Generation,
    stage: Stage,
    token: Token,
    nonce: &str,
    name: &str,
) -> String {
    debug_assert!(
        check_artifact_name(name).is_ok(),
        "{name:?} names no artifact"
    );
    let mut key = artifact_prefix(file, generation, stage, token, nonce);
    key.push_str(name);
    key
}

/// What the keys of the artifacts of a batch begin with, and nothing else does.
#[must_use]
pub fn artifacts_of_batch(BatchRef { tenant, batch }: BatchRef) -> String {
    format!("{tenant}/{batch}/")
}

/// One execution of a stage, as the keys of what it wrote name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The file.
    pub file: FileRef,
    /// Of the file.
    pub generation: Generation,
    /// Who wrote.
    pub stage: Stage,
    /// The one it ran under.
    pub token: Token,
    /// New for each execution.
    pub nonce: String,
}

/// The execution that wrote an artifact's key; `None`: it is another key.
#[must_use]
pub fn parse_artifact_key(key: &str) -> Option<Execution> {
    let mut parts = key.split('/');
    let file = file_of(parts.next()?, parts.next()?, parts.next()?)?;
    let generation = Generation(parts.next()?.parse().ok()?);
    let stage = parts.next()?;
    let stage = Stage::ALL.into_iter().find(|known| known.name() == stage)?;
    let (token, nonce) = parts.next()?.split_once('-')?;
    let name = parts.next()?;
    let execution = Execution {
        file,
        generation,
        stage,
        token: Token(token.parse().ok()?),
        nonce: nonce.to_owned(),
    };
    let fits = parts.next().is_none() && !name.is_empty() && !nonce.is_empty();
    fits.then_some(execution)
}

/// A text that cannot name an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an artifact's name has 1 to {MAX_ARTIFACT_NAME_BYTES} of a-z, 0-9, '.', '_', '-' and begins with a letter or digit"
)]
pub struct InvalidArtifactName;

/// Whether `name` may be an artifact's: 1 to [`MAX_ARTIFACT_NAME_BYTES`] of `a-z 0-9 . _ -`, the first a letter or digit.
pub fn check_artifact_name(name: &str) -> Result<(), InvalidArtifactName> {
    let bytes = name.as_bytes();
    let Some(first) = bytes.first() else {
        return Err(InvalidArtifactName);
    };
    let begins_well = first.is_ascii_lowercase() || first.is_ascii_digit();
    let allowed = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
    };
    if bytes.len() > MAX_ARTIFACT_NAME_BYTES || !begins_well || !bytes.iter().all(allowed) {
        return Err(InvalidArtifactName);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MAX_KEY_BYTES;

    fn largest_file() -> FileRef {
        FileRef::new(
            TenantId::from_uuid(Uuid::max()),
            BatchId::from_uuid(Uuid::max()),
            u32::MAX,
        )
    }

    fn largest_artifact_key(stage: Stage) -> String {
        artifact_key(
            largest_file(),
            Generation(u32::MAX),
            stage,
            // Databases keep tokens as signed 64-bit numbers.
            Token(i64::MAX as u64),
            &"f".repeat(MAX_NONCE_BYTES),
            &"n".repeat(MAX_ARTIFACT_NAME_BYTES),
        )
    }

    #[test]
    fn the_longest_key_of_each_kind_has_at_most_160_bytes() {
        let file = largest_file();
        let mut keys = vec![
            landing_key(file, Target(u32::MAX)),
            final_key(file, &[255; 32]),
            tus_bytes_key(file.tenant, Uuid::max()),
            tus_tail_key(file.tenant, Uuid::max(), u64::MAX),
        ];
        keys.extend(Stage::ALL.into_iter().map(largest_artifact_key));
        for key in &keys {
            assert!(key.len() <= MAX_KEY_BYTES, "{} bytes: {key}", key.len());
            assert!(key.starts_with(&tenant_prefix(file.tenant)), "{key}");
        }
        let longest = keys.iter().map(String::len).max();
        assert_eq!(longest, Some(MAX_KEY_BYTES), "names could be longer");
    }

    #[test]
    fn keys_are_read_as_they_are_spelled_and_no_other_is() {
        let file = FileRef::new(
            TenantId::from_uuid(Uuid::from_u128(1)),
            BatchId::from_uuid(Uuid::from_u128(2)),
            13,
        );
        let landing = landing_key(file, Target(3));
        assert!(landing.starts_with(&landing_of_batch(file.batch_ref())));
        assert_eq!(parse_landing_key(&landing), Some((file, Target(3))));
        let execution = Execution {
            file,
            generation: Generation(2),
            stage: Stage::ExtractText,
            token: Token(9),
            nonce: "0a1b2c3d".into(),
        };
        let artifact = artifact_key(
            file,
            execution.generation,
            execution.stage,
            execution.token,
            &execution.nonce,
            "text.txt",
        );
        assert!(artifact.starts_with(&artifacts_of_batch(file.batch_ref())));
        assert_eq!(parse_artifact_key(&artifact), Some(execution));
        let original = final_key(file, &[1; 32]);
        assert!(original.starts_with(&finals_of_batch(file.batch_ref())));
        assert_eq!(parse_final_key(&original), Some((file, [1; 32])));
        let tus = tus_bytes_key(file.tenant, Uuid::from_u128(3));
        let shorter = &original[..original.len() - 2];
        let louder = format!(
            "{tenant}/files/{batch}/13/{}",
            "AB".repeat(32),
            tenant = file.tenant,
            batch = file.batch
        );
        for other in [shorter, &louder, &landing, &artifact, &tus] {
            assert_eq!(parse_final_key(other), None, "{other}");
        }
        for other in [&original, &tus, &landing] {
            assert_eq!(parse_artifact_key(other), None, "{other}");
        }
        let beyond = format!("{landing}/x");
        let padded = landing.replace("/13/", "/013/");
        for other in [&original, &tus, &artifact, &beyond, &padded] {
            assert_eq!(parse_landing_key(other), None, "{other}");
        }
    }

    #[test]
    fn keys_are_spelled_as_the_documentation_says() {
        let tenant = TenantId::from_uuid(Uuid::from_u128(1));
        let batch = BatchId::from_uuid(Uuid::from_u128(2));
        let file = FileRef::new(tenant, batch, 13);
        assert_eq!(
            landing_key(file, Target(3)),
            format!("{tenant}/landing/{batch}/13/3")
        );
        assert_eq!(
            final_key(file, &[0xAB; 32]),
            format!("{tenant}/files/{batch}/13/{}", "ab".repeat(32))
        );
        assert_eq!(
            artifact_key(
                file,
                Generation(2),
                Stage::ExtractText,
                Token(9),
                "0a1b2c3d",
                "text.txt"
            ),
            format!("{tenant}/{batch}/13/2/extract-text/9-0a1b2c3d/text.txt")
        );
    }

    #[test]
    fn names_that_could_leave_their_prefix_or_confuse_are_no_artifact_names() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "A",
            "é",
            "-x",
            "a b",
            "nnnnnnnnnnnnnnnnnnn",
        ] {
            assert!(check_artifact_name(name).is_err(), "{name:?}");
        }
        for name in [
            "text.txt",
            "thumbnail.webp",
            "embeddings.arrow",
            "0",
            "page-1_a.json",
        ] {
            assert!(check_artifact_name(name).is_ok(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn two_executions_never_share_a_prefix(
            one in (any::<u32>(), any::<u32>(), any::<u64>(), "[0-9a-f]{8}"),
            other in (any::<u32>(), any::<u32>(), any::<u64>(), "[0-9a-f]{8}")
        ) {
            let prefix = |(ordinal, generation, token, nonce): &(u32, u32, u64, String)| {
                let file = FileRef { ordinal: *ordinal, ..largest_file() };
                artifact_prefix(file, Generation(*generation), Stage::Upload, Token(*token), nonce)
            };
            prop_assert_eq!(prefix(&one) == prefix(&other), one == other);
        }
    }
}
