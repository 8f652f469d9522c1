//! Wrong settings end a service with status 64 and a sentence, before it listens.

use std::process::Command;

use tempfile::TempDir;

use crate::binary;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What it says, having exited with 64.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new(binary())
        .arg("serve")
        .args(arguments)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{arguments:?}: {words}");
    assert!(output.stdout.is_empty());
    words
}

#[test]
fn a_wrong_setting_is_named_and_its_remedy_with_it() {
    for service in ["gateway", "ledger", "limiter", "upload", "metadata"] {
        let words = refused(&[service]);
        assert!(words.contains("openssl rand -hex 32"), "{words}");
    }
    let words = refused(&["upload", "--mesh-secret", SECRET]);
    assert!(
        words.contains("--ledger") && words.contains("CAUDAL_LEDGER"),
        "{words}"
    );
    let words = refused(&["limiter", "--mesh-secret", "secret-but-short"]);
    assert!(
        words.contains("--mesh-secret") && !words.contains("secret-but-short"),
        "{words}"
    );
    let words = refused(&["limiter", "--mesh-secret", SECRET, "--log", "=="]);
    assert!(words.contains("log filter"), "{words}");
    let no_such_files = [
        "--mesh-ca",
        "/no/ca",
        "--mesh-cert",
        "/no/cert",
        "--mesh-key",
        "/no/key",
    ];
    let words = refused(&[&["limiter", "--mesh-secret", SECRET][..], &no_such_files].concat());
    assert!(
        words.contains("--mesh-ca") && words.contains("/no/ca"),
        "{words}"
    );
    let words = refused(&["limiter", "--mesh-ca", "/no/ca"]);
    assert!(words.contains("--mesh-cert"), "{words}");
    let words = refused(&["limiter", "--listen", "nowhere"]);
    assert!(words.contains("--listen"), "{words}");
    let words = refused(&["limiter", "--config", "/nowhere/caudal.toml"]);
    assert!(words.contains("/nowhere/caudal.toml"), "{words}");
}

#[test]
fn a_store_that_refuses_the_keys_is_an_error_of_the_start() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(caudal_harness::S3::start()).unwrap();
    let (endpoint, data) = (store.endpoint(), TempDir::new().unwrap());
    let store_of = |secret: &'static str| {
        let words = [
            "--s3-endpoint",
            &endpoint,
            "--s3-access-key",
            caudal_harness::S3::ACCESS_KEY,
        ];
        [
            words.as_slice(),
            &[
                "--s3-secret-key",
                secret,
                "--s3-bucket",
                caudal_harness::S3::BUCKET,
            ],
        ]
        .concat()
    };
    let wrong = store_of("not the secret of this store");
    let nowhere = "http://127.0.0.1:9";
    let mesh = [
        "--listen",
        "127.0.0.1:0",
        "--mesh-secret",
        SECRET,
        "--ledger",
        nowhere,
        "--limiter",
        nowhere,
    ];
    let mesh = [mesh.as_slice(), &["--redis-url", "redis://127.0.0.1:9"]].concat();
    let said = refused(&[&["upload"], mesh.as_slice(), &wrong].concat());
    assert!(said.contains("--s3-access-key"), "{said}");
    let up = Command::new(binary())
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .args(&wrong)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&up.stderr);
    assert_eq!(up.status.code(), Some(64), "{said}");
    assert!(said.contains("--s3-access-key"), "{said}");
}

#[test]
fn the_environment_is_over_the_file_and_flags_are_over_both() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("caudal.toml");
    std::fs::write(
        &file,
        format!("mesh-secret = '{SECRET}'\nlisten = 'in the file'\n"),
    )
    .unwrap();
    let said = |environment: Option<&str>, flags: &[&str]| {
        let mut command = Command::new(binary());
        command
            .args(["serve", "limiter"])
            .args(flags)
            .env("CAUDAL_CONFIG", &file);
        if let Some(listen) = environment {
            command.env("CAUDAL_LISTEN", listen);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(None, &[]).contains("in the file"));
    assert!(said(Some("in the environment"), &[]).contains("in the environment"));
    // An address of nobody here cannot be bound, but it is one.
    let words = said(None, &["--listen", "192.0.2.1:1"]);
    assert!(words.contains("192.0.2.1:1"), "{words}");
}

#[test]
fn two_ledgers_on_one_sqlite_file_are_refused() {
    let folder = TempDir::new().unwrap();
    let database = folder.path().join("ledger.sqlite");
    let held = std::fs::File::create(folder.path().join("ledger.sqlite.lock")).unwrap();
    held.try_lock().unwrap();
    let url = format!("sqlite:{}", database.display());
    let words = refused(&[
        "ledger",
        "--mesh-secret",
        SECRET,
        "--redis-url",
        "redis://127.0.0.1:1",
        "--database-url",
        &url,
        "--listen",
        "127.0.0.1:0",
    ]);
    assert!(
        words.contains("another ledger") && words.contains("Postgres"),
        "{words}"
    );
}
