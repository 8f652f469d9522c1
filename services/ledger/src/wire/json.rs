//! JSON as the contract has it.

use caudal_proto::convert::struct_from_json;

/// A JSON object as a Struct; anything else, or one that is nested too deep, as nothing.
pub(super) fn json_struct(text: &str) -> Option<prost_types::Struct> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    struct_of(&object)
}

/// A JSON object as a Struct; one that is nested too deep as nothing.
pub(super) fn struct_of(
    object: &serde_json::Map<String, serde_json::Value>,
) -> Option<prost_types::Struct> {
    struct_from_json(object).ok()
}
