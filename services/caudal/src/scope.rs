//! `caudal scope`: a signed scope for a person with grpcurl, so that a service behind the gateway answers one call.

use std::process::ExitCode;

use caudal_node::callers;
use caudal_node::scope::{Asked, MeshSecret, SCOPE_METADATA, SCOPE_VALIDITY, Scope, sign};

use crate::cli::ScopeArguments;
use crate::failure::Failure;
use crate::verify::read_secrets;

/// Prints the header, ready for `grpcurl -H`.
///
/// # Errors
/// When a person makes no such call, nobody says which stage is asked, or the secret cannot be read.
pub(crate) fn run(arguments: &ScopeArguments) -> Result<ExitCode, Failure> {
    let service = asked_service(&arguments.call, arguments.stage.as_deref())?;
    let secret = match &arguments.mesh_secret_file {
        Some(file) => MeshSecret::from_file(file),
        None => MeshSecret::new(read_secrets(&arguments.data_dir)?.mesh_secret.as_bytes()),
    };
    let secret = secret.map_err(|error| Failure::misconfigured(error.to_string()))?;
    let asked = Asked {
        call: &arguments.call,
        service,
    };
    let signed = sign(&Scope::service("operator"), asked, &secret);
    let value = signed
        .to_str()
        .map_err(|error| Failure::broken(error.to_string()))?;
    answer!("{SCOPE_METADATA}: {value}");
    say!(
        "good for one call of {service} within {} seconds",
        SCOPE_VALIDITY.as_secs()
    );
    Ok(ExitCode::SUCCESS)
}

/// Who is asked: the one service that answers the call, or the stage that is named.
fn asked_service<'a>(call: &str, stage: Option<&'a str>) -> Result<&'a str, Failure> {
    if !callers::calls_of_operators().any(|known| known == call) {
        let known: Vec<String> = callers::calls_of_operators().collect();
        return Err(Failure::misconfigured(format!(
            "`{call}` is no call that this signs: it signs {}; all others go to the gateway, with an API key",
            known.join(", ")
        )));
    }
    match (callers::answered_by(call), stage) {
        (Some(service), None) => Ok(service),
        (Some(service), Some(_)) => Err(Failure::misconfigured(format!(
            "{call} is answered by the {service} alone: leave --stage out"
        ))),
        (None, Some(stage)) => Ok(stage),
        (None, None) => Err(Failure::misconfigured(format!(
            "each stage answers {call}, and a signature is good at one of them: name it with --stage"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: &str = "caudal.mesh.v1.StageService/Pause";
    const STATUS: &str = "caudal.mesh.v1.LimiterService/GetStatus";

    #[test]
    fn what_is_signed_is_a_call_that_a_person_makes_of_one_service() {
        let asked = |call, stage| asked_service(call, stage).map_err(|failure| failure.to_string());
        assert_eq!(asked(PAUSE, Some("upload")), Ok("upload"));
        assert_eq!(asked(STATUS, None), Ok("limiter"));
        for (call, stage) in [
            ("nonsense", None),
            ("caudal.mesh.v1.LedgerService/Lease", None),
            (PAUSE, None),
            (STATUS, Some("upload")),
        ] {
            assert!(asked(call, stage).is_err(), "{call}");
        }
    }
}
