//! What made a result: the version of a stage, and the key by which providers know a repeated request.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::TenantId;
use crate::stage::Stage;

/// The version of a stage: code, model and options. Two results of the same content and version are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageVersion {
    /// Which stage.
    pub stage: Stage,
    /// The version of its code, raised by hand whenever results change.
    pub code: String,
    /// The model it uses; empty where there is none.
    pub model: String,
    /// The options that change results, spelled the same way each time (or their hash); empty where there are none.
    pub options: String,
}

/// A text that [`StageVersion::key_string`] did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stage version has the form stage/code/model/options")]
pub struct InvalidStageVersion;

impl StageVersion {
    /// A version without model and options.
    #[must_use]
    pub fn new(stage: Stage, code: impl Into<String>) -> Self {
        Self {
            stage,
            code: code.into(),
            model: String::new(),
            options: String::new(),
        }
    }

    /// The same with a model.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.model = model.into();
        self
    }

    /// The same with options.
    #[must_use]
    pub fn with_options(mut self, options: impl Into<String>) -> Self {
        self.options = options.into();
        self
    }

    /// `stage/code/model/options`, with `/` and `%` in a part escaped: two versions never have the same text, and
    /// [`FromStr`] reads it back. For tables, messages and keys.
    #[must_use]
    pub fn key_string(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.stage,
            escaped(&self.code),
            escaped(&self.model),
            escaped(&self.options)
        )
    }
}

fn escaped(part: &str) -> String {
    part.replace('%', "%25").replace('/', "%2F")
}

fn unescaped(part: &str) -> String {
    part.replace("%2F", "/").replace("%25", "%")
}

impl FromStr for StageVersion {
    type Err = InvalidStageVersion;

    fn from_str(text: &str) -> Result<Self, InvalidStageVersion> {
        let parts: Vec<&str> = text.split('/').collect();
        let [stage, code, model, options] = parts.as_slice() else {
            return Err(InvalidStageVersion);
        };
        let version = Self {
            stage: Stage::from_name(stage).ok_or(InvalidStageVersion)?,
            code: unescaped(code),
            model: unescaped(model),
            options: unescaped(options),
        };
        if version.key_string() != text {
            return Err(InvalidStageVersion);
        }
        Ok(version)
    }
}

impl fmt::Display for StageVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.stage, self.code)?;
        if !self.model.is_empty() {
            write!(formatter, ", model {}", self.model)?;
        }
        if !self.options.is_empty() {
            write!(formatter, ", options {}", self.options)?;
        }
        Ok(())
    }
}

/// The key that handlers pass on to providers: sha256, as 64 hex digits, over content, tenant, path and stage version.
/// The same work asked for twice has the same key, whatever attempt or token it has.
#[must_use]
pub fn idempotency_key(
    content_sha256: &[u8; 32],
    tenant: TenantId,
    path: &str,
    version: &StageVersion,
) -> String {
    let mut hasher = Sha256::new();
    hasher.update(content_sha256);
    hasher.update(tenant.as_bytes());
    // The length stands before the path, so that no path and version together look like another pair.
    hasher.update((path.len() as u64).to_be_bytes());
    hasher.update(path.as_bytes());
    hasher.update(version.key_string().as_bytes());
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn any_version() -> impl Strategy<Value = StageVersion> {
        (
            prop::sample::select(Stage::ALL.to_vec()),
            "[a-z0-9/%.]{0,6}|%2F|%252F",
            "[a-z0-9/%.]{0,6}",
            any::<String>(),
        )
            .prop_map(|(stage, code, model, options)| {
                StageVersion::new(stage, code)
                    .with_model(model)
                    .with_options(options)
            })
    }

    fn key_of(tenant: u128, path: &str, version: &StageVersion) -> String {
        let tenant = TenantId::from_uuid(Uuid::from_u128(tenant));
        idempotency_key(&[7; 32], tenant, path, version)
    }

    proptest! {
        #[test]
        fn a_version_reads_back_from_its_key(version in any_version()) {
            prop_assert_eq!(version.key_string().parse::<StageVersion>(), Ok(version));
        }

        #[test]
        fn two_versions_never_share_a_key(one in any_version(), other in any_version()) {
            prop_assert_eq!(one.key_string() == other.key_string(), one == other);
        }

        #[test]
        fn the_idempotency_key_changes_with_each_of_its_parts(
            version in any_version(), other in any_version(), path in any::<String>()
        ) {
            let key = key_of(1, &path, &version);
            prop_assert_eq!(key.len(), 64);
            prop_assert_eq!(&key, &key_of(1, &path, &version));
            prop_assert_ne!(&key, &key_of(2, &path, &version));
            prop_assert_ne!(&key, &key_of(1, &format!("{path}x"), &version));
            prop_assert_eq!(key == key_of(1, &path, &other), version == other);
        }
    }

    #[test]
    fn a_version_is_shown_with_what_it_has() {
        let plain = StageVersion::new(Stage::ExtractText, "3");
        assert_eq!(plain.to_string(), "extract-text 3");
        assert_eq!(plain.key_string(), "extract-text/3//");
        let full = plain.with_model("mini/lm").with_options("chunk=200");
        assert_eq!(
            full.to_string(),
            "extract-text 3, model mini/lm, options chunk=200"
        );
        assert_eq!(full.key_string(), "extract-text/3/mini%2Flm/chunk=200");
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<StageVersion>(&json).unwrap(), full);
    }

    #[test]
    fn other_texts_are_no_versions() {
        for text in [
            "",
            "upload",
            "upload/1/",
            "nothing/1//",
            "upload/1///",
            "upload/%zz//",
        ] {
            assert_eq!(
                text.parse::<StageVersion>(),
                Err(InvalidStageVersion),
                "{text}"
            );
        }
    }
}
