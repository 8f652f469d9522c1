//! The one catalogue of reasons why a file fails or is tried again. Pages, messages and the documentation come from it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::language::Language;
use crate::stage::Stage;

/// Why a file failed or is tried again. The numbers are stable: they are stored, and travel in packed columns.
/// 1xx its bytes, 2xx documents, 3xx images, 4xx providers, 5xx the execution, 6xx the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u16)]
pub enum Reason {
    /// No upload ended before the deadline.
    NeverArrived = 101,
    /// The object has another size than declared.
    SizeMismatch = 102,
    /// The object has another sha256 than declared.
    ChecksumMismatch = 103,
    /// The object is not the one that was confirmed (its `ETag` differs).
    ObjectChanged = 104,
    /// The object is not in the store.
    ObjectMissing = 105,
    /// The client could not send it and says why.
    LeftOutByClient = 106,
    /// The document's structure is broken.
    CorruptDocument = 201,
    /// The document needs a password.
    EncryptedDocument = 202,
    /// The document unpacks to more than is allowed.
    DocumentTooLarge = 203,
    /// The text is in no encoding that can be told.
    UnsupportedEncoding = 204,
    /// A document of a kind or version that cannot be read.
    UnsupportedDocument = 205,
    /// The image cannot be decoded.
    CorruptImage = 301,
    /// The image has more pixels than are allowed.
    ImageTooLarge = 302,
    /// An image of a kind that cannot be decoded.
    UnsupportedImage = 303,
    /// A provider does not answer.
    ProviderUnavailable = 401,
    /// A provider refuses this content.
    ProviderRejected = 402,
    /// A provider wants fewer requests.
    ProviderThrottled = 403,
    /// A provider does not accept the credentials.
    ProviderUnauthorized = 404,
    /// A provider's answer makes no sense.
    ProviderAnswerInvalid = 405,
    /// Reading the file took more memory than is allowed.
    ParserOutOfMemory = 501,
    /// Reading the file took more time than is allowed.
    ParserTimeout = 502,
    /// The program that reads the file ended by itself.
    ParserCrashed = 503,
    /// A stage made more than is allowed.
    OutputTooLarge = 504,
    /// The process that worked on the file was lost.
    WorkerLost = 505,
    /// The file was being worked on each of several times that a process was lost.
    TooManyKills = 506,
    /// A stage took longer than is allowed.
    StageTimeout = 507,
    /// The object store does not answer.
    StoreUnavailable = 601,
    /// The result of an earlier stage is not in the store.
    ArtifactMissing = 602,
    /// A process has no room left on its disk.
    DiskFull = 603,
    /// A fault of the system.
    Internal = 699,
}

struct Entry {
    code: &'static str,
    stage: Option<Stage>,
    retryable: bool,
    needs_bytes: bool,
    en: Told,
    es: Told,
}

struct Told {
    words: &'static str,
    remedy: &'static str,
}

