//! The page in a real browser: a real folder is dropped on it, and every file is seen to reach its end.

use std::path::Path;
use std::process::Command;

use crate::{Database, Ground};

#[test]
fn a_folder_dropped_on_the_page_is_seen_to_its_end_and_a_failure_says_why() {
    let web = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../gateway/web"));
    if !web.join("dist/index.html").exists() || !web.join("node_modules").exists() {
        assert!(std::env::var_os("CAUDAL_REQUIRE_PAGE").is_none(), "the page is not built: run `make page`");
        println!("not run: the page is not built (`make page`)");
        return;
    }
    let ground = Ground::with(Database::Sqlite, &[("CAUDAL_WEB_DIR", web.join("dist").to_str().unwrap())]);
    let dropped = Command::new("node")
        .arg(web.join("browser/drop.mjs"))
        .env("CAUDAL_GATEWAY", ground.system.ready("gateway"))
        .env("CAUDAL_API_KEY", ground.system.ready("api_key"))
        .output()
        .unwrap();
    assert!(
        dropped.status.success(),
        "{}{}",
        String::from_utf8_lossy(&dropped.stdout),
        String::from_utf8_lossy(&dropped.stderr)
    );
    ground.system.verify().unwrap();
}
