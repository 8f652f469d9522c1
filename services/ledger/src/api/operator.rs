//! `caudal.v1.OperatorService`: questions and operations over all tenants, for operators alone.

use std::collections::HashMap;

use caudal_domain::{FileState, Refusal, Stage, TenantId, names};
use caudal_proto::convert::{duration_from_proto, file_state_from_proto, timestamp_from_micros};
use caudal_proto::longrunning::Operation;
use caudal_proto::v1::operator_service_server::OperatorService;
use caudal_proto::v1::{
    self, AgedFiles, AgedGrouping, CountAgedRequest, CountAgedResponse, ListFailuresResponse,
    ListStagesRequest, ListStagesResponse, OperatorServiceCancelFilesRequest,
    OperatorServiceDismissFailuresRequest, OperatorServiceListFailuresRequest,
    OperatorServiceReprocessFilesRequest, OperatorServiceRetryFilesRequest,
};
use prost::Message;
use tonic::{Request, Response, Status};

use super::Ledger;
use super::bounds::Bounded;
use super::failure::{Failure, answer};
use super::failures::Failed;
use super::files::language;
use super::operations::{BulkRequest, Command, Commander, Place};
use super::request_key;
use super::tenancy::{Keeper, operators_act, tenant_changes};
use crate::select::{Purpose, resolve, resolve_letters};
use crate::store::selection::{self, Aged};
use crate::store::tenants;
use crate::store::time::Micros;
use crate::wire::saturated;
use crate::writer::verbs::update_tenant::TenantChanges;

/// Rows that one answer holds; its total counts them all.
const AGED_ROWS: usize = 1_000;

#[tonic::async_trait]
impl OperatorService for Ledger {
    async fn count_aged(
        &self,
        request: Request<CountAgedRequest>,
    ) -> Result<Response<CountAgedResponse>, Status> {
        answer(async {
            operators_act(&request)?;
            let message = request.get_ref();
            let question = Question::of(message)?;
            let tenant = match message.tenant.as_str() {
                "" => None,
                name => Some(self.tenant("tenant", name).await?),
            };
            let session = self.store.reader();
            let now = session.now().await?;
            let before = now.minus(question.min_age);
            let aged = selection::aged(&session, tenant, question.state, before, question.by_stage)
                .await?;
            let total = aged.iter().map(|row| row.count).sum();
            let mut rows = grouped(&aged, question.by_stage);
            rows.truncate(AGED_ROWS);
            if !question.by_stage {
                self.name_tenants(&mut rows).await?;
            }
            Ok(Response::new(CountAgedResponse {
                rows: rows.into_iter().map(|(_, row)| row).collect(),
                total: saturated(total),
            }))
        })
        .await
    }

    async fn list_stages(
        &self,
        request: Request<ListStagesRequest>,
    ) -> Result<Response<ListStagesResponse>, Status> {
        answer(async {
            operators_act(&request)?;
            Ok(Response::new(ListStagesResponse {
                stages: self.stages_now().await?,
            }))
        })
        .await
    }

    async fn update_stage(
        &self,
        request: Request<v1::UpdateStageRequest>,
    ) -> Result<Response<v1::Stage>, Status> {
        answer(async { Ok(Response::new(self.change_stage(&request).await?)) }).await
    }

    async fn list_failures(
        &self,
        request: Request<OperatorServiceListFailuresRequest>,
    ) -> Result<Response<ListFailuresResponse>, Status> {
        answer(async {
            const FIELD: &str = "failures.selector";
            operators_act(&request)?;
            let language = language(&request);
            let message = request.get_ref();
            let failures = message.failures.clone().unwrap_or_default();
            let selector = failures.selector.clone().unwrap_or_default();
            let session = self.store.reader();
            let now = session.now().await?;
            if message.tenant.is_empty() {
                let letters = resolve_letters(FIELD, &selector, now)?;
                return self
                    .failures(None, Failed::All(letters), true, &failures, language)
                    .await;
            }
            let tenant = self.tenant("tenant", &message.tenant).await?;
            let chosen =
                resolve(&session, tenant, FIELD, &selector, Purpose::Failures, now).await?;
            self.failures(
                Some(tenant),
                Failed::Chosen(&chosen),
                true,
                &failures,
                language,
            )
            .await
        })
        .await
    }

