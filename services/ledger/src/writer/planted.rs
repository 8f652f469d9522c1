//! Panics where a test wants them, in builds with debug assertions only: what is proven with them is that one bad act harms
//! nobody else, and that a ledger without a writer leads nobody.

use std::sync::LazyLock;

use super::acts::Act;

/// Deciding to make a batch of this name panics; in tests of this crate one of the name `poison`.
static PANICS: LazyLock<Option<String>> = LazyLock::new(|| {
    if cfg!(test) {
        return Some("poison".to_owned());
    }
    std::env::var("CAUDAL_TEST_PANIC_ON_BATCH").ok()
});

/// The writer itself panics when it takes up an act that makes a batch of this name.
static ENDS_WRITER: LazyLock<Option<String>> =
    LazyLock::new(|| std::env::var("CAUDAL_TEST_END_WRITER_ON_BATCH").ok());

pub(super) fn panic_where_asked(act: &Act) {
    assert!(!makes(act, PANICS.as_deref()), "planted by a test");
}

pub(super) fn end_writer_where_asked(act: &Act) {
    assert!(!makes(act, ENDS_WRITER.as_deref()), "planted by a test");
}

fn makes(act: &Act, name: Option<&str>) -> bool {
    matches!((act, name), (Act::CreateBatch(act), Some(name)) if act.name == name)
}
