//! What is known of a file before anybody has looked into it: those that are alike in it take about as long.

/// The kind of a file, by the ending of its name. Kinds are only compared: two endings may rarely be one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileKind(u16);

impl FileKind {
    /// Kinds that there are at most; a number of them fits every database's smallest.
    const KINDS: u32 = 1 << 15;
    /// A longer ending is no ending: the name has a dot in it.
    const LONGEST_ENDING: usize = 12;

    /// Of a name or a path. Upper and lower case are the same; names without an ending are of one kind.
    pub(crate) fn of_name(name: &str) -> Self {
        let ending = match name.rsplit_once('.') {
            Some((before, ending)) if !before.is_empty() => ending,
            _ => return Self(0),
        };
        if ending.len() > Self::LONGEST_ENDING || ending.contains('/') {
            return Self(0);
        }
        // FNV-1a, which is the same in every build: it is stored.
        let hash = ending.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
        });
        Self::from_number(1 + hash % (Self::KINDS - 1))
    }

    /// As it is stored.
    pub(crate) fn number(self) -> u32 {
        self.0.into()
    }

    /// From what is stored; what is no kind is that of names without an ending.
    pub(crate) fn from_number(number: u32) -> Self {
        let known = u16::try_from(number).ok();
        Self(
            known
                .filter(|kind| u32::from(*kind) < Self::KINDS)
                .unwrap_or(0),
        )
    }
}

/// Kind and size of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    pub(crate) kind: FileKind,
    /// Bytes.
    pub(crate) size: u64,
}

#[cfg(test)]
impl Likeness {
    /// Of a file without an ending.
    pub(crate) fn sized(size: u64) -> Self {
        Self {
            kind: FileKind::default(),
            size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_of_a_kind_by_the_ending_of_their_names() {
        let kind = FileKind::of_name;
        assert_eq!(kind("a/b/Report.PDF"), kind("x.pdf"));
        assert_ne!(kind("a.pdf"), kind("a.html"));
        for without in [
            "README",
            ".profile",
            "v1.0/notes",
            "talk. with many words after it",
        ] {
            assert_eq!(kind(without), FileKind::default(), "{without}");
        }
        for name in ["a.pdf", "a.", "a.é", ""] {
            let kind = kind(name);
            assert_eq!(FileKind::from_number(kind.number()), kind);
        }
        assert_eq!(FileKind::from_number(u32::MAX), FileKind::default());
    }
}
