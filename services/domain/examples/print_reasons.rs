//! Prints the catalogue of reasons as Markdown: `docs/reasons.md` is made with it. `es` prints it in Spanish.

use caudal_domain::{Language, catalogue_markdown};

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    print!(
        "{}",
        catalogue_markdown(Language::from_accept_language(&wanted))
    );
}
