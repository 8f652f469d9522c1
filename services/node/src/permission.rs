//! Who may call what: the one table of the public API. The gateway looks into it before anything of a call is read; a call
//! that has no row here is served to nobody.

use caudal_domain::Refusal;

use crate::scope::Role;

/// Where a refusal says which role the caller has.
pub const ROLE: &str = "role";

/// A set of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles(u8);

const fn bit(role: Role) -> u8 {
    1 << role as u8
}

impl Roles {
    const fn of(roles: &[Role]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < roles.len() {
            bits |= bit(roles[index]);
            index += 1;
        }
        Self(bits)
    }

    /// Whether a role is among them.
    #[must_use]
    pub const fn has(self, role: Role) -> bool {
        self.0 & bit(role) != 0
    }
}

/// Whoever may look at a tenant.
const READ: Roles = Roles::of(&[Role::Viewer, Role::Member, Role::Admin]);
/// Whoever may look at one batch.
const FOLLOW: Roles = Roles::of(&[Role::Uploader, Role::Viewer, Role::Member, Role::Admin]);
/// Whoever may act on batches and files.
const ACT: Roles = Roles::of(&[Role::Member, Role::Admin]);
/// Whoever may fill a batch.
const FILL: Roles = Roles::of(&[Role::Uploader, Role::Member, Role::Admin]);
/// Whoever runs a tenant.
const RUN_TENANT: Roles = Roles::of(&[Role::Admin]);
/// Whoever runs the system.
const RUN: Roles = Roles::of(&[Role::Operator]);
/// Operations of a tenant, and those of operators.
const READ_OPERATIONS: Roles =
    Roles::of(&[Role::Viewer, Role::Member, Role::Admin, Role::Operator]);
/// The same, to end them.
const END_OPERATIONS: Roles = Roles::of(&[Role::Member, Role::Admin, Role::Operator]);

type Rows = &'static [(&'static str, Roles)];

/// Of each service its calls, and who may make them.
const TABLE: &[(&str, Rows)] = &[
    (
        "caudal.v1.BatchService",
        &[
            ("CreateBatch", ACT),
            ("GetBatch", FOLLOW),
            ("ListBatches", READ),
            ("AddEntries", FILL),
            ("CompleteBatch", FILL),
            ("UpdateBatch", ACT),
            ("CancelBatch", ACT),
            ("PauseBatch", ACT),
            ("ResumeBatch", ACT),
            ("ListFolders", READ),
            ("CreateUploadToken", ACT),
            ("WatchBatch", FOLLOW),
        ],
    ),
    (
        "caudal.v1.UploadService",
        &[
            ("IssueUploads", FILL),
            ("ConfirmUploads", FILL),
            ("LeaveOutFiles", FILL),
            ("SignUploadCall", FILL),
            ("ListParts", FILL),
            ("AbortParts", FILL),
        ],
    ),
    (
        "caudal.v1.FileService",
        &[
            ("GetFile", READ),
            ("ListFiles", READ),
            ("CountFiles", READ),
            ("ListFileHistory", READ),
            ("ListFailures", READ),
            ("GetArtifact", READ),
            ("RetryFiles", ACT),
            ("CancelFiles", ACT),
            ("ReprocessFiles", ACT),
            ("DismissFailures", ACT),
        ],
    ),
    ("caudal.v1.EventService", &[("WatchEvents", READ)]),
    (
        "caudal.v1.TenantService",
        &[
            ("GetUsage", READ),
            ("CreateApiKey", RUN_TENANT),
            ("ListApiKeys", RUN_TENANT),
            ("RevokeApiKey", RUN_TENANT),
            ("RotateApiKey", RUN_TENANT),
            ("ListAudit", RUN_TENANT),
        ],
    ),
    (
        "caudal.v1.OperatorService",
        &[
            ("CountAged", RUN),
            ("ListStages", RUN),
            ("UpdateStage", RUN),
            ("ListFailures", RUN),
            ("RetryFiles", RUN),
            ("CancelFiles", RUN),
            ("ReprocessFiles", RUN),
            ("DismissFailures", RUN),
            ("CreateTenant", RUN),
            ("GetTenant", RUN),
            ("ListTenants", RUN),
            ("UpdateTenant", RUN),
            ("CloseTenant", RUN),
            ("CreateApiKey", RUN),
            ("ListApiKeys", RUN),
            ("RevokeApiKey", RUN),
            ("RotateApiKey", RUN),
            ("ListAudit", RUN),
        ],
    ),
    (
        "google.longrunning.Operations",
        &[
            ("ListOperations", READ_OPERATIONS),
            ("GetOperation", READ_OPERATIONS),
            ("WaitOperation", READ_OPERATIONS),
            ("DeleteOperation", END_OPERATIONS),
            ("CancelOperation", END_OPERATIONS),
        ],
    ),
];

