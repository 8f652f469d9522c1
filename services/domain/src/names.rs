//! Public resource names: `batches/{uuid}`, `batches/{uuid}/files/{ordinal}`, `batches/{uuid}/folders/{number}`,
//! `operations/{uuid}`, and for operators `tenants/{uuid}`.
//! Each thing has exactly one name: upper-case UUIDs, leading zeros and signs are refused.

use uuid::Uuid;

use crate::ids::{BatchId, TenantId};
use crate::refusal::Refusal;

/// A text that is not the name of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name of the form {form} is needed")]
pub struct NameError {
    form: &'static str,
}

impl NameError {
    /// The form that was expected, for example `batches/{uuid}`.
    #[must_use]
    pub const fn form(&self) -> &'static str {
        self.form
    }

    /// The refusal that names the request field in which the name stood.
    #[must_use]
    pub fn refusal(&self, field: &str) -> Refusal {
        Refusal::invalid(field, self.to_string())
    }
}

impl From<NameError> for Refusal {
    /// For requests whose field is called `name`.
    fn from(error: NameError) -> Self {
        error.refusal("name")
    }
}

const BATCH_FORM: NameError = NameError {
    form: "batches/{uuid}",
};
const FILE_FORM: NameError = NameError {
    form: "batches/{uuid}/files/{ordinal}",
};
const FOLDER_FORM: NameError = NameError {
    form: "batches/{uuid}/folders/{number}",
};
const OPERATION_FORM: NameError = NameError {
    form: "operations/{uuid}",
};
const TENANT_FORM: NameError = NameError {
    form: "tenants/{uuid}",
};

/// `batches/{uuid}`.
#[must_use]
pub fn batch_name(batch: BatchId) -> String {
    format!("batches/{batch}")
}

/// `batches/{uuid}/files/{ordinal}`.
#[must_use]
pub fn file_name(batch: BatchId, ordinal: u32) -> String {
    format!("batches/{batch}/files/{ordinal}")
}

/// `batches/{uuid}/folders/{number}`; the root of a batch is folder 0.
#[must_use]
pub fn folder_name(batch: BatchId, folder: u32) -> String {
    format!("batches/{batch}/folders/{folder}")
}

/// `operations/{uuid}`.
#[must_use]
pub fn operation_name(operation: Uuid) -> String {
    format!("operations/{operation}")
}

/// `tenants/{uuid}`.
#[must_use]
pub fn tenant_name(tenant: TenantId) -> String {
    format!("tenants/{tenant}")
}

/// Reads an operation's name.
pub fn parse_operation_name(name: &str) -> Result<Uuid, NameError> {
    name.strip_prefix("operations/")
        .and_then(canonical_uuid)
        .ok_or(OPERATION_FORM)
}

/// Reads a tenant's name.
pub fn parse_tenant_name(name: &str) -> Result<TenantId, NameError> {
    name.strip_prefix("tenants/")
        .and_then(canonical_uuid)
        .map(TenantId::from_uuid)
        .ok_or(TENANT_FORM)
}

/// Reads a batch's name.
pub fn parse_batch_name(name: &str) -> Result<BatchId, NameError> {
    name.strip_prefix("batches/")
        .and_then(canonical_batch)
        .ok_or(BATCH_FORM)
}

/// Reads a file's name into its batch and ordinal.
pub fn parse_file_name(name: &str) -> Result<(BatchId, u32), NameError> {
    parse_numbered(name, "/files/").ok_or(FILE_FORM)
}

/// Reads a folder's name into its batch and number.
pub fn parse_folder_name(name: &str) -> Result<(BatchId, u32), NameError> {
    parse_numbered(name, "/folders/").ok_or(FOLDER_FORM)
}

fn parse_numbered(name: &str, collection: &str) -> Option<(BatchId, u32)> {
    let (batch, number) = name.strip_prefix("batches/")?.split_once(collection)?;
    Some((canonical_batch(batch)?, canonical_number(number)?))
}

fn canonical_batch(text: &str) -> Option<BatchId> {
    let batch: BatchId = text.parse().ok()?;
    (batch.to_string() == text).then_some(batch)
}

fn canonical_uuid(text: &str) -> Option<Uuid> {
    let uuid: Uuid = text.parse().ok()?;
    (uuid.to_string() == text).then_some(uuid)
}

fn canonical_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const UUID: &str = "0192f0c1-a2b3-7c4d-8e5f-60718293a4b5";

    proptest! {
        #[test]
        fn every_name_reads_back_as_what_it_names(uuid in any::<u128>(), number in any::<u32>()) {
            let batch = BatchId::from_uuid(Uuid::from_u128(uuid));
            prop_assert_eq!(parse_batch_name(&batch_name(batch)), Ok(batch));
            prop_assert_eq!(parse_file_name(&file_name(batch, number)), Ok((batch, number)));
            let uuid = Uuid::from_u128(uuid);
            prop_assert_eq!(parse_operation_name(&operation_name(uuid)), Ok(uuid));
            let tenant = TenantId::from_uuid(uuid);
            prop_assert_eq!(parse_tenant_name(&tenant_name(tenant)), Ok(tenant));
            prop_assert_eq!(parse_folder_name(&folder_name(batch, number)), Ok((batch, number)));
        }

        #[test]
        fn what_is_read_as_a_name_is_the_only_name_of_the_thing(
            text in r"batches/[0-9a-fA-F-]{30,40}(/files/[+0-9]{1,12})?"
        ) {
            if let Ok(batch) = parse_batch_name(&text) {
                prop_assert_eq!(batch_name(batch), text.as_str());
            }
            if let Ok((batch, ordinal)) = parse_file_name(&text) {
                prop_assert_eq!(file_name(batch, ordinal), text.as_str());
            }
        }
    }

    #[test]
    fn other_spellings_are_refused_and_the_form_is_told() {
        for name in [
            String::new(),
            "batches/".to_owned(),
            UUID.to_owned(),
            format!("batches/{}", UUID.to_uppercase()),
            format!("batches/{UUID}/"),
            format!("batches/{UUID}/files/1"),
            format!(" batches/{UUID}"),
        ] {
            assert_eq!(parse_batch_name(&name), Err(BATCH_FORM), "{name}");
        }
        for name in [
            format!("batches/{UUID}/files/01"),
            format!("batches/{UUID}/files/+1"),
            format!("batches/{UUID}/files/-1"),
            format!("batches/{UUID}/files/4294967296"),
            format!("batches/{UUID}/files/"),
            format!("batches/{UUID}/folders/1"),
            format!("batches/{UUID}/files/1/files/2"),
        ] {
            assert_eq!(parse_file_name(&name), Err(FILE_FORM), "{name}");
        }
        let refusal = FOLDER_FORM.refusal("parent");
        assert_eq!(
            refusal.message,
            "parent: a name of the form batches/{uuid}/folders/{number} is needed"
        );
        assert_eq!(refusal.violations[0].field, "parent");
    }
}