    async fn retry_files(
        &self,
        request: Request<OperatorServiceRetryFilesRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async {
            let message = request.get_ref();
            let files = message.files.clone().unwrap_or_default();
            self.command_of_operator("operator.RetryFiles", &request, &message.tenant, &files)
                .await
        })
        .await
    }

    async fn cancel_files(
        &self,
        request: Request<OperatorServiceCancelFilesRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async {
            let message = request.get_ref();
            let files = message.files.clone().unwrap_or_default();
            self.command_of_operator("operator.CancelFiles", &request, &message.tenant, &files)
                .await
        })
        .await
    }

    async fn reprocess_files(
        &self,
        request: Request<OperatorServiceReprocessFilesRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async {
            let message = request.get_ref();
            let files = message.files.clone().unwrap_or_default();
            self.command_of_operator("operator.ReprocessFiles", &request, &message.tenant, &files)
                .await
        })
        .await
    }

    async fn dismiss_failures(
        &self,
        request: Request<OperatorServiceDismissFailuresRequest>,
    ) -> Result<Response<Operation>, Status> {
        answer(async {
            let message = request.get_ref();
            let files = message.files.clone().unwrap_or_default();
            self.command_of_operator(
                "operator.DismissFailures",
                &request,
                &message.tenant,
                &files,
            )
            .await
        })
        .await
    }

    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        answer(async {
            let actor = operators_act(&request)?;
            let made = self.make_tenant(actor, request.get_ref()).await?;
            Ok(Response::new(made))
        })
        .await
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        answer(async {
            operators_act(&request)?;
            let name = &request.get_ref().name;
            let tenant = names::parse_tenant_name(name).map_err(|error| error.refusal("name"))?;
            Ok(Response::new(self.tenant_with_usage(tenant, name).await?))
        })
        .await
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        answer(async {
            operators_act(&request)?;
            Ok(Response::new(self.tenants(request.get_ref()).await?))
        })
        .await
    }

    async fn update_tenant(
        &self,
        request: Request<v1::UpdateTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        answer(async {
            let actor = operators_act(&request)?;
            let message = request.get_ref();
            let name = message.tenant.as_ref().map(|tenant| tenant.name.as_str());
            let tenant = self.tenant("tenant.name", name.unwrap_or_default()).await?;
            let changes = tenant_changes(message)?;
            let key = request_key("UpdateTenant", &message.request_id, message)?;
            let changed = self.change_tenant(actor, "UpdateTenant", tenant, changes, key);
            Ok(Response::new(changed.await?))
        })
        .await
    }

    async fn close_tenant(
        &self,
        request: Request<v1::CloseTenantRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        answer(async {
            let actor = operators_act(&request)?;
            let message = request.get_ref();
            let tenant = self.tenant("name", &message.name).await?;
            let changes = TenantChanges {
                close: true,
                ..TenantChanges::default()
            };
            let key = request_key("CloseTenant", &message.request_id, message)?;
            let closed = self.change_tenant(actor, "CloseTenant", tenant, changes, key);
            Ok(Response::new(closed.await?))
        })
        .await
    }

    async fn create_api_key(
        &self,
        request: Request<v1::OperatorServiceCreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        answer(async {
            let keeper = self.keeper(&request, &request.get_ref().tenant).await?;
            let message = request.get_ref();
            let key = message.key.clone().unwrap_or_default();
            self.make_key(&keeper, "key.", &key, message).await
        })
        .await
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::OperatorServiceListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        answer(async {
            let keeper = self.keeper(&request, &request.get_ref().tenant).await?;
            let keys = request.get_ref().keys.clone().unwrap_or_default();
            self.keys(keeper.tenant, &keys).await
        })
        .await
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::OperatorServiceRevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        answer(async {
            let keeper = self.keeper(&request, &request.get_ref().tenant).await?;
            let message = request.get_ref();
            let key = message.key.clone().unwrap_or_default();
            self.revoke(&keeper, "key.", &key, message).await
        })
        .await
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::OperatorServiceRotateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        answer(async {
            let keeper = self.keeper(&request, &request.get_ref().tenant).await?;
            let message = request.get_ref();
            let key = message.key.clone().unwrap_or_default();
            self.rotate(&keeper, "key.", &key, message).await
        })
        .await
    }

    async fn list_audit(
        &self,
        request: Request<v1::OperatorServiceListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        answer(async {
            let keeper = self.keeper(&request, &request.get_ref().tenant).await?;
            let audit = request.get_ref().audit.clone().unwrap_or_default();
            self.audit(keeper.tenant, &audit).await
        })
        .await
    }
}

