//! `caudal tenants`, `keys`, `tokens`, `audit` and `usage`: who may use the system, how much, and who did what.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use caudal_domain::plain;
use caudal_node::permission;
use caudal_node::scope::Role;
use caudal_proto::convert::duration_to_proto;
use caudal_sdk::{Client, ClientError, Whose, v1};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::arguments::{GatewayArguments, Output, OutputArguments, batch_name, tenant_name};
use crate::failure::Failure;
use crate::selector::duration;

#[derive(Debug, Args)]
pub(crate) struct TenantsArguments {
    #[command(subcommand)]
    act: TenantsAct,
    #[command(flatten)]
    gateway: GatewayArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// What is done with tenants. All of it needs an operator's key.
#[derive(Debug, Subcommand)]
enum TenantsAct {
    /// List all tenants, the newest first
    List,
    /// Show a tenant, its limits and what it uses
    Show {
        /// The tenant: its id, or `tenants/ID`
        #[arg(value_name = "TENANT", value_parser = tenant_name)]
        tenant: String,
    },
    /// Make a tenant; `caudal keys create --tenant` makes its first key
    Create {
        /// What it is called
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        changes: TenantChanges,
    },
    /// Change a tenant; in force within a second
    Update {
        /// The tenant: its id, or `tenants/ID`
        #[arg(value_name = "TENANT", value_parser = tenant_name)]
        tenant: String,
        /// What it is called from now on
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        changes: TenantChanges,
    },
    /// Let the files of a tenant wait; they are taken all the same
    Pause {
        /// The tenant: its id, or `tenants/ID`
        #[arg(value_name = "TENANT", value_parser = tenant_name)]
        tenant: String,
        /// Why; what was said before stays when left out
        #[arg(long, value_name = "WORDS", default_value = "")]
        note: String,
    },
    /// Let a paused tenant go on
    Resume {
        /// The tenant: its id, or `tenants/ID`
        #[arg(value_name = "TENANT", value_parser = tenant_name)]
        tenant: String,
    },
    /// End a tenant for good: no key of it is good any more; nothing of it is deleted
    Close {
        /// The tenant: its id, or `tenants/ID`
        #[arg(value_name = "TENANT", value_parser = tenant_name)]
        tenant: String,
    },
}

/// What can be said of a tenant when it is made, and later.
#[derive(Debug, Args)]
struct TenantChanges {
    /// A limit of its own, such as files=100000 or calls_per_second=20; `default` takes it back. Repeat it for several:
    /// stored_bytes, files, folders, files_per_batch, file_bytes, entries_per_second, calls_per_second, open_batches, streams,
    /// operations, expensive_reads, dispatched_files
    #[arg(long = "limit", value_name = "NAME=N", value_parser = limit)]
    limits: Vec<(String, Option<u64>)>,
    /// Its share where several tenants wait, 1 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    weight: Option<u32>,
}

impl TenantChanges {
    /// Writes them into a tenant; the paths of the mask that names them.
    fn apply(&self, tenant: &mut v1::Tenant) -> Vec<String> {
        let mut paths = Vec::new();
        let mut limits = v1::TenantLimits::default();
        for (name, value) in &self.limits {
            if let Some(place) = member(&mut limits, name) {
                *place = *value;
            }
            paths.push(format!("limits.{name}"));
        }
        if !self.limits.is_empty() {
            tenant.limits = Some(limits);
        }
        if let Some(weight) = self.weight {
            tenant.weight = weight;
            paths.push("weight".to_owned());
        }
        paths
    }
}

/// The member of the limits that is called so.
fn member<'a>(limits: &'a mut v1::TenantLimits, name: &str) -> Option<&'a mut Option<u64>> {
    Some(match name {
        "stored_bytes" => &mut limits.stored_bytes,
        "files" => &mut limits.files,
        "folders" => &mut limits.folders,
        "files_per_batch" => &mut limits.files_per_batch,
        "file_bytes" => &mut limits.file_bytes,
        "entries_per_second" => &mut limits.entries_per_second,
        "calls_per_second" => &mut limits.calls_per_second,
        "open_batches" => &mut limits.open_batches,
        "streams" => &mut limits.streams,
        "operations" => &mut limits.operations,
        "expensive_reads" => &mut limits.expensive_reads,
        "dispatched_files" => &mut limits.dispatched_files,
        _ => return None,
    })
}