impl Reason {
    /// Every reason, in the order of the numbers.
    pub const ALL: [Self; 30] = [
        Self::NeverArrived,
        Self::SizeMismatch,
        Self::ChecksumMismatch,
        Self::ObjectChanged,
        Self::ObjectMissing,
        Self::LeftOutByClient,
        Self::CorruptDocument,
        Self::EncryptedDocument,
        Self::DocumentTooLarge,
        Self::UnsupportedEncoding,
        Self::UnsupportedDocument,
        Self::CorruptImage,
        Self::ImageTooLarge,
        Self::UnsupportedImage,
        Self::ProviderUnavailable,
        Self::ProviderRejected,
        Self::ProviderThrottled,
        Self::ProviderUnauthorized,
        Self::ProviderAnswerInvalid,
        Self::ParserOutOfMemory,
        Self::ParserTimeout,
        Self::ParserCrashed,
        Self::OutputTooLarge,
        Self::WorkerLost,
        Self::TooManyKills,
        Self::StageTimeout,
        Self::StoreUnavailable,
        Self::ArtifactMissing,
        Self::DiskFull,
        Self::Internal,
    ];

    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.number() == number)
    }

    /// The stable code, `CORRUPT_DOCUMENT`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.entry().code
    }

    /// The reason with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The only stage that gives this reason; none where several do.
    #[must_use]
    pub const fn stage(self) -> Option<Stage> {
        self.entry().stage
    }

    /// Whether what was said with it is for operators alone: it is what a provider said to this installation, and may
    /// tell of its account, its addresses and of others.
    #[must_use]
    pub const fn is_for_operators(self) -> bool {
        matches!(
            self,
            Self::ProviderUnavailable
                | Self::ProviderRejected
                | Self::ProviderThrottled
                | Self::ProviderUnauthorized
                | Self::ProviderAnswerInvalid
        )
    }

    /// Whether the system tries again by itself.
    #[must_use]
    pub const fn retryable(self) -> bool {
        self.entry().retryable
    }

    /// Whether the bytes are missing or wrong, so that a replay begins with a new upload.
    #[must_use]
    pub const fn needs_bytes(self) -> bool {
        self.entry().needs_bytes
    }

    /// Whether no bytes ever came: those that come after all are taken, and none count as uploaded.
    #[must_use]
    pub const fn never_had_bytes(self) -> bool {
        matches!(self, Self::NeverArrived | Self::LeftOutByClient)
    }

    /// What happened, as a person reads it.
    #[must_use]
    pub const fn words(self, language: Language) -> &'static str {
        self.told(language).words
    }

    /// What to do next, as a person reads it.
    #[must_use]
    pub const fn remedy(self, language: Language) -> &'static str {
        self.told(language).remedy
    }

    const fn told(self, language: Language) -> Told {
        let entry = self.entry();
        match language {
            Language::En => entry.en,
            Language::Es => entry.es,
        }
    }

    const fn entry(self) -> Entry {
        match self {
            Self::NeverArrived => Entry {
                code: "NEVER_ARRIVED",
                stage: None,
                retryable: false,
                needs_bytes: true,
                en: Told {
                    words: "The file was announced but never arrived.",
                    remedy: "Retry it, then upload the file again.",
                },
                es: Told {
                    words: "El archivo se anunció, pero nunca llegó.",
                    remedy: "Reinténtelo y vuelva a subir el archivo.",
                },
            },
            Self::SizeMismatch => Entry {
                code: "SIZE_MISMATCH",
                stage: Some(Stage::Upload),
                retryable: false,
                needs_bytes: true,
                en: Told {
                    words: "What arrived is longer or shorter than the file that was announced.",
                    remedy: "Check that the file is not being changed, retry it and upload it again.",
                },
                es: Told {
                    words: "Lo que llegó es más largo o más corto que el archivo anunciado.",
                    remedy: "Compruebe que nadie esté modificando el archivo, reinténtelo y vuelva a subirlo.",
                },
            },
            Self::ChecksumMismatch => Entry {
                code: "CHECKSUM_MISMATCH",
                stage: Some(Stage::Upload),
                retryable: false,
                needs_bytes: true,
                en: Told {
                    words: "What arrived differs from the file that was announced.",
                    remedy: "Check that the file is not being changed, retry it and upload it again.",
                },
                es: Told {
                    words: "Lo que llegó no coincide con el archivo anunciado.",
                    remedy: "Compruebe que nadie esté modificando el archivo, reinténtelo y vuelva a subirlo.",
                },
            },
            Self::ObjectChanged => Entry {
                code: "OBJECT_CHANGED",
                stage: Some(Stage::Upload),
                retryable: false,
                needs_bytes: true,
                en: Told {
                    words: "The file was overwritten after its upload had been confirmed.",
                    remedy: "Retry it and upload the version you want, once.",
                },
                es: Told {
                    words: "El archivo se sobrescribió después de confirmarse su subida.",
                    remedy: "Reinténtelo y suba una sola vez la versión que desea.",
                },
            },
            Self::ObjectMissing => Entry {
                code: "OBJECT_MISSING",
                stage: Some(Stage::Upload),
                retryable: true,
                needs_bytes: true,
                en: Told {
                    words: "The uploaded file is no longer in the storage.",
                    remedy: "Retry it and upload the file again.",
                },
                es: Told {
                    words: "El archivo subido ya no está en el almacenamiento.",
                    remedy: "Reinténtelo y vuelva a subir el archivo.",
                },
            },
            Self::LeftOutByClient => Entry {
                code: "LEFT_OUT_BY_CLIENT",
                stage: None,
                retryable: false,
                needs_bytes: true,
                en: Told {
                    words: "The file could not be sent from where it was.",
                    remedy: "See to what the detail says, then upload the folder again into this batch; what has changed goes into a new one.",
                },
                es: Told {
                    words: "El archivo no se pudo enviar desde donde estaba.",
                    remedy: "Resuelva lo que dice el detalle y vuelva a subir la carpeta a este lote; lo que ha cambiado va en un lote nuevo.",
                },
            },
            Self::CorruptDocument => Entry {
                code: "CORRUPT_DOCUMENT",
                stage: Some(Stage::ExtractText),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "The document is damaged and cannot be read.",
                    remedy: "Open it on your computer, save it again and upload the new copy.",
                },
                es: Told {
                    words: "El documento está dañado y no se puede leer.",
                    remedy: "Ábralo en su equipo, guárdelo de nuevo y suba la copia nueva.",
                },
            },
            Self::EncryptedDocument => Entry {
                code: "ENCRYPTED_DOCUMENT",
                stage: Some(Stage::ExtractText),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "The document is protected by a password.",
                    remedy: "Save a copy without the password and upload that.",
                },
                es: Told {
                    words: "El documento está protegido con contraseña.",
                    remedy: "Guarde una copia sin contraseña y súbala.",
                },
            },
            Self::DocumentTooLarge => Entry {
                code: "DOCUMENT_TOO_LARGE",
                stage: Some(Stage::ExtractText),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "The document holds more than can be read at once.",
                    remedy: "Split it into smaller documents and upload those.",
                },
                es: Told {
                    words: "El documento contiene más de lo que se puede leer de una vez.",
                    remedy: "Divídalo en documentos más pequeños y súbalos.",
                },
            },
            Self::UnsupportedEncoding => Entry {
                code: "UNSUPPORTED_ENCODING",
                stage: Some(Stage::ExtractText),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "The text is written in a way that could not be recognised.",
                    remedy: "Save it as UTF-8 text and upload the new copy.",
                },
                es: Told {
                    words: "El texto está codificado de una forma que no se pudo reconocer.",
                    remedy: "Guárdelo como texto UTF-8 y suba la copia nueva.",
                },
            },
            Self::UnsupportedDocument => Entry {
                code: "UNSUPPORTED_DOCUMENT",
                stage: Some(Stage::ExtractText),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "This kind of document cannot be read.",
                    remedy: "Save it as PDF, DOCX or plain text and upload that.",
                },
                es: Told {
                    words: "Este tipo de documento no se puede leer.",
                    remedy: "Guárdelo como PDF, DOCX o texto sin formato y súbalo.",
                },
            },
            Self::CorruptImage => Entry {
                code: "CORRUPT_IMAGE",
                stage: Some(Stage::ImageProcessing),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "The image is damaged and cannot be opened.",
                    remedy: "Open it on your computer, save it again and upload the new copy.",
                },
                es: Told {
                    words: "La imagen está dañada y no se puede abrir.",
                    remedy: "Ábrala en su equipo, guárdela de nuevo y suba la copia nueva.",
                },
            },
            Self::ImageTooLarge => Entry {
                code: "IMAGE_TOO_LARGE",
                stage: Some(Stage::ImageProcessing),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "The image is wider or higher than is allowed.",
                    remedy: "Make it smaller and upload the new copy.",
                },
                es: Told {
                    words: "La imagen es más ancha o más alta de lo permitido.",
                    remedy: "Reduzca su tamaño y suba la copia nueva.",
                },
            },
            Self::UnsupportedImage => Entry {
                code: "UNSUPPORTED_IMAGE",
                stage: Some(Stage::ImageProcessing),
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "This kind of image cannot be opened.",
                    remedy: "Save it as PNG or JPEG and upload that.",
                },
                es: Told {
                    words: "Este tipo de imagen no se puede abrir.",
                    remedy: "Guárdela como PNG o JPEG y súbala.",
                },
            },
            Self::ProviderUnavailable => Entry {
                code: "PROVIDER_UNAVAILABLE",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "An outside service that is needed does not answer.",
                    remedy: "Retry it later; if it goes on, ask your operator to check the service.",
                },
                es: Told {
                    words: "Un servicio externo que se necesita no responde.",
                    remedy: "Reinténtelo más tarde; si continúa, pida a su operador que revise el servicio.",
                },
            },
            Self::ProviderRejected => Entry {
                code: "PROVIDER_REJECTED",
                stage: None,
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "An outside service refused the content of this file.",
                    remedy: "Check the content of the file, or leave this step out for it.",
                },
                es: Told {
                    words: "Un servicio externo rechazó el contenido de este archivo.",
                    remedy: "Revise el contenido del archivo u omita este paso para él.",
                },
            },
            Self::ProviderThrottled => Entry {
                code: "PROVIDER_THROTTLED",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "An outside service is too busy to take more work.",
                    remedy: "Retry it later; if it goes on, ask your operator for a higher limit.",
                },
                es: Told {
                    words: "Un servicio externo está demasiado ocupado para aceptar más trabajo.",
                    remedy: "Reinténtelo más tarde; si continúa, pida a su operador un límite mayor.",
                },
            },
            Self::ProviderUnauthorized => Entry {
                code: "PROVIDER_UNAUTHORIZED",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "An outside service did not accept our access key.",
                    remedy: "Ask your operator to renew the access key, then retry.",
                },
                es: Told {
                    words: "Un servicio externo no aceptó nuestra clave de acceso.",
                    remedy: "Pida a su operador que renueve la clave de acceso y reinténtelo.",
                },
            },
            Self::ProviderAnswerInvalid => Entry {
                code: "PROVIDER_ANSWER_INVALID",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "An outside service gave an answer that cannot be used.",
                    remedy: "Retry it; if it goes on, ask your operator to check the service.",
                },
                es: Told {
                    words: "Un servicio externo dio una respuesta que no se puede usar.",
                    remedy: "Reinténtelo; si continúa, pida a su operador que revise el servicio.",
                },
            },
            Self::ParserOutOfMemory => Entry {
                code: "PARSER_OUT_OF_MEMORY",
                stage: None,
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "Reading the file needs more memory than is allowed.",
                    remedy: "Make the file simpler or smaller and upload the new copy.",
                },
                es: Told {
                    words: "Leer el archivo requiere más memoria de la permitida.",
                    remedy: "Simplifique o reduzca el archivo y suba la copia nueva.",
                },
            },
            Self::ParserTimeout => Entry {
                code: "PARSER_TIMEOUT",
                stage: None,
                // Its bytes decide how much work it is, and they stay the same.
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "Reading the file took more work than is allowed.",
                    remedy: "Make the file simpler or smaller and upload the new copy.",
                },
                es: Told {
                    words: "Leer el archivo exigió más trabajo del permitido.",
                    remedy: "Simplifique o reduzca el archivo y suba la copia nueva.",
                },
            },
            Self::ParserCrashed => Entry {
                code: "PARSER_CRASHED",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "The file could not be read: the program that reads it stopped.",
                    remedy: "Open the file on your computer, save it again and upload the new copy.",
                },
                es: Told {
                    words: "El archivo no se pudo leer: el programa que lo lee se detuvo.",
                    remedy: "Abra el archivo en su equipo, guárdelo de nuevo y suba la copia nueva.",
                },
            },
            Self::OutputTooLarge => Entry {
                code: "OUTPUT_TOO_LARGE",
                stage: None,
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "The file unpacks to more than is allowed.",
                    remedy: "Split it into smaller files and upload those.",
                },
                es: Told {
                    words: "Al abrirse, el archivo ocupa más de lo permitido.",
                    remedy: "Divídalo en archivos más pequeños y súbalos.",
                },
            },
            Self::WorkerLost => Entry {
                code: "WORKER_LOST",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "The machine that worked on the file stopped.",
                    remedy: "Nothing to do: it is tried again by itself.",
                },
                es: Told {
                    words: "La máquina que trabajaba en el archivo se detuvo.",
                    remedy: "No tiene que hacer nada: se reintenta automáticamente.",
                },
            },
            Self::TooManyKills => Entry {
                code: "TOO_MANY_KILLS",
                stage: None,
                retryable: false,
                needs_bytes: false,
                en: Told {
                    words: "Work on this file stopped the machine several times, so it was given up.",
                    remedy: "Tell your operator; if the file opens on your computer, save it again and upload the new copy.",
                },
                es: Told {
                    words: "El trabajo en este archivo detuvo la máquina varias veces y se abandonó.",
                    remedy: "Avise a su operador; si el archivo se abre en su equipo, guárdelo de nuevo y suba la copia nueva.",
                },
            },
            Self::StageTimeout => Entry {
                code: "STAGE_TIMEOUT",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "Work on the file took longer than is allowed.",
                    remedy: "Retry it; if it fails again, tell your operator.",
                },
                es: Told {
                    words: "El trabajo en el archivo tardó más de lo permitido.",
                    remedy: "Reinténtelo; si vuelve a fallar, avise a su operador.",
                },
            },
            Self::StoreUnavailable => Entry {
                code: "STORE_UNAVAILABLE",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "The storage for files does not answer.",
                    remedy: "Retry it later; if it goes on, tell your operator.",
                },
                es: Told {
                    words: "El almacenamiento de archivos no responde.",
                    remedy: "Reinténtelo más tarde; si continúa, avise a su operador.",
                },
            },
            Self::ArtifactMissing => Entry {
                code: "ARTIFACT_MISSING",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "The result of an earlier step is not in the storage.",
                    remedy: "Retry it; if it fails again, tell your operator.",
                },
                es: Told {
                    words: "El resultado de un paso anterior no está en el almacenamiento.",
                    remedy: "Reinténtelo; si vuelve a fallar, avise a su operador.",
                },
            },
            Self::DiskFull => Entry {
                code: "DISK_FULL",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "There was no room left to work on the file.",
                    remedy: "Tell your operator to free some room, then retry.",
                },
                es: Told {
                    words: "No quedaba espacio para trabajar en el archivo.",
                    remedy: "Pida a su operador que libere espacio y reinténtelo.",
                },
            },
            Self::Internal => Entry {
                code: "INTERNAL",
                stage: None,
                retryable: true,
                needs_bytes: false,
                en: Told {
                    words: "Something went wrong on our side.",
                    remedy: "Retry it; if it fails again, tell your operator the name of the file and the time.",
                },
                es: Told {
                    words: "Algo falló de nuestro lado.",
                    remedy: "Reinténtelo; si vuelve a fallar, indique a su operador el nombre del archivo y la hora.",
                },
            },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_numbers_are_unique_and_read_back() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        let numbers: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.number()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert_eq!(numbers.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert_eq!(Reason::from_number(reason.number()), Some(reason));
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(json, format!("\"{reason}\""));
            assert_eq!(serde_json::from_str::<Reason>(&json).unwrap(), reason);
        }
        assert_eq!(Reason::from_number(0), None);
        assert_eq!(Reason::from_code("corrupt_document"), None);
    }

    #[test]
    fn numbers_once_given_stay() {
        // Stored in databases: a line may be added here, none may change.
        for (number, code) in [
            (101, "NEVER_ARRIVED"),
            (102, "SIZE_MISMATCH"),
            (103, "CHECKSUM_MISMATCH"),
            (104, "OBJECT_CHANGED"),
            (105, "OBJECT_MISSING"),
            (106, "LEFT_OUT_BY_CLIENT"),
            (201, "CORRUPT_DOCUMENT"),
            (202, "ENCRYPTED_DOCUMENT"),
            (203, "DOCUMENT_TOO_LARGE"),
            (204, "UNSUPPORTED_ENCODING"),
            (205, "UNSUPPORTED_DOCUMENT"),
            (301, "CORRUPT_IMAGE"),
            (302, "IMAGE_TOO_LARGE"),
            (303, "UNSUPPORTED_IMAGE"),
            (401, "PROVIDER_UNAVAILABLE"),
            (402, "PROVIDER_REJECTED"),
            (403, "PROVIDER_THROTTLED"),
            (404, "PROVIDER_UNAUTHORIZED"),
            (405, "PROVIDER_ANSWER_INVALID"),
            (501, "PARSER_OUT_OF_MEMORY"),
            (502, "PARSER_TIMEOUT"),
            (503, "PARSER_CRASHED"),
            (504, "OUTPUT_TOO_LARGE"),
            (505, "WORKER_LOST"),
            (506, "TOO_MANY_KILLS"),
            (507, "STAGE_TIMEOUT"),
            (601, "STORE_UNAVAILABLE"),
            (602, "ARTIFACT_MISSING"),
            (603, "DISK_FULL"),
            (699, "INTERNAL"),
        ] {
            assert_eq!(Reason::from_number(number).map(Reason::code), Some(code));
        }
    }

    #[test]
    fn words_and_remedy_are_sentences_that_fit_a_line_in_each_language() {
        const JARGON: [&str; 14] = [
            "etag", "sha256", "checksum", "null", "lease", "token", "worker", "parser", "oom",
            "http", "s3", "bucket", "object", "stage",
        ];
        for reason in Reason::ALL {
            for language in Language::ALL {
                for text in [reason.words(language), reason.remedy(language)] {
                    assert!(text.ends_with('.'), "{reason}: {text}");
                    assert!(
                        (20..=130).contains(&text.chars().count()),
                        "{reason}: {text}"
                    );
                    assert!(!text.contains('|'), "{reason}: it would break a table");
                    let lower = text.to_lowercase();
                    for word in JARGON {
                        let used = lower
                            .split(|c: char| !c.is_alphanumeric())
                            .any(|w| w == word);
                        assert!(!used, "{reason} says {word}: {text}");
                    }
                }
            }
            assert_ne!(reason.words(Language::En), reason.words(Language::Es));
            assert_ne!(reason.remedy(Language::En), reason.remedy(Language::Es));
        }
    }

    #[test]
    fn what_needs_new_bytes_tells_people_to_upload() {
        for reason in Reason::ALL
            .into_iter()
            .filter(|reason| reason.needs_bytes())
        {
            assert!(reason.remedy(Language::En).contains("upload"), "{reason}");
            assert!(reason.number() / 100 == 1, "{reason}");
        }
    }
}
