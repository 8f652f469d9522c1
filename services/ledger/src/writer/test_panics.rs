//! Panics where a test wants them, in builds with debug assertions only: what is proven with them is that one bad verb harms
//! nobody else, and that a ledger without a writer leads nobody.

use std::sync::LazyLock;

/// Deciding to make a batch of this name panics; in tests of this crate one of the name `poison`.
static PANICS: LazyLock<Option<String>> = LazyLock::new(|| {
    if cfg!(test) {
        return Some("poison".to_owned());
    }
    std::env::var("CAUDAL_TEST_PANIC_ON_BATCH").ok()
});

/// The writer itself panics when it takes up a verb that makes a batch of this name.
static ENDS_WRITER: LazyLock<Option<String>> =
    LazyLock::new(|| std::env::var("CAUDAL_TEST_END_WRITER_ON_BATCH").ok());

pub(super) fn panic_where_asked(name: Option<&str>) {
    assert!(!is(name, PANICS.as_deref()), "planted by a test");
}

pub(super) fn end_writer_where_asked(name: Option<&str>) {
    assert!(!is(name, ENDS_WRITER.as_deref()), "planted by a test");
}

fn is(name: Option<&str>, planted: Option<&str>) -> bool {
    name.is_some() && name == planted
}
