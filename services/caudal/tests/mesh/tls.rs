//! The mesh over TLS, each service with a certificate.

use std::path::Path;
use std::time::Duration;

use caudal_domain::Stage;
use caudal_harness::{Database, Mesh, MeshOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::{begin, binary, end, texts};

const FILES: usize = 20;

/// Makes an authority and a certificate with the names of all services; the settings that name their files.
fn certificates(folder: &Path) -> String {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = Stage::ALL
        .map(Stage::name)
        .into_iter()
        .chain(["gateway", "ledger", "limiter"])
        .map(str::to_owned)
        .collect();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &Issuer::from_params(&ca, &ca_key))
        .unwrap();
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    format!(
        "mesh-ca = {:?}\nmesh-cert = {:?}\nmesh-key = {:?}\n",
        write("ca.pem", ca_certificate.pem()),
        write("mesh.pem", certificate.pem()),
        write("mesh.key", key.serialize_pem()),
    )
}

#[test]
fn a_mesh_with_certificates_works_and_speaks_with_nobody_who_has_none() {
    let folder = TempDir::new().unwrap();
    let files = texts(&folder, FILES);
    let options = MeshOptions {
        database: Database::Sqlite,
        ledgers: 1,
        dispatch_windows: "",
    };
    let mesh = Mesh::start_with(binary(), options, certificates).unwrap();
    let batch = begin(&mesh, &files);
    end(&mesh, &batch, FILES);
    for service in ["ledger-1", "limiter", "upload"] {
        assert_eq!(mesh.is_serving(service).unwrap(), None, "{service}");
    }
    assert_eq!(mesh.is_serving("gateway").unwrap(), Some(true));
    assert!(mesh.leading(None, Duration::ZERO).is_err());
    mesh.verify().unwrap();
}