/// Who may make a call, by its path `/service/Method`. `None`: there is no such call.
#[must_use]
pub fn roles_of(path: &str) -> Option<Roles> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, rows) = TABLE.iter().find(|(name, _)| *name == service)?;
    rows.iter()
        .find(|(name, _)| *name == method)
        .map(|(_, roles)| *roles)
}

/// Whether a role may make a call that `roles` may make.
///
/// # Errors
/// PERMISSION_DENIED, in words that say which key is needed.
pub fn check(roles: Roles, role: Role) -> Result<(), Refusal> {
    if roles.has(role) {
        return Ok(());
    }
    let words = match role {
        _ if roles == RUN => "this is for operators: use an operator's key for it",
        Role::Operator => {
            "an operator's key works inside no tenant: use a tenant's API key for this call"
        }
        Role::Service => {
            "this credential works inside no tenant: use a tenant's API key for this call"
        }
        _ if roles == RUN_TENANT => "this is for the admins of a tenant: use an admin's key for it",
        Role::Uploader => {
            "an upload token adds, uploads, confirms, completes and watches its batch, and nothing else: use an API key for this call"
        }
        Role::Viewer => "a viewer's key reads only: use a member's key for this call",
        Role::Member | Role::Admin => "this key may not make this call",
    };
    Err(Refusal::permission_denied(words).with_metadata(ROLE, role.name()))
}

/// Whether a role may send bytes to a batch by other ways than calls.
///
/// # Errors
/// As [`check`].
pub fn check_upload(role: Role) -> Result<(), Refusal> {
    check(FILL, role)
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

    /// What the descriptors say is public.
    fn public_calls() -> BTreeSet<String> {
        let set =
            prost_types::FileDescriptorSet::decode(caudal_proto::FILE_DESCRIPTOR_SET).unwrap();
        let public = set
            .file
            .iter()
            .filter(|file| ["caudal.v1", "google.longrunning"].contains(&file.package()));
        public
            .flat_map(|file| {
                file.service.iter().flat_map(move |service| {
                    service.method.iter().map(move |method| {
                        format!("/{}.{}/{}", file.package(), service.name(), method.name())
                    })
                })
            })
            .collect()
    }

    #[test]
    fn every_public_call_has_a_row_and_every_row_is_a_call() {
        let rows: BTreeSet<String> = TABLE
            .iter()
            .flat_map(|(service, rows)| {
                rows.iter()
                    .map(move |(method, _)| format!("/{service}/{method}"))
            })
            .collect();
        assert_eq!(public_calls(), rows);
        for path in &rows {
            assert!(roles_of(path).is_some(), "{path}");
        }
        assert_eq!(roles_of("/caudal.mesh.v1.LedgerService/Lease"), None);
        assert_eq!(roles_of("/caudal.v1.BatchService/DropEverything"), None);
    }

    #[test]
    fn each_role_may_do_what_its_name_says_and_no_service_of_the_mesh_comes_by_this_door() {
        let may = |role: Role| -> Vec<String> {
            let calls = public_calls().into_iter();
            calls
                .filter(|path| roles_of(path).unwrap().has(role))
                .collect()
        };
        assert_eq!(may(Role::Service), Vec::<String>::new());
        let uploader = may(Role::Uploader);
        assert_eq!(uploader.len(), 10, "{uploader:?}");
        for path in may(Role::Viewer) {
            let method = path.rsplit('/').next().unwrap();
            let reads = ["Get", "List", "Count", "Watch", "Wait"];
            assert!(reads.iter().any(|verb| method.starts_with(verb)), "{path}");
            assert!(may(Role::Member).contains(&path), "{path}");
        }
        for path in may(Role::Member) {
            assert!(may(Role::Admin).contains(&path), "{path}");
        }
        for path in may(Role::Operator) {
            let of_operators =
                path.contains("OperatorService") || path.contains("longrunning.Operations");
            assert!(of_operators, "{path}");
        }
    }
}
