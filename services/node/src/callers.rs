//! Which services of the mesh make which of its calls in their own name: the table that narrows each to its work.

use caudal_domain::Refusal;

/// What the services of the mesh stand in.
const PACKAGE: &str = "caudal.mesh.v1.";
/// The name of the ledger in the mesh.
pub const LEDGER: &str = "ledger";
/// The name of the limiter.
pub const LIMITER: &str = "limiter";

const GATEWAY: &[&str] = &["gateway"];
const STAGES: &[&str] = &[
    "upload",
    "extract-text",
    "embeddings",
    "image-processing",
    "metadata",
];
/// A person, with what `caudal scope` signs.
const OPERATOR: &[&str] = &["operator"];

/// Of each service of the mesh its calls, and the names of those who make them in their own name.
const MESH: &[(&str, &str, &[&[&str]])] = &[
    ("LedgerService", "Lease", &[STAGES]),
    ("LedgerService", "Renew", &[STAGES]),
    ("LedgerService", "Release", &[STAGES]),
    ("LedgerService", "Report", &[STAGES]),
    ("LedgerService", "Attend", &[STAGES]),
    ("LedgerService", "CheckRecorded", &[STAGES]),
    ("LedgerService", "RequestReconcile", &[STAGES]),
    ("LedgerService", "CheckCredential", &[GATEWAY]),
    // The gateway makes these in the name of a tenant.
    ("LedgerService", "GetIssueFacts", &[]),
    ("LedgerService", "GetArtifactFacts", &[]),
    ("LedgerService", "CreateTus", &[]),
    ("LedgerService", "ListChanges", &[]),
    ("LedgerService", "ListEvents", &[]),
    ("LedgerService", "GetSnapshot", &[]),
    ("LedgerService", "GetTus", &[]),
    ("LedgerService", "LockTus", &[]),
    ("LedgerService", "AdvanceTus", &[]),
    ("LedgerService", "EndTus", &[]),
    ("LedgerService", "ListDueTus", &[GATEWAY]),
    ("LimiterService", "Acquire", &[GATEWAY, STAGES]),
    ("LimiterService", "HoldSlots", &[STAGES]),
    ("LimiterService", "Penalize", &[GATEWAY, STAGES]),
    ("LimiterService", "GetStatus", &[OPERATOR]),
    ("StageService", "GetStage", &[OPERATOR]),
    ("StageService", "Pause", &[OPERATOR]),
    ("StageService", "Resume", &[OPERATOR]),
    ("StageService", "SetConcurrency", &[OPERATOR]),
];

/// The names of those who call others in the mesh.
pub fn callers() -> impl Iterator<Item = &'static str> {
    [GATEWAY, STAGES, OPERATOR].into_iter().flatten().copied()
}

/// The name of the service that alone answers a call, `package.Service/Method`; none where several may, as of the calls of
/// all stages.
#[must_use]
pub fn answered_by(call: &str) -> Option<&'static str> {
    let (service, _) = call.split_once('/')?;
    match service.strip_prefix(PACKAGE) {
        // The public API, as the gateway hands it on.
        None | Some("LedgerService") => Some(LEDGER),
        Some("LimiterService") => Some(LIMITER),
        Some(_) => None,
    }
}

/// The calls that a person makes with what `caudal scope` signs, `package.Service/Method`.
pub fn calls_of_operators() -> impl Iterator<Item = String> {
    let calls = MESH.iter().filter(|(_, _, by)| by.contains(&OPERATOR));
    calls.map(|(service, method, _)| format!("{PACKAGE}{service}/{method}"))
}

/// Whether a service of the mesh may make a call, `package.Service/Method`, in its own name.
///
/// # Errors
/// PERMISSION_DENIED where it is none of those that do.
pub fn check_service(call: &str, name: &str) -> Result<(), Refusal> {
    let row = call
        .strip_prefix(PACKAGE)
        .and_then(|call| call.split_once('/'))
        .and_then(|(service, method)| {
            MESH.iter()
                .find(|(of, called, _)| *of == service && *called == method)
        });
    if row.is_some_and(|(_, _, callers)| callers.iter().any(|names| names.contains(&name))) {
        return Ok(());
    }
    let words = format!("service:{name} does not call {call}");
    Err(Refusal::permission_denied(words))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    /// What the descriptors say.
    fn calls_of_the_mesh() -> BTreeSet<String> {
        let set =
            prost_types::FileDescriptorSet::decode(caudal_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mesh = set
            .file
            .iter()
            .filter(|file| file.package() == "caudal.mesh.v1");
        mesh.flat_map(|file| &file.service)
            .flat_map(|service| {
                let methods = service.method.iter();
                methods.map(|method| format!("{}/{}", service.name(), method.name()))
            })
            .collect()
    }

    #[test]
    fn every_call_of_the_mesh_has_a_row_and_is_made_by_services_that_there_are() {
        let rows: BTreeSet<String> = MESH
            .iter()
            .map(|(service, method, _)| format!("{service}/{method}"))
            .collect();
        assert_eq!(calls_of_the_mesh(), rows);
        let stages: BTreeSet<&str> = caudal_domain::Stage::ALL
            .map(caudal_domain::Stage::name)
            .into();
        assert_eq!(stages, STAGES.iter().copied().collect());
        for call in calls_of_the_mesh() {
            let is_of_stages = call.starts_with("StageService/");
            let answered_by = answered_by(&format!("{PACKAGE}{call}"));
            assert_eq!(answered_by.is_none(), is_of_stages, "{call}");
        }
        let public = "caudal.v1.BatchService/GetBatch";
        assert_eq!(answered_by(public), Some(LEDGER));
        let pause = format!("{PACKAGE}StageService/Pause");
        assert!(calls_of_operators().any(|call| call == pause));
        let lease = "caudal.mesh.v1.LedgerService/Lease";
        assert_eq!(check_service(lease, "upload"), Ok(()));
        for (call, name) in [
            (lease, "gateway"),
            (lease, ""),
            ("caudal.mesh.v1.LedgerService/CheckCredential", "upload"),
            ("caudal.v1.BatchService/GetBatch", "gateway"),
            ("", "gateway"),
        ] {
            assert!(check_service(call, name).is_err(), "{call} {name}");
        }
    }
}