impl Ledger {
    /// An operator, over what it names: a tenant, or nothing for what is of operators.
    async fn keeper<T: Bounded>(
        &self,
        request: &Request<T>,
        tenant: &str,
    ) -> Result<Keeper, Failure> {
        let actor = operators_act(request)?;
        let tenant = match tenant {
            "" => None,
            name => Some(self.tenant("tenant", name).await?),
        };
        Ok(Keeper::operator(actor, tenant))
    }

    async fn command_of_operator<T: Bounded + Message>(
        &self,
        call: &'static str,
        request: &Request<T>,
        tenant: &str,
        files: &impl BulkRequest,
    ) -> Result<Response<Operation>, Failure> {
        let actor = operators_act(request)?;
        let commander = Commander {
            actor,
            is_watched: true,
            tenant: self.tenant("tenant", tenant).await?,
            by_operator: true,
        };
        let command = Command::of(files, call, Place::Beside, request.get_ref())?;
        self.begin(commander, command).await
    }

    /// A tenant that an operator names.
    async fn tenant(&self, field: &str, name: &str) -> Result<TenantId, Failure> {
        let tenant = names::parse_tenant_name(name).map_err(|error| error.refusal(field))?;
        let known = tenants::names(&self.store.reader(), &[tenant]).await?;
        if known.contains_key(&tenant) {
            Ok(tenant)
        } else {
            Err(Refusal::not_found(name).into())
        }
    }

    async fn name_tenants(&self, rows: &mut [(Group, AgedFiles)]) -> Result<(), Failure> {
        let asked: Vec<TenantId> = rows
            .iter()
            .filter_map(|(group, _)| match group {
                Group::Tenant(tenant) => Some(*tenant),
                Group::Stage(_) => None,
            })
            .collect();
        let known = tenants::names(&self.store.reader(), &asked).await?;
        for (group, row) in rows {
            if let Group::Tenant(tenant) = group {
                row.tenant = names::tenant_name(*tenant);
                row.tenant_display_name = known.get(tenant).cloned().unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// A valid question about aged files.
struct Question {
    state: FileState,
    min_age: std::time::Duration,
    by_stage: bool,
}

impl Question {
    fn of(message: &CountAgedRequest) -> Result<Self, Refusal> {
        let state = file_state_from_proto(message.state)
            .map_err(|error| Refusal::invalid("state", error.to_string()))?;
        if matches!(state, FileState::Processed | FileState::Cancelled) {
            let words = format!(
                "{} files wait for nothing: name a state in which files wait, or FAILED; CountFiles counts the others",
                state.name()
            );
            return Err(Refusal::invalid("state", words));
        }
        let min_age = match &message.min_age {
            Some(age) => duration_from_proto(age)
                .map_err(|error| Refusal::invalid("min_age", error.to_string()))?,
            None => std::time::Duration::ZERO,
        };
        let by_stage = match AgedGrouping::try_from(message.group_by) {
            Ok(AgedGrouping::Unspecified | AgedGrouping::Tenant) => false,
            Ok(AgedGrouping::Stage) => true,
            Err(_) => {
                return Err(Refusal::invalid(
                    "group_by",
                    "is not a value of AgedGrouping",
                ));
            }
        };
        Ok(Self {
            state,
            min_age,
            by_stage,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Tenant(TenantId),
    Stage(Stage),
}

/// Rows by tenant or by stage, the most files first.
fn grouped(aged: &[Aged], by_stage: bool) -> Vec<(Group, AgedFiles)> {
    let mut sums: HashMap<Group, (u64, Micros)> = HashMap::new();
    for row in aged {
        let group = match row.stage {
            Some(stage) if by_stage => Group::Stage(stage),
            _ => Group::Tenant(row.tenant),
        };
        let sum = sums.entry(group).or_insert((0, row.oldest));
        sum.0 += row.count;
        sum.1 = sum.1.min(row.oldest);
    }
    let mut rows: Vec<(Group, (u64, Micros))> = sums.into_iter().collect();
    rows.sort_by_key(|(_, (count, oldest))| (std::cmp::Reverse(*count), *oldest));
    rows.into_iter()
        .map(|(group, (count, oldest))| {
            let row = AgedFiles {
                stage: match group {
                    Group::Stage(stage) => stage.name().to_owned(),
                    Group::Tenant(_) => String::new(),
                },
                count: saturated(count),
                oldest_time: Some(timestamp_from_micros(oldest.0)),
                ..AgedFiles::default()
            };
            (group, row)
        })
        .collect()
}
