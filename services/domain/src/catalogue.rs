//! The catalogue of reasons and warnings as a page of documentation.

use std::fmt::Write;

use crate::language::Language;
use crate::outcome::WarningCode;
use crate::reason::Reason;
use crate::stage::Stage;

struct Headings {
    title: &'static str,
    introduction: &'static str,
    columns: [&'static str; 7],
    warnings: &'static str,
    warnings_introduction: &'static str,
    warning_columns: [&'static str; 3],
    any_stage: &'static str,
    yes: &'static str,
    no: &'static str,
}

const ENGLISH: Headings = Headings {
    title: "Why a file fails, and what to do",
    introduction: "Every reason that a file can have, from the catalogue in the code. The code and the number never change. \
A reason that is tried again by itself fails the file only when its attempts are used up. Where new bytes are needed, a \
retry waits for another upload; everywhere else it goes on with the file that is stored.",
    columns: [
        "Code",
        "Number",
        "Stage",
        "What happened",
        "What to do",
        "Tried again",
        "Needs new bytes",
    ],
    warnings: "Warnings",
    warnings_introduction: "A warning does not fail a file. It says what was not done to it; those marked PARTIAL show in the \
file's outcome, the others only inform.",
    warning_columns: ["Code", "What happened", "Outcome PARTIAL"],
    any_stage: "any",
    yes: "yes",
    no: "no",
};

const SPANISH: Headings = Headings {
    title: "Por qué falla un archivo y qué hacer",
    introduction: "Todos los motivos que puede tener un archivo, tomados del catálogo del código. El código y el número no cambian \
nunca. Un motivo que se reintenta automáticamente solo hace fallar el archivo cuando se agotan los intentos. Donde hacen falta \
bytes nuevos, el reintento espera otra subida; en los demás casos continúa con el archivo guardado.",
    columns: [
        "Código",
        "Número",
        "Etapa",
        "Qué pasó",
        "Qué hacer",
        "Se reintenta",
        "Necesita bytes nuevos",
    ],
    warnings: "Avisos",
    warnings_introduction: "Un aviso no hace fallar el archivo. Dice qué no se hizo con él; los marcados como PARTIAL se ven en el \
resultado del archivo, los demás solo informan.",
    warning_columns: ["Código", "Qué pasó", "Resultado PARTIAL"],
    any_stage: "cualquiera",
    yes: "sí",
    no: "no",
};

/// The whole catalogue as Markdown; `docs/reasons.md` is the English one.
#[must_use]
pub fn catalogue_markdown(language: Language) -> String {
    let headings = match language {
        Language::En => &ENGLISH,
        Language::Es => &SPANISH,
    };
    let said = |yes: bool| if yes { headings.yes } else { headings.no };

    let mut page = format!("# {}\n\n{}\n\n", headings.title, headings.introduction);
    push_row(&mut page, &headings.columns);
    push_row(&mut page, &["---"; 7]);
    for reason in Reason::ALL {
        push_row(
            &mut page,
            &[
                &format!("`{}`", reason.code()),
                &reason.number().to_string(),
                reason.stage().map_or(headings.any_stage, Stage::name),
                reason.words(language),
                reason.remedy(language),
                said(reason.retryable()),
                said(reason.needs_bytes()),
            ],
        );
    }

    page.push_str("\n## ");
    page.push_str(headings.warnings);
    page.push_str("\n\n");
    page.push_str(headings.warnings_introduction);
    page.push_str("\n\n");
    push_row(&mut page, &headings.warning_columns);
    push_row(&mut page, &["---"; 3]);
    for warning in WarningCode::ALL {
        push_row(
            &mut page,
            &[
                &format!("`{}`", warning.code()),
                warning.words(language),
                said(warning.makes_partial()),
            ],
        );
    }
    page
}

fn push_row(page: &mut String, cells: &[&str]) {
    page.push('|');
    for cell in cells {
        // Writing to a String cannot fail.
        let _ = write!(page, " {cell} |");
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_documented_reasons_are_those_of_the_catalogue() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reasons.md");
        let Ok(documented) = std::fs::read_to_string(page) else {
            return;
        };
        assert!(
            documented == catalogue_markdown(Language::En),
            "docs/reasons.md is out of date: cargo run -p caudal-domain --example print_reasons > docs/reasons.md"
        );
    }

    #[test]
    fn the_page_has_a_row_for_every_reason_and_warning_in_each_language() {
        for language in Language::ALL {
            let page = catalogue_markdown(language);
            for reason in Reason::ALL {
                assert!(page.contains(&format!("| `{reason}` | {} |", reason.number())));
                assert!(page.contains(reason.remedy(language)));
            }
            for warning in WarningCode::ALL {
                assert!(page.contains(&format!("| `{warning}` |")));
            }
            for row in page.lines().filter(|line| line.starts_with('|')) {
                let cells = row.matches('|').count() - 1;
                assert!(cells == 7 || cells == 3, "{row}");
            }
        }
    }
}