/// `NAME=N` or `NAME=default`.
fn limit(text: &str) -> Result<(String, Option<u64>), String> {
    let words = "a limit is its name, `=` and a number or `default`, such as files=100000; `caudal usage` lists the names";
    let (name, value) = text.split_once('=').ok_or_else(|| words.to_owned())?;
    if member(&mut v1::TenantLimits::default(), name).is_none() {
        return Err(format!("there is no limit `{name}`: {words}"));
    }
    let value = match value {
        "default" => None,
        number => Some(number.parse().map_err(|_| words.to_owned())?),
    };
    Ok((name.to_owned(), value))
}

pub(crate) async fn tenants(arguments: TenantsArguments) -> Result<ExitCode, Failure> {
    if let TenantsAct::Update { name, changes, .. } = &arguments.act
        && name.is_none()
        && changes.limits.is_empty()
        && changes.weight.is_none()
    {
        return Err(Failure::misconfigured(
            "nothing is changed: give --name, --limit or --weight",
        ));
    }
    let client = arguments.gateway.connect().await?;
    let output = arguments.output.output;
    let named = |name: String| v1::Tenant {
        name,
        ..v1::Tenant::default()
    };
    let tenant = match arguments.act {
        TenantsAct::List => {
            show_tenants(&client.list_tenants().await?, output);
            return Ok(ExitCode::SUCCESS);
        }
        TenantsAct::Show { tenant } => client.get_tenant(&tenant).await?,
        TenantsAct::Create { name, changes } => {
            let mut tenant = v1::Tenant {
                display_name: name,
                ..v1::Tenant::default()
            };
            changes.apply(&mut tenant);
            let tenant = client.create_tenant(tenant).await?;
            show_tenant(&tenant, output);
            if let Output::Text = output {
                say!(
                    "its first key: caudal keys create NAME --role admin --tenant {}",
                    tenant.name
                );
            }
            return Ok(ExitCode::SUCCESS);
        }
        TenantsAct::Update {
            tenant,
            name,
            changes,
        } => {
            let mut tenant = named(tenant);
            let mut paths = changes.apply(&mut tenant);
            if let Some(name) = name {
                tenant.display_name = name;
                paths.push("display_name".to_owned());
            }
            client.update_tenant(tenant, paths).await?
        }
        TenantsAct::Pause { tenant, note } => {
            let mut tenant = named(tenant);
            tenant.pause = Some(v1::TenantPause {
                note,
                ..v1::TenantPause::default()
            });
            client
                .update_tenant(tenant, vec!["pause".to_owned()])
                .await?
        }
        TenantsAct::Resume { tenant } => {
            client
                .update_tenant(named(tenant), vec!["pause".to_owned()])
                .await?
        }
        TenantsAct::Close { tenant } => client.close_tenant(&tenant).await?,
    };
    show_tenant(&tenant, output);
    Ok(ExitCode::SUCCESS)
}

fn tenant_json(tenant: &v1::Tenant) -> Value {
    json!({
        "tenant": tenant.name,
        "name": tenant.display_name,
        "weight": tenant.weight,
        "state": tenant_state(tenant),
        "note": tenant.pause.as_ref().map(|pause| &pause.note),
        "usage": tenant.usage.as_ref().map(usage_json),
    })
}

fn tenant_state(tenant: &v1::Tenant) -> &'static str {
    match (&tenant.close_time, &tenant.pause) {
        (Some(_), _) => "CLOSED",
        (None, Some(_)) => "PAUSED",
        (None, None) => "ACTIVE",
    }
}

fn show_tenants(tenants: &[v1::Tenant], output: Output) {
    match output {
        Output::Json => answer!(
            "{}",
            json!({"tenants": tenants.iter().map(tenant_json).collect::<Vec<_>>()})
        ),
        Output::Text => {
            for tenant in tenants {
                answer!(
                    "{} {:<6} {}",
                    tenant.name,
                    tenant_state(tenant),
                    plain(&tenant.display_name)
                );
            }
        }
    }
}

fn show_tenant(tenant: &v1::Tenant, output: Output) {
    match output {
        Output::Json => answer!("{}", tenant_json(tenant)),
        Output::Text => {
            show_tenants(std::slice::from_ref(tenant), output);
            if let Some(pause) = &tenant.pause {
                answer!("paused by {}: {}", pause.who, plain(&pause.note));
            }
            if let Some(usage) = &tenant.usage {
                show_usage(usage, output);
            }
        }
    }
}

/// Whose keys or acts.
#[derive(Debug, Args)]
struct WhoseArguments {
    /// Of this tenant, with an operator's key: its id, or `tenants/ID`; of the key's own tenant when left out
    #[arg(long, env = "CAUDAL_TENANT", value_name = "TENANT", value_parser = tenant_name, global = true)]
    tenant: Option<String>,
    /// Of operators, with an operator's key
    #[arg(
        long,
        env = "CAUDAL_OPERATORS",
        conflicts_with = "tenant",
        global = true
    )]
    operators: bool,
}

