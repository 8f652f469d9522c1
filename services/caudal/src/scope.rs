//! `caudal scope`: a signed scope for a person with grpcurl, so that a service behind the gateway answers one call.

use std::process::ExitCode;

use caudal_node::scope::{MeshSecret, SCOPE_METADATA, SCOPE_VALIDITY, Scope, sign};

use crate::cli::ScopeArguments;
use crate::failure::Failure;
use crate::verify::read_secrets;

/// Prints the header, ready for `grpcurl -H`.
///
/// # Errors
/// When the secret cannot be read.
pub(crate) fn run(arguments: &ScopeArguments) -> Result<ExitCode, Failure> {
    let secret = match &arguments.mesh_secret_file {
        Some(file) => MeshSecret::from_file(file),
        None => MeshSecret::new(read_secrets(&arguments.data_dir)?.mesh_secret.as_bytes()),
    };
    let secret = secret.map_err(|error| Failure::misconfigured(error.to_string()))?;
    let signed = sign(&Scope::service("operator"), &arguments.call, &secret);
    let value = signed
        .to_str()
        .map_err(|error| Failure::broken(error.to_string()))?;
    println!("{SCOPE_METADATA}: {value}");
    eprintln!(
        "good for one call within {} seconds",
        SCOPE_VALIDITY.as_secs()
    );
    Ok(ExitCode::SUCCESS)
}
