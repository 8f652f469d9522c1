//! Files that this process may have open: each connection is one. What a shell or systemd gives is often a thousand, and may be
//! raised to a bound that is far above it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The database, the streams, what stages read: all but the connections of the door.
const BESIDE_CONNECTIONS: usize = 1_000;

/// Raises what may be raised, and says in the log where that is too little for `connections` at once: where no file can be
/// opened, nobody is let in, and nobody is turned out for another.
pub(crate) fn allow(connections: usize) {
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: allowed.maximum,
        maximum: allowed.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the bound on open files was not raised");
    }
    if let Some(warning) = warning(getrlimit(Resource::Nofile).current, connections) {
        tracing::warn!("{warning}");
    }
}

fn warning(allowed: Option<u64>, connections: usize) -> Option<String> {
    let wanted = connections.saturating_add(BESIDE_CONNECTIONS);
    let allowed = allowed?;
    if u64::try_from(wanted).is_ok_and(|wanted| wanted <= allowed) {
        return None;
    }
    Some(format!(
        "this process may open {allowed} files, and {connections} connections need {wanted}: raise the bound (`ulimit -n`, LimitNOFILE of systemd), \
         or bear fewer with --connections"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_for_all_connections_are_warned_of_and_as_many_as_may_be_are_allowed() {
        assert_eq!(warning(Some(11_000), 10_000), None);
        assert_eq!(warning(None, 10_000), None);
        let warned = warning(Some(1_024), 10_000).unwrap_or_default();
        assert!(
            warned.contains("1024") && warned.contains("--connections"),
            "{warned}"
        );
        allow(1);
        let allowed = getrlimit(Resource::Nofile);
        assert_eq!(allowed.current, allowed.maximum);
    }
}