impl WhoseArguments {
    fn whose(self) -> Whose {
        match (self.tenant, self.operators) {
            (Some(tenant), _) => Whose::Tenant(tenant),
            (None, true) => Whose::Operators,
            (None, false) => Whose::Own,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeysArguments {
    #[command(subcommand)]
    act: KeysAct,
    #[command(flatten)]
    whose: WhoseArguments,
    #[command(flatten)]
    gateway: GatewayArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// What is done with keys.
#[derive(Debug, Subcommand)]
enum KeysAct {
    /// List the keys, the newest first; secrets are never shown
    List,
    /// Make a key; its text is shown once
    Create {
        /// What it is called, for people
        #[arg(value_name = "NAME")]
        name: String,
        /// What its holder may do; a member's when left out, and an operator's with --operators
        #[arg(long, value_enum)]
        role: Option<KeyRole>,
        /// How long it is good, e.g. 90d; until it is revoked when left out
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        lifetime: Option<Duration>,
    },
    /// End a key, within a second, for good
    Revoke {
        /// The key: its id, or `apiKeys/ID`
        #[arg(value_name = "KEY", value_parser = key_name)]
        key: String,
    },
    /// Make a key like another, which ends a while later
    Rotate {
        /// The key: its id, or `apiKeys/ID`
        #[arg(value_name = "KEY", value_parser = key_name)]
        key: String,
        /// For how long the old one is good too
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1h")]
        overlap: Duration,
    },
}

/// What the holder of a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeyRole {
    /// Reads and watches.
    Viewer,
    /// Also acts on batches and files.
    Member,
    /// Also runs the tenant's keys.
    Admin,
}

/// `apiKeys/ID` of either form, or the text of a key, of which only the id is taken.
fn key_name(text: &str) -> Result<String, String> {
    let id = text.strip_prefix("apiKeys/").unwrap_or(text);
    let id = match id.strip_prefix("caudal_") {
        Some(rest) => rest.split('_').next().unwrap_or_default(),
        None => id,
    };
    let fits = !id.is_empty()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !fits {
        return Err("a key is named by its id, as `caudal keys list` prints it".to_owned());
    }
    Ok(format!("apiKeys/{id}"))
}

pub(crate) async fn keys(arguments: KeysArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let output = arguments.output.output;
    let whose = arguments.whose.whose();
    act_on_keys(&client, arguments.act, &whose, output)
        .await
        .map_err(|error| say_whose(error, &whose, "--operators"))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a call was refused because an operator made it.
fn is_of_an_operator(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(refused) => {
            let role = refused.metadata.get(permission::ROLE);
            role.is_some_and(|role| role == Role::Operator.name())
        }
        _ => false,
    }
}

/// An operator's key has no tenant of its own: whoever comes with one has to say whose keys or acts are meant.
fn say_whose(error: ClientError, whose: &Whose, of_all: &str) -> Failure {
    if is_of_an_operator(&error) && matches!(whose, Whose::Own) {
        let words = format!("{error}; with an operator's key add --tenant TENANT, or {of_all}");
        return Failure::broken(words);
    }
    error.into()
}

async fn act_on_keys(
    client: &Client,
    act: KeysAct,
    whose: &Whose,
    output: Output,
) -> Result<(), ClientError> {
    match act {
        KeysAct::List => {
            let keys = client.list_api_keys(whose).await?;
            // Of a closed tenant no key is good, whatever stands beside it.
            let is_closed = match whose {
                Whose::Tenant(tenant) => client.get_tenant(tenant).await?.close_time.is_some(),
                Whose::Own | Whose::Operators => false,
            };
            show_keys(&keys, is_closed, output);
        }
        KeysAct::Create {
            name,
            role,
            lifetime,
        } => {
            let role = match role {
                None => v1::KeyRole::Unspecified,
                Some(KeyRole::Viewer) => v1::KeyRole::Viewer,
                Some(KeyRole::Member) => v1::KeyRole::Member,
                Some(KeyRole::Admin) => v1::KeyRole::Admin,
            };
            let request = v1::CreateApiKeyRequest {
                display_name: name,
                role: role.into(),
                lifetime: lifetime.map(duration_to_proto),
                ..v1::CreateApiKeyRequest::default()
            };
            show_secret(&client.create_api_key(whose, request).await?, output);
        }
        KeysAct::Revoke { key } => {
            let key = client.revoke_api_key(whose, &key).await?;
            show_keys(&[key], false, output);
        }
        KeysAct::Rotate { key, overlap } => {
            let request = v1::RotateApiKeyRequest {
                name: key,
                overlap: Some(duration_to_proto(overlap)),
                ..v1::RotateApiKeyRequest::default()
            };
            show_secret(&client.rotate_api_key(whose, request).await?, output);
        }
    }
    Ok(())
}

fn role_words(role: v1::KeyRole) -> &'static str {
    role.as_str_name()
        .strip_prefix("KEY_ROLE_")
        .unwrap_or("UNSPECIFIED")
}

fn key_state(key: &v1::ApiKey, is_closed: bool) -> &'static str {
    let is_past = |time: &prost_types::Timestamp| {
        SystemTime::try_from(*time).is_ok_and(|time| time <= SystemTime::now())
    };
    match (&key.revoke_time, &key.expire_time) {
        (Some(_), _) => "REVOKED",
        (None, Some(end)) if is_past(end) => "EXPIRED",
        _ if is_closed => "CLOSED",
        _ => "GOOD",
    }
}

/// A time as it is written everywhere; `-` where there is none.
fn time(at: Option<prost_types::Timestamp>) -> String {
    // Its own form is the one of RFC 3339.
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

fn key_json(key: &v1::ApiKey, is_closed: bool) -> Value {
    let told = |at: Option<prost_types::Timestamp>| at.map(|at| at.to_string());
    json!({
        "key": key.name,
        "name": key.display_name,
        "role": role_words(key.role()),
        "state": key_state(key, is_closed),
        "batch": key.batch,
        "created": told(key.create_time),
        "expires": told(key.expire_time),
        "revoked": told(key.revoke_time),
        "last_used": told(key.last_use_time),
    })
}

/// Shows keys; those of a closed tenant are none any more.
fn show_keys(keys: &[v1::ApiKey], is_closed: bool, output: Output) {
    match output {
        Output::Json => {
            let keys: Vec<Value> = keys.iter().map(|key| key_json(key, is_closed)).collect();
            answer!("{}", json!({"keys": keys}));
        }
        Output::Text => {
            for key in keys {
                answer!(
                    "{:<26} {:<8} {:<7} used {:<20} until {:<20} {}",
                    key.name,
                    role_words(key.role()),
                    key_state(key, is_closed),
                    time(key.last_use_time),
                    time(key.expire_time),
                    plain(&key.display_name)
                );
            }
        }
    }
}

fn show_secret(made: &v1::CreateApiKeyResponse, output: Output) {
    let key = made.key.clone().unwrap_or_default();
    match output {
        Output::Json => {
            let mut told = key_json(&key, false);
            told["secret"] = made.secret.clone().into();
            answer!("{told}");
        }
        Output::Text => {
            answer!("{}", made.secret);
            say!(
                "{} ({}): keep its text now, it is shown this once",
                key.name,
                role_words(key.role())
            );
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// The batch that can be filled with it: its id, or `batches/ID`
    #[arg(value_name = "BATCH", value_parser = batch_name)]
    batch: String,
    /// How long it is good, at most 30d
    #[arg(long = "for", env = "CAUDAL_TOKEN_FOR", value_name = "TIME", value_parser = duration, default_value = "1d")]
    lifetime: Duration,
    /// Files that can be added with it at most
    #[arg(long, env = "CAUDAL_TOKEN_FILES", value_name = "N")]
    max_files: Option<u64>,
    /// Bytes that can be added with it at most
    #[arg(long, env = "CAUDAL_TOKEN_BYTES", value_name = "N")]
    max_bytes: Option<u64>,
    #[command(flatten)]
    gateway: GatewayArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) async fn token(arguments: TokenArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let request = v1::CreateUploadTokenRequest {
        batch: arguments.batch,
        lifetime: Some(duration_to_proto(arguments.lifetime)),
        max_files: arguments.max_files,
        max_bytes: arguments.max_bytes,
        ..v1::CreateUploadTokenRequest::default()
    };
    show_secret(
        &client.create_upload_token(request).await?,
        arguments.output.output,
    );
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// How many acts at most, the newest first
    #[arg(
        long,
        env = "CAUDAL_AUDIT_LAST",
        value_name = "N",
        default_value_t = 50
    )]
    last: usize,
    /// In this tenant, with an operator's key: its id, or `tenants/ID`; in the key's own tenant when left out
    #[arg(long, env = "CAUDAL_TENANT", value_name = "TENANT", value_parser = tenant_name)]
    tenant: Option<String>,
    /// Everywhere, with an operator's key
    #[arg(long, env = "CAUDAL_AUDIT_EVERYWHERE", conflicts_with = "tenant")]
    everywhere: bool,
    #[command(flatten)]
    gateway: GatewayArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) async fn audit(arguments: AuditArguments) -> Result<ExitCode, Failure> {
    let client: Client = arguments.gateway.connect().await?;
    let whose = WhoseArguments {
        tenant: arguments.tenant.clone(),
        operators: arguments.everywhere,
    };
    let whose = whose.whose();
    let acts = client.list_audit(&whose, arguments.last).await;
    let acts = acts.map_err(|error| say_whose(error, &whose, "--everywhere"))?;
    for act in &acts {
        match arguments.output.output {
            Output::Json => {
                let detail: Value = serde_json::from_str(&act.detail).unwrap_or_default();
                answer!(
                    "{}",
                    json!({
                        "time": time(act.time),
                        "tenant": act.tenant,
                        "actor": act.actor,
                        "key": act.key,
                        "act": act.act,
                        "target": act.target,
                        "detail": detail,
                    })
                );
            }
            Output::Text => answer!(
                "{} {}{:<16} {} by {} {}",
                time(act.time),
                // Without it nobody knows where, and an act on the system itself is in no tenant.
                match (arguments.everywhere, act.tenant.as_str()) {
                    (false, _) => String::new(),
                    (true, "") => format!("{:<44} ", "-"),
                    (true, tenant) => format!("{tenant:<44} "),
                },
                act.act,
                act.target,
                act.actor,
                act.detail
            ),
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(crate) struct UsageArguments {
    #[command(flatten)]
    gateway: GatewayArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) async fn usage(arguments: UsageArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let usage = client.get_usage().await.map_err(|error| match error {
        denied if is_of_an_operator(&denied) => Failure::broken(format!(
            "{denied}; with an operator's key ask `caudal tenants show TENANT`"
        )),
        other => other.into(),
    })?;
    if let (Some(pause), Output::Text) = (&usage.pause, arguments.output.output) {
        answer!("paused: {}", plain(&pause.note));
    }
    show_usage(&usage, arguments.output.output);
    Ok(ExitCode::SUCCESS)
}

fn usage_json(usage: &v1::TenantUsage) -> Value {
    let rows = usage.limits.iter();
    let rows: serde_json::Map<String, Value> = rows
        .map(|row| {
            let told = json!({"used": row.used, "limit": row.limit});
            (row.name.clone(), told)
        })
        .collect();
    json!({"limits": rows, "paused": usage.pause.is_some()})
}

fn show_usage(usage: &v1::TenantUsage, output: Output) {
    match output {
        Output::Json => answer!("{}", usage_json(usage)),
        Output::Text => {
            let told = |number: Option<u64>, none: &str| {
                number.map_or_else(|| none.to_owned(), |number| number.to_string())
            };
            for row in &usage.limits {
                answer!(
                    "{:<20} {:>20} of {:>20}",
                    row.name,
                    told(row.used, "-"),
                    told(row.limit, "the default")
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_and_set_or_taken_back() {
        assert_eq!(limit("files=10"), Ok(("files".to_owned(), Some(10))));
        assert_eq!(limit("streams=default"), Ok(("streams".to_owned(), None)));
        for wrong in ["files", "files=", "files=ten", "files=-1", "wings=2"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_help_names_every_limit() {
        use clap::Args as _;
        let command = TenantChanges::augment_args(clap::Command::new("t"));
        let help = command
            .get_arguments()
            .find(|argument| argument.get_long() == Some("limit"))
            .and_then(|argument| argument.get_help())
            .map(ToString::to_string)
            .unwrap_or_default();
        let wide = help.replace(',', " ");
        let named = wide.split_whitespace();
        let named = named.filter(|word| member(&mut v1::TenantLimits::default(), word).is_some());
        assert_eq!(named.count(), 12, "{help}");
    }

    #[test]
    fn a_good_key_of_a_closed_tenant_is_not_shown_as_good() {
        let key = v1::ApiKey::default();
        assert_eq!(key_state(&key, false), "GOOD");
        assert_eq!(key_state(&key, true), "CLOSED");
    }

    #[test]
    fn a_key_is_named_by_its_id_and_never_by_its_secret() {
        for text in ["1a2b", "apiKeys/1a2b", "caudal_1a2b_secret"] {
            assert_eq!(key_name(text), Ok("apiKeys/1a2b".to_owned()));
        }
        assert!(key_name("Not a key").is_err());
    }
}
